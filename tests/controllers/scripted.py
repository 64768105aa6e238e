"""Tiny models whose scores are known by hand: what happens is written in the actions, or in the particle."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from controllers import PlanningProblem
from mbrl_wrappers.models import FunctionModel
from mbrl_wrappers.types import Prediction

UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SCALAR = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def scripted_model() -> FunctionModel:
    """An action ``(reward, terminates, next_obs)`` says what happens: the second when above one half."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs * 0 + action[:, 2:], action[:, 0], action[:, 1] > 0.5

    return FunctionModel(SCALAR, UNBOUNDED, step)


def scripted_problem(horizon: int, starts: int = 1, **options: Any) -> PlanningProblem[Any]:
    """Planning in :func:`scripted_model` from zeros."""
    return PlanningProblem(scripted_model(), th.zeros(starts, 1), horizon, **options)


class ScriptedBreaks:
    """Like :func:`scripted_model`, but a third entry of 1 to 4 makes obs NaN, obs -inf, the reward inf or NaN.

    Actions themselves stay finite, so that what the model does with them is what counts.
    """

    observation_space, action_space, device = SCALAR, UNBOUNDED, th.device("cpu")

    def reset(self, obs: Tensor, *, generator: Generator) -> Row:
        return Row(obs)

    def step(self, state: Row, action: Tensor, *, generator: Generator) -> tuple[Row, Prediction]:
        reward, ends, breaks = action.unbind(1)
        obs = th.where(breaks == 1, th.nan, th.where(breaks == 2, -th.inf, state.obs[:, 0] + 1))[:, None]
        reward = th.where(breaks == 3, th.inf, th.where(breaks == 4, th.nan, reward))
        return Row(th.nan_to_num(obs)), Prediction(obs, reward, ends > 0.5)


class Row(NamedTuple):
    """``obs (B, 1)``."""

    obs: Tensor


class Particle(NamedTuple):
    """``obs (B, 1)`` and the member ``(B,)`` a row follows."""

    obs: Tensor
    member: Tensor


class Members:
    """``x' = a x + u + noise`` with reward ``x'``: member ``i`` has the ``i``-th factor, dealt out in turn at reset.

    Args:
        factors: one per member.
        noise: standard deviation of every step.
    """

    observation_space, action_space, device = SCALAR, SCALAR, th.device("cpu")

    def __init__(self, *factors: float, noise: float = 0.0) -> None:
        self.factors, self.noise = th.tensor(factors), noise
        self.resets: list[Tensor] = []

    def reset(self, obs: Tensor, *, generator: Generator) -> Particle:
        self.resets.append(obs)
        return Particle(obs, th.arange(len(obs)) % len(self.factors))

    def step(self, state: Particle, action: Tensor, *, generator: Generator) -> tuple[Particle, Prediction]:
        return self._advance(state, action, th.randn(len(action), generator=generator))

    def _advance(self, state: Particle, action: Tensor, noise: Tensor) -> tuple[Particle, Prediction]:
        obs = state.obs * self.factors[state.member, None] + action + self.noise * noise[:, None]
        return state._replace(obs=obs), Prediction(obs, obs[:, 0], th.zeros(len(obs), dtype=th.bool))


class SharedMembers(Members):
    """The same, able to show every candidate the same noise."""

    def step_shared(
        self, state: Particle, action: Tensor, *, generator: Generator, groups: int
    ) -> tuple[Particle, Prediction]:
        noise = th.randn(len(action) // groups, generator=generator).repeat(groups)
        return self._advance(state, action, noise)


class SequenceMembers(Members):
    """The same, rolled in one call; stepping is forbidden."""

    def rollout(self, state: Particle, actions: Tensor, *, generator: Generator, groups: int = 1) -> Prediction:
        steps = []
        for t in range(actions.shape[1]):
            state, prediction = super().step(state, actions[:, t], generator=generator)
            steps.append(prediction)
        return Prediction(*(th.stack(column, 1) for column in zip(*steps, strict=True)))

    def step(self, state: Particle, action: Tensor, *, generator: Generator) -> tuple[Particle, Prediction]:
        raise AssertionError("a model that rolls sequences is not stepped")
