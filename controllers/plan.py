"""Plans: what planners return, and what the next plan starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch as th
from torch import Generator, Tensor

from controllers.problem import PlanningProblem
from controllers.spread import ReturnSpread
from mbrl_wrappers.objects import Objects
from mbrl_wrappers.rows import put_rows


class PlannerMemory(Protocol):
    """What a planner needs from its previous plan besides sequences, such as a search tree; never changed in place."""

    def shifted(self, steps: int) -> PlannerMemory:
        """The memory once ``steps`` more actions of the plan have been executed."""
        ...


class WarmStart(NamedTuple):
    """Sequences and memory that one plan passes to the next, in model actions.

    Attributes:
        actions: ``(N, H, A)`` the sequence to start from.
        known: ``(N,)`` bool, False where a row has no previous plan; its entries are then not read.
        elites: ``(N, M, H, A)`` good sequences of the previous plan, or None.
        proposals: ``(N, M, H, A)`` sequences that an agent's policy takes inside the model, or None.
        memory: ``(N,)`` what else the planner needs from its previous plan, such as a search tree; None where a row has
            nothing. Only the planner that wrote it reads it.
    """

    actions: Tensor
    known: Tensor
    elites: Tensor | None = None
    proposals: Tensor | None = None
    memory: Objects[PlannerMemory | None] | None = None

    def firsts(self) -> Tensor:
        """The first candidates of a plan: warm start, elites and proposals, ``(N, M, H, A)``."""
        first = self.actions[:, None]
        return th.cat([first, *(part.to(first) for part in (self.elites, self.proposals) if part is not None)], 1)

    def take(self, rows: Tensor) -> WarmStart:
        """The problems ``rows`` (int64), without proposals, which belong to a single plan."""
        elites = None if self.elites is None else self.elites[rows]
        memory = None if self.memory is None else self.memory[rows]
        return WarmStart(self.actions[rows], self.known[rows], elites, memory=memory)

    def shifted(self, steps: int, problem: PlanningProblem[Any]) -> WarmStart:
        """The same sequences once ``steps`` of their actions have been executed, filled up at the end."""
        shifted = self._mapped(lambda actions: _filled_up(actions, steps, actions.shape[-2], problem))
        if self.memory is None:
            return shifted
        return shifted._replace(memory=Objects([None if row is None else row.shifted(steps) for row in self.memory]))

    def extended(self, length: int, problem: PlanningProblem[Any]) -> WarmStart:
        """Sequences filled up to at least ``length`` steps.

        Box actions are filled up with the middle of their range, one-hot actions with their last row.
        """
        return self._mapped(lambda actions: _filled_up(actions, 0, length, problem))

    def cut(self, length: int) -> WarmStart:
        """The first ``length`` steps."""
        return self._mapped(lambda actions: actions[..., :length, :])

    def replaced(self, rows: Tensor, new: WarmStart) -> WarmStart:
        """These sequences with ``rows`` (int64) taken from ``new``, whose elites decide how many there are."""
        elites = None
        if new.elites is not None:
            elites = self.elites
            if elites is None or elites.shape[1:] != new.elites.shape[1:]:
                # Rows that are not replaced keep their sequence in place of elites of another number.
                elites = self.actions[:, None].expand(-1, new.elites.shape[1], -1, -1)
            elites = elites.index_copy(0, rows, new.elites.to(elites))
        memory = new.memory
        if memory is not None:
            nothing: Objects[PlannerMemory | None] = Objects([None] * len(self.known))
            memory = put_rows(nothing if self.memory is None else self.memory, rows, memory)
        return WarmStart(
            self.actions.index_copy(0, rows, new.actions.to(self.actions)),
            self.known.index_copy(0, rows, new.known),
            elites,
            memory=memory,
        )

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> WarmStart:
        elites = None if self.elites is None else function(self.elites)
        proposals = None if self.proposals is None else function(self.proposals)
        return WarmStart(function(self.actions), self.known, elites, proposals, self.memory)


def _filled_up(actions: Tensor, skipped: int, length: int, problem: PlanningProblem[Any]) -> Tensor:
    """``actions (..., H, A)`` without the first ``skipped``, brought to at least ``length`` steps."""
    last = actions[..., -1:, :]
    tail = last if problem.codec.groups else problem.middle.to(actions).expand_as(last)
    left = actions[..., skipped:, :]
    missing = max(0, length - left.shape[-2])
    return th.cat([left, tail.expand(*tail.shape[:-2], missing, -1)], -2)


class PlanReport(NamedTuple):
    r"""What a plan cost and how its candidates compare; ``(N,)`` tensors have one value per problem, NaN for none.

    Attributes:
        warm_start_value: score of the warm start.
        best_value: the best score of all candidates.
        mean_value: mean score of the last iteration's finite candidates.
        effective_sample_size: candidates that carry the result: :math:`1 / \sum w^2` with MPPI's weights, CEM's elites.
        num_invalid: candidates that failed, all problems together: not finite, or outside of the model's limits.
        model_calls: transitions predicted, all rows of all problems together.
        seconds: wall time of the whole plan.
        model_seconds: the part of it spent in scoring.
        converged: for methods that know: whether they met their tolerance, ``(N,)`` bool; None otherwise.
        iterations: improvement steps taken.
        spread: standard deviation of the particles' returns for the sequence to execute, split into disagreement
            between the members of the model and noise; None for planners that follow a single row.
    """

    warm_start_value: Tensor
    best_value: Tensor
    mean_value: Tensor
    effective_sample_size: Tensor
    num_invalid: int
    model_calls: int
    seconds: float
    model_seconds: float
    converged: Tensor | None = None
    iterations: int = 0
    spread: ReturnSpread | None = None


class Plan(NamedTuple):
    """The outcome of planning.

    Attributes:
        actions: model actions ``(N, H, A)`` to execute, inside the bounds.
        value: ``(N,)`` their score in the model.
        next_start: what the next plan should start from, not yet shifted.
        report: what it cost.
        candidates: ``(N, P, H, A)`` the sequences of the last iteration.
        scores: ``(N, P)`` of these.
    """

    actions: Tensor
    value: Tensor
    next_start: WarmStart
    report: PlanReport
    candidates: Tensor
    scores: Tensor


class Planner(Protocol):
    """Turns a problem into a plan; a planner has settings only and keeps nothing from plan to plan."""

    def plan(
        self, problem: PlanningProblem[Any], warm_start: WarmStart | Tensor | None = None, *, generator: Generator
    ) -> Plan:
        """Plan for every start.

        Args:
            problem: what to maximise.
            warm_start: what to start from, shifted already; a bare tensor ``(N, H, A)`` is known for all rows.
            generator: source of every draw, on the model's device.
        """
        ...
