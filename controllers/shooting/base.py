"""What all shooting planners share: the loop of sampling, scoring and refitting, and the books they keep."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import torch as th
from torch import Generator, Tensor

from controllers.plan import Plan, PlanReport, WarmStart
from controllers.problem import PlanningProblem
from mbrl_wrappers.checks import at_least

D = TypeVar("D")

Returns = Literal["auto", "best", "mean"]
"""Which sequence a plan returns: the best candidate seen, the fitted mean, or the best exactly when the model is exact.

The best of many scores in a learned model is the one whose errors flatter most; the mean of the elites is steadier. In
a true model the best is simply better.
"""


class Fitted(NamedTuple):
    """The last iteration: ``candidates (N, P, H, A)``, ``scores (N, P)``, candidates that count ``(N,)``."""

    candidates: Tensor
    scores: Tensor
    sample_size: Tensor


class Ledger:
    """Scores candidates and remembers the best of each problem, and what it all cost.

    Args:
        problem: what candidates are scored in.
        warm: the sequence that the best has to beat; its value counts once it was scored.
        generators: gives the source of the model's draws for the next scoring.
    """

    def __init__(self, problem: PlanningProblem[Any], warm: WarmStart, generators: Callable[[], Generator]) -> None:
        self._problem, self._generators = problem, generators
        self._started = time.perf_counter()
        count = problem.num_problems
        self.best, self._known = warm.actions, warm.known
        self.best_value = th.full((count,), -th.inf, device=problem.device)
        self.warm_start_value = th.full((count,), th.nan, device=problem.device)
        self._num_invalid = self._model_calls = 0
        self._model_seconds = 0.0

    def score(self, candidates: Tensor, *, keep_graph: bool = False) -> Tensor:
        """Scores ``(N, P)`` of candidates ``(N, P, H, A)``, the first of the first call being the warm start."""
        started = time.perf_counter()
        graph = self._problem.score(candidates, generator=self._generators())
        scores = graph.detach()
        if not self._model_calls:
            self.warm_start_value = th.where(self._known, scores[:, 0], th.nan)
        self._model_seconds += time.perf_counter() - started
        self._model_calls += scores.numel() * self._problem.particles * self._problem.horizon
        self._num_invalid += int((scores == -th.inf).sum())
        value, place = scores.max(1)
        better = value > self.best_value
        chosen = candidates.detach()[th.arange(len(place), device=place.device), place]
        self.best = th.where(better[:, None, None], chosen, self.best)
        self.best_value = th.where(better, value, self.best_value.to(value.dtype))
        return graph if keep_graph else scores

    def report(self, fitted: Fitted, iterations: int) -> PlanReport:
        """The books, closed."""
        finite = fitted.scores.isfinite()
        mean = th.where(finite, fitted.scores, 0).sum(1) / finite.sum(1)  # NaN without any
        return PlanReport(
            warm_start_value=self.warm_start_value,
            best_value=self.best_value,
            mean_value=mean,
            effective_sample_size=fitted.sample_size,
            num_invalid=self._num_invalid,
            model_calls=self._model_calls,
            seconds=time.perf_counter() - self._started,
            model_seconds=self._model_seconds,
            iterations=iterations,
        )


@dataclass(frozen=True)
class ShootingPlanner(ABC, Generic[D]):
    """Samples sequences, scores them in the model, moves a distribution ``D`` towards the good ones, and repeats.

    The first candidate of the first iteration is the warm start, so the best candidate is never worse than it.

    Attributes:
        population: candidates per problem and iteration, ``P``.
        iterations: rounds of sampling and refitting.
        returns: which sequence is returned, see :data:`Returns`.
    """

    population: int
    iterations: int
    returns: Returns = "auto"

    def __post_init__(self) -> None:
        at_least("population", self.population)
        at_least("iterations", self.iterations)
        if self.returns not in get_args(Returns):
            raise ValueError(f"returns must be one of {get_args(Returns)}, got {self.returns!r}.")

    @th.no_grad()
    def plan(
        self, problem: PlanningProblem[Any], warm_start: WarmStart | Tensor | None = None, *, generator: Generator
    ) -> Plan:
        """Plan for every start; see :class:`~controllers.plan.Planner`."""
        warm = complete_warm_start(problem, warm_start)
        ledger = Ledger(problem, warm, lambda: generator)
        distribution = self._begin(problem, warm)
        fitted: Fitted | None = None
        for iteration in range(self.iterations):
            drawn = self._draw(problem, distribution, warm, fitted, iteration, generator)
            scores = ledger.score(drawn)
            distribution, fitted = self._fit(distribution, drawn, scores)
        assert fitted is not None
        actions, value = self._choose(problem, ledger, distribution)
        left = WarmStart(self._mode(distribution, ledger), th.ones_like(warm.known), self._kept(fitted, ledger))
        report = ledger.report(fitted, self.iterations)
        return Plan(actions, value, left, report, fitted.candidates, fitted.scores)

    def _choose(self, problem: PlanningProblem[Any], ledger: Ledger, distribution: D) -> tuple[Tensor, Tensor]:
        """The sequence to execute and its score: the mean where asked for and finite, else the best."""
        if self.returns == "best" or (self.returns == "auto" and problem.is_exact):
            return ledger.best, ledger.best_value
        best, best_value = ledger.best, ledger.best_value
        mode = self._mode(distribution, ledger)
        value = ledger.score(mode[:, None])[:, 0]
        usable = value.isfinite()
        return th.where(usable[:, None, None], mode, best), th.where(usable, value, best_value)

    @abstractmethod
    def _begin(self, problem: PlanningProblem[Any], warm: WarmStart) -> D:
        """The distribution before the first iteration."""

    @abstractmethod
    def _draw(
        self,
        problem: PlanningProblem[Any],
        distribution: D,
        warm: WarmStart,
        last: Fitted | None,
        iteration: int,
        generator: Generator,
    ) -> Tensor:
        """The candidates ``(N, P, H, A)`` of an iteration, the warm start first in iteration 0."""

    @abstractmethod
    def _fit(self, distribution: D, candidates: Tensor, scores: Tensor) -> tuple[D, Fitted]:
        """The distribution after an iteration."""

    @abstractmethod
    def _mode(self, distribution: D, ledger: Ledger) -> Tensor:
        """The sequence the distribution stands for, ``(N, H, A)``."""

    def _kept(self, last: Fitted, ledger: Ledger) -> Tensor:
        """Sequences ``(N, M, H, A)`` for the next plan to look at again: the best, which the mean may not contain."""
        return ledger.best[:, None]


def complete_warm_start(problem: PlanningProblem[Any], warm_start: WarmStart | Tensor | None) -> WarmStart:
    """The warm start with its gaps filled: rows without a known sequence start in the middle of the range.

    Elites of such rows, and elites and proposals that are not finite, become NaN: :func:`with_first` passes over them.

    Raises:
        ValueError: if its sequences do not have the problem's shape.
    """
    count, shape = problem.num_problems, problem.sequence_shape
    low, high = problem.bounds
    middle = problem.middle.expand(count, *shape)
    if warm_start is None:
        return WarmStart(middle, th.zeros(count, dtype=th.bool, device=problem.device))
    if isinstance(warm_start, Tensor):
        warm_start = WarmStart(warm_start, th.ones(len(warm_start), dtype=th.bool, device=warm_start.device))
    if warm_start.actions.shape != middle.shape:
        raise ValueError(
            f"The warm start must have shape {tuple(middle.shape)} (problems, horizon, model actions), got "
            f"{tuple(warm_start.actions.shape)}."
        )
    for name, part in (("elites", warm_start.elites), ("proposals", warm_start.proposals)):
        if part is not None and (part.ndim != 4 or (len(part), *part.shape[2:]) != (count, *shape)):
            wanted = f"({count}, M, {shape[0]}, {shape[1]})"
            raise ValueError(f"{name} of the warm start must have shape {wanted}, got {tuple(part.shape)}.")
    given = warm_start.actions.to(middle)
    known = warm_start.known.to(problem.device) & given.isfinite().all(2).all(1)

    def usable(sequences: Tensor | None, rows: Tensor) -> Tensor | None:
        """Sequences ``(N, M, H, A)`` inside the bounds, NaN where they are not finite or not of ``rows (N,)``."""
        if sequences is None:
            return None
        sequences = sequences.to(middle)
        finite = sequences.isfinite().all(3).all(2) & rows[:, None]
        return th.where(finite[:, :, None, None], sequences.clamp(low, high), th.nan)

    actions = th.where(known[:, None, None], given.clamp(low, high), middle)
    everywhere = th.ones_like(known)
    return WarmStart(actions, known, usable(warm_start.elites, known), usable(warm_start.proposals, everywhere))


def require_box(problem: PlanningProblem[Any], planner: object) -> None:
    """Raise a ``TypeError`` unless actions are continuous."""
    if problem.codec.groups:
        raise TypeError(
            f"{type(planner).__name__} plans continuous actions, and {problem.codec.action_space} is discrete: use "
            "CEM, RandomShooting or MCTS."
        )


def with_first(first: Tensor, others: Tensor) -> Tensor:
    """Candidates ``(N, P, H, A)`` whose first ones are replaced by ``first (N, M, H, A)``, except where that is NaN."""
    first = first[:, : others.shape[1]]
    count = first.shape[1]
    given = first.isfinite().all(3, keepdim=True).all(2, keepdim=True)
    return th.cat([th.where(given, first, others[:, :count]), others[:, count:]], 1)


def elites_of(candidates: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` best candidates ``(N, M, H, A)``, best first, and which of them are finite, ``(N, M)`` floats."""
    values, places = scores.topk(min(count, scores.shape[1]), dim=1)
    index = places[:, :, None, None].expand(-1, -1, *candidates.shape[2:])
    return candidates.gather(1, index), (values > -th.inf).to(candidates.dtype)
