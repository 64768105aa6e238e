"""Proposals: action sequences that a policy takes inside the model, as candidates of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Generator, Tensor

from controllers.problem import PlanningProblem
from controllers.validity import valid_rows
from mbrl_wrappers.checks import at_least
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.types import RolloutPolicy


@dataclass(frozen=True)
class Proposals:
    """Sequences that a policy takes inside the model, as candidates of every plan (TD-MPC, Hansen et al. 2022).

    Attributes:
        policy: for example an SB3 agent as :class:`sb3_ext.AgentPolicy`.
        count: sequences per plan.
    """

    policy: RolloutPolicy
    count: int = 8

    def __post_init__(self) -> None:
        at_least("count", self.count)
        if not callable(self.policy):
            raise TypeError(
                f"policy must be a function of observations, got {type(self.policy).__name__}: wrap an SB3 agent as "
                "sb3_ext.AgentPolicy(agent)."
            )

    @th.no_grad()
    def draw(self, problem: PlanningProblem[Any], *, generator: Generator) -> Tensor:
        """Action sequences ``(N, count, H, A)`` that the policy takes in the problem's model, inside the bounds.

        The policy sees each prediction of its own rollout. Where one is not finite or outside of the model's limits, it
        sees the last valid observation again. Where an action is not finite, the middle of the range is taken.

        Raises:
            ValueError: for actions of another shape than ``(N * count, A)``, and for a start without observations.
        """
        (low, high), size = problem.bounds, problem.codec.size
        each = th.arange(problem.num_problems, device=problem.device).repeat_interleave(self.count)
        limits = problem.limits_of(each)
        rows = _observed_start(problem).repeat_interleave(self.count, 0)
        obs = rows.float()
        if isinstance(problem.start, Tensor):
            state = problem.model.reset(rows, generator=generator)
        else:
            state = take_rows(problem.start, each)
        taken = []
        for _ in range(problem.horizon):
            action = self.policy(obs, generator=generator)
            if action.shape != (len(obs), size):
                wanted = f"({len(obs)}, {size})"
                raise ValueError(f"policy must return model actions of shape {wanted}, got {tuple(action.shape)}.")
            action = th.where(action.isfinite().all(1, keepdim=True), action.to(low), problem.middle).clamp(low, high)
            taken.append(action)
            state, prediction = problem.model.step(state, action, generator=generator)
            prediction = prediction.shaped((len(obs),), obs.shape[1])
            obs = th.where(valid_rows(prediction, limits)[:, None], prediction.next_obs.float(), obs)
        proposed: Tensor = th.stack(taken, 1).unflatten(0, (problem.num_problems, self.count))
        return proposed


def _observed_start(problem: PlanningProblem[Any]) -> Tensor:
    """The observations ``(N, O)`` that a problem starts from."""
    obs = problem.start if isinstance(problem.start, Tensor) else getattr(problem.start, "obs", None)
    if not isinstance(obs, Tensor):
        raise ValueError("A policy proposes from observations: the start state has none, pass observations instead.")
    return obs
