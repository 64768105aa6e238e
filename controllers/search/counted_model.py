"""A problem's model as a tree search uses it: it counts transitions and seconds."""

from __future__ import annotations

import time
from typing import Any, Generic, TypeVar

import torch as th
from torch import Generator, Tensor

from controllers.problem import PlanningProblem
from controllers.validity import valid_rows
from mbrl_wrappers.rows import num_rows, take_rows
from mbrl_wrappers.types import MemberModel, Prediction, SequenceModel

S = TypeVar("S")


class CountedModel(Generic[S]):
    """Steps and rolls the model of a problem, draws from one generator, counts transitions and seconds.

    Args:
        problem: whose model.
        generator: source of the model's draws.

    Attributes:
        limits: of the model, at the beginning of the plan, widened to contain all starts.
        calls: transitions predicted.
        seconds: wall time spent in the model.
    """

    def __init__(self, problem: PlanningProblem[S], generator: Generator) -> None:
        self.problem, self.generator = problem, generator
        self.model: Any = problem.model
        self.limits = problem.limits
        self.calls, self.seconds = 0, 0.0

    @property
    def rolls_whole(self) -> bool:
        """Whether the model rolls whole sequences faster than step by step."""
        return isinstance(self.model, SequenceModel)

    def starts(self, copies: int) -> S:
        """``N * copies`` states of the starts, those of one problem side by side.

        Copies of an observation are reset each by itself; members of the model are dealt out evenly to them.
        """
        start = self.problem.start
        each = th.arange(self.problem.num_problems, device=self.problem.device).repeat_interleave(copies)
        if not isinstance(start, Tensor):
            return take_rows(start, each)
        state: S
        if isinstance(self.model, MemberModel):
            state = self.model.reset_particles(start, copies, generator=self.generator)
        else:
            state = self.model.reset(start[each], generator=self.generator)
        return state

    def step(self, state: S, action: Tensor) -> tuple[S, Prediction]:
        """Advance every row with model actions ``(B, A)``."""
        started = time.perf_counter()
        state, prediction = self.model.step(state, action, generator=self.generator)
        self._count(started, len(action))
        return state, prediction.shaped((len(action),), self.model.observation_space.shape[0])

    def roll(self, state: S, actions: Tensor) -> Prediction:
        """Predictions ``(B, T, ...)`` of model actions ``(B, T, A)``."""
        started = time.perf_counter()
        if self.rolls_whole:
            whole: Prediction = self.model.rollout(state, actions, generator=self.generator)
        else:
            steps = []
            for t in range(actions.shape[1]):
                state, prediction = self.model.step(state, actions[:, t], generator=self.generator)
                steps.append(prediction)
            whole = Prediction(*(th.stack(fields, 1) for fields in zip(*steps, strict=True)))
        self._count(started, num_rows(actions) * actions.shape[1])
        return whole.shaped((len(actions), actions.shape[1]), self.model.observation_space.shape[0])

    def valid(self, prediction: Prediction) -> Tensor:
        """Which rows of a prediction are finite and inside the model's limits, ``(B,)`` or ``(B, T)`` bool."""
        return valid_rows(prediction, self.limits)

    def _count(self, started: float, transitions: int) -> None:
        self.seconds += time.perf_counter() - started
        self.calls += transitions
