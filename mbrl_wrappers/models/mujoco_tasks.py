"""What a step of a MuJoCo task observes, pays and ends, for many simulated states at once.

Only for tasks in which the positions and velocities before and after the step say everything; the formulas repeat the
arithmetic of gymnasium/envs/mujoco/*_v5.py in the same order and precision, so that results are equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray

from mbrl_wrappers.tasks.locomotion import LocomotionReward
from mbrl_wrappers.tasks.recipes import RECIPES
from mbrl_wrappers.tasks.rewards import AliveReward
from mbrl_wrappers.tasks.rules import Healthy, never_terminates
from mbrl_wrappers.tasks.wrappers import HIDDEN_POSITIONS, class_name

Array = NDArray[Any]


class SimulatedStep(NamedTuple):
    """``obs (..., O)``, ``reward (...)`` and ``terminated (...)`` of steps."""

    obs: Array
    reward: Array
    terminated: Array


class StepFormula(Protocol):
    """The outcome of steps as a function of states."""

    def obs(self, qpos: Array, qvel: Array) -> Array:
        """``(..., O)`` of positions ``(..., nq)`` and velocities ``(..., nv)``."""
        ...

    def __call__(self, x: Array, qpos: Array, qvel: Array, action: Array) -> SimulatedStep:
        """The step from the first coordinate ``x (...)`` to ``qpos``, ``qvel`` with ``action (..., A)``."""
        ...


@dataclass(frozen=True)
class RunnerFormula:
    """HalfCheetah, Hopper, Walker2d and Swimmer: forward velocity, health, control cost."""

    hidden: int
    clip: float | None
    dt: float
    forward_weight: float
    ctrl_weight: float
    health_weight: float
    healthy: Healthy | None
    ends: bool

    def obs(self, qpos: Array, qvel: Array) -> Array:
        """``[qpos, qvel]`` without the first coordinates if they are hidden, velocities clipped in two tasks."""
        velocity = qvel if self.clip is None else np.clip(qvel, -self.clip, self.clip)
        return np.concatenate([qpos[..., self.hidden :], velocity], -1)

    def __call__(self, x: Array, qpos: Array, qvel: Array, action: Array) -> SimulatedStep:
        """See :class:`StepFormula`."""
        reward = self.forward_weight * ((qpos[..., 0] - x) / self.dt)
        terminated = np.zeros(reward.shape, bool)
        if self.healthy is not None:
            unclipped = np.concatenate([qpos[..., self.hidden :], qvel], -1)
            healthy = _judge(self.healthy, unclipped)
            reward = reward + healthy * self.health_weight
            terminated = ~healthy if self.ends else terminated
        # The environments sum float32 actions in float32; whether the weight widens them depends on numpy's version.
        cost = np.square(action).sum(-1)
        cost = self.ctrl_weight * cost.astype(np.result_type(self.ctrl_weight * cost.dtype.type(1)))
        return SimulatedStep(self.obs(qpos, qvel), reward - cost, terminated)


@dataclass(frozen=True)
class PoleFormula:
    """InvertedPendulum: one for each step that does not fall."""

    healthy: Healthy

    def obs(self, qpos: Array, qvel: Array) -> Array:
        """``[qpos, qvel]``."""
        return np.concatenate([qpos, qvel], -1)

    def __call__(self, x: Array, qpos: Array, qvel: Array, action: Array) -> SimulatedStep:
        """See :class:`StepFormula`."""
        obs = self.obs(qpos, qvel)
        healthy = _judge(self.healthy, obs)
        return SimulatedStep(obs, healthy.astype(np.float64), ~healthy)


def _judge(healthy: Healthy, rows: Array) -> Array:
    """``healthy`` for rows with any number of leading axes, ``(..., O)`` to ``(...)``."""
    flat = th.from_numpy(rows.reshape(-1, rows.shape[-1]))
    judged: Array = healthy(flat).numpy().reshape(rows.shape[:-1])
    return judged


def step_formula(env: Any) -> StepFormula | None:
    """The formula of a task, recognised by its exact class, read from the unwrapped ``env``; None if there is none."""
    name = class_name(env)
    task = name.rsplit(".", 1)[1]
    if name not in RECIPES or task not in {
        "HalfCheetahEnv",
        "HopperEnv",
        "Walker2dEnv",
        "SwimmerEnv",
        "InvertedPendulumEnv",
    }:
        return None
    recipe = RECIPES[name](env, None)
    if isinstance(recipe.reward, AliveReward):
        return PoleFormula(recipe.reward.healthy)
    assert isinstance(recipe.reward, LocomotionReward)
    healthy = recipe.reward.healthy
    return RunnerFormula(
        hidden=HIDDEN_POSITIONS[name] if env._exclude_current_positions_from_observation else 0,
        clip=10.0 if task in ("HopperEnv", "Walker2dEnv") else None,
        dt=env.dt,
        forward_weight=env._forward_reward_weight,
        ctrl_weight=env._ctrl_cost_weight,
        health_weight=0.0 if healthy is None else env._healthy_reward,
        healthy=healthy,
        ends=recipe.termination != never_terminates,
    )
