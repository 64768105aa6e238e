"""``check_agreement``: known rewards and terminations against the live environment."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor

from mbrl_wrappers.function_checks import Confusion
from mbrl_wrappers.spaces import check_action_space, check_observation_space
from mbrl_wrappers.tasks.functions import TaskFunctions, task_functions

Policy = Callable[[NDArray[Any]], Any]
"""``policy(observation (O,)) -> action`` of the environment's action space."""


@dataclass(frozen=True)
class AgreementReport:
    """How far given functions agree with the steps of a real environment.

    Attributes:
        task: the environment.
        steps: how many steps were compared.
        reward_scale: mean absolute reward of the environment.
        reward_mean_error: mean absolute difference; None when there is no reward function.
        reward_max_error: the largest absolute difference; None when there is no reward function.
        terminations: None when there is no termination function.
        notes: what the functions' maker had to say.
    """

    task: str
    steps: int
    reward_scale: float
    reward_mean_error: float | None
    reward_max_error: float | None
    terminations: Confusion | None
    notes: tuple[str, ...] = ()

    def passed(self, tolerance: float = 1e-5) -> bool:
        """Whether every given function agrees: no reward error above ``tolerance``, no step wrongly ended or not.

        False when there was nothing to compare. A NaN error never passes.
        """
        if self.reward_max_error is None and self.terminations is None:
            return False
        reward = self.reward_max_error is None or self.reward_max_error <= tolerance
        return reward and (self.terminations is None or self.terminations.mismatches == 0)

    def __str__(self) -> str:
        """A few readable lines."""
        if self.reward_max_error is None or self.reward_mean_error is None:
            reward = "no function (to be learned)"
        else:
            reward = f"error {self.reward_mean_error:.2g} mean, {self.reward_max_error:.2g} max"
        reward += f"; mean |reward| {self.reward_scale:.3g}"
        ends = self.terminations
        if ends is None:
            termination = "no function (to be learned)"
        else:
            total = ends.true_positives + ends.false_negatives
            termination = f"{ends.mismatches} steps wrong ({ends.false_positives} false ends, "
            termination += f"{ends.false_negatives} of {total} true ends missed)"
        lines = [f"{self.task}: {self.steps} steps", f"  reward       {reward}", f"  termination  {termination}"]
        return "\n".join(lines + [f"  note         {note}" for note in self.notes])


def check_agreement(
    env: gymnasium.Env[Any, Any],
    functions: TaskFunctions | None = None,
    *,
    steps: int = 1000,
    seed: int = 0,
    policy: Policy | None = None,
    dtype: th.dtype = th.float64,
) -> AgreementReport:
    """Step the real environment and compare its rewards and terminations with the functions'.

    The environment's random stream is put back afterwards and a new episode begun; the sampler of its action space
    is not touched.

    Args:
        env: any environment with a one-dimensional float Box observation and Box or Discrete actions.
        functions: what to check; by default ``task_functions(env)``.
        steps: how many steps, over as many episodes as they make.
        seed: of the first reset and of the random actions.
        policy: maps an observation to an action; by default actions are random.
        dtype: what the functions compute in; float32 shows the error that a model works with.

    Raises:
        TypeError: a space that models do not support.
        ValueError: ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: at least one step is needed for a comparison.")
    check_observation_space(env.observation_space)
    check_action_space(env.action_space)
    functions = task_functions(env) if functions is None else functions
    obs, action, next_obs, rewards, ends = _collect(env, steps, seed, policy, dtype)
    mean_error = max_error = confusion = None
    if functions.reward_fn is not None:
        predicted = functions.reward_fn(obs, action, next_obs).detach().to(th.float64)
        error = (predicted - rewards).abs()
        mean_error, max_error = float(error.mean()), float(error.max())
    if functions.termination_fn is not None:
        confusion = Confusion.of(functions.termination_fn(obs, action, next_obs), ends)
    task = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    scale = float(rewards.abs().mean())
    return AgreementReport(task, steps, scale, mean_error, max_error, confusion, functions.notes)


def _collect(
    env: gymnasium.Env[Any, Any], steps: int, seed: int, policy: Policy | None, dtype: th.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Observations, actions, successors (``dtype``), rewards (float64) and terminations of real steps."""
    sampler = copy.deepcopy(env.action_space)
    sampler.seed(seed)
    stream = env.unwrapped.np_random
    rows: list[tuple[Any, Any, Any, float, bool]] = []
    obs, _ = env.reset(seed=seed)
    while len(rows) < steps:
        action = sampler.sample() if policy is None else policy(obs)
        # Copies, because an environment may write into the array that it returned or was given.
        before, taken = np.array(obs), np.array(action)
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((before, taken, np.array(obs), float(reward), bool(terminated)))
        if terminated or truncated:
            obs, _ = env.reset()
    env.unwrapped.np_random = stream
    env.reset()
    before, taken, after, rewards, ends = (np.stack(column) for column in zip(*rows, strict=True))
    actions = th.as_tensor(taken)
    if actions.is_floating_point():
        actions = actions.reshape(steps, -1).to(dtype)
    return (
        th.as_tensor(before, dtype=dtype),
        actions,
        th.as_tensor(after, dtype=dtype),
        th.tensor(rewards),
        th.tensor(ends),
    )
