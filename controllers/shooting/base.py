"""Base class of the shooting planners: the loop of sampling, scoring and refitting, and its best candidates."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import torch as th
from torch import Generator, Tensor

from controllers.plan import Plan, PlanReport, WarmStart
from controllers.problem import Evaluation, PlanningProblem
from controllers.spread import return_spread
from mbrl_wrappers.checks import at_least
from mbrl_wrappers.seeding import draw_seed, torch_generator

D = TypeVar("D")

Returns = Literal["auto", "best", "mean"]
"""Which sequence a plan returns: the best candidate, the mean of the fitted distribution, or what the model suggests.

``"auto"`` returns the best candidate in an exact model and the mean in a learned one. The best of many candidates in a
learned model tends to be one whose return the model overestimates; the mean of the elites depends less on such errors.
"""


class Fitted(NamedTuple):
    """The last iteration: ``candidates (N, P, H, A)``, ``scores (N, P)``, candidates that count ``(N,)``."""

    candidates: Tensor
    scores: Tensor
    sample_size: Tensor


class Scored(NamedTuple):
    """One sequence per problem: ``actions (N, H, A)``, score ``value (N,)`` and ``returns (N, K)`` of its particles."""

    actions: Tensor
    value: Tensor
    returns: Tensor

    def replaced(self, where: Tensor, other: Scored) -> Scored:
        """These sequences with those of ``other`` in the problems ``where (N,)`` bool."""
        return Scored(
            th.where(where[:, None, None], other.actions.to(self.actions), self.actions),
            th.where(where, other.value, self.value.to(other.value)),
            th.where(where[:, None], other.returns, self.returns.to(other.returns)),
        )


class Ledger:
    """Scores the candidates of one plan, keeps the best of each problem, and counts what it cost.

    All batches are scored with the same draws of the model, so that scores of different iterations can be compared.

    Args:
        problem: what candidates are scored in.
        warm: the warm start, which is the first candidate of the first batch.
        seed: of the model's draws.

    Attributes:
        best: the best candidate of each problem so far; the warm start with value minus infinity before the first.
        warm_start_value: ``(N,)`` its score, NaN before the first batch and where there is no warm start.
    """

    def __init__(self, problem: PlanningProblem[Any], warm: WarmStart, seed: int) -> None:
        self._problem, self._seed = problem, seed
        self._started = time.perf_counter()
        nothing = th.full((problem.num_problems,), -th.inf, device=problem.device)
        self.best = Scored(warm.actions, nothing, nothing[:, None].expand(-1, problem.particles))
        self._known, self.warm_start_value = warm.known, th.full_like(nothing, th.nan)
        self._members: Tensor | None = None
        self._num_invalid = self._model_calls = 0
        self._model_seconds = 0.0

    def score(self, candidates: Tensor) -> Tensor:
        """Scores ``(N, P)`` of candidates ``(N, P, H, A)``, with the graph of a differentiable model."""
        return self._evaluated(candidates).scores

    def score_one(self, actions: Tensor) -> Scored:
        """One sequence ``(N, H, A)`` per problem with its score."""
        found = self._evaluated(actions[:, None])
        return Scored(actions, found.scores[:, 0], found.returns[:, 0])

    def _evaluated(self, candidates: Tensor) -> Evaluation:
        started = time.perf_counter()
        generator = torch_generator(self._seed, self._problem.device)
        found = self._problem.evaluate(candidates, generator=generator)
        scores = found.scores.detach()
        if not self._model_calls:
            self.warm_start_value = th.where(self._known, scores[:, 0], th.nan)
        self._model_seconds += time.perf_counter() - started
        self._model_calls += scores.numel() * self._problem.particles * self._problem.horizon
        self._num_invalid += int((scores == -th.inf).sum())
        self._members = found.members
        value, place = scores.max(1)
        rows = th.arange(len(place), device=place.device)
        best = Scored(candidates.detach()[rows, place], value, found.returns.detach()[rows, place])
        self.best = self.best.replaced(value > self.best.value, best)
        return found

    def report(self, chosen: Scored, last: Fitted, iterations: int) -> PlanReport:
        """What the plan that executes ``chosen`` cost, and how its candidates compare."""
        finite = last.scores.isfinite()
        mean = th.where(finite, last.scores, 0).sum(1) / finite.sum(1)  # NaN without any
        return PlanReport(
            warm_start_value=self.warm_start_value,
            best_value=self.best.value,
            mean_value=mean,
            effective_sample_size=last.sample_size,
            num_invalid=self._num_invalid,
            model_calls=self._model_calls,
            seconds=time.perf_counter() - self._started,
            model_seconds=self._model_seconds,
            iterations=iterations,
            spread=return_spread(chosen.returns, self._members),
        )


@dataclass(frozen=True)
class ShootingPlanner(ABC, Generic[D]):
    """Samples action sequences from a distribution ``D``, scores them in the model, refits ``D``, and repeats.

    The first candidate of the first iteration is the warm start, and all iterations use the same draws of the model.
    So the best candidate never scores below the warm start: in a deterministic model for certain, in a stochastic one
    on the draws of this plan, which are those of ``particles`` rows; their mean return may still differ from what the
    model expects. A model that draws anew for every candidate (stochastic, but no
    :class:`~mbrl_wrappers.types.SharedNoiseModel`) guarantees neither.

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
        ledger = Ledger(problem, warm, _seed_of_draws(generator))
        distribution = self._begin(problem, warm)
        fitted: Fitted | None = None
        for iteration in range(self.iterations):
            drawn = self._draw(problem, distribution, warm, fitted, iteration, generator)
            scores = ledger.score(drawn)
            distribution, fitted = self._fit(distribution, drawn, scores)
        assert fitted is not None
        chosen = self._choose(problem, ledger, distribution)
        left = WarmStart(self._mode(distribution, ledger), th.ones_like(warm.known), self._kept(fitted, ledger))
        report = ledger.report(chosen, fitted, self.iterations)
        return Plan(chosen.actions, chosen.value, left, report, fitted.candidates, fitted.scores)

    def _choose(self, problem: PlanningProblem[Any], ledger: Ledger, distribution: D) -> Scored:
        """The sequence to execute: the mean where asked for and finite, else the best."""
        best = ledger.best
        if self.returns == "best" or (self.returns == "auto" and problem.is_exact):
            return best
        mean = ledger.score_one(self._mode(distribution, ledger))
        return mean.replaced(~mean.value.isfinite(), best)

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
        """The mean of a Gaussian distribution or the most likely sequence of a categorical one, ``(N, H, A)``."""

    def _kept(self, last: Fitted, ledger: Ledger) -> Tensor:
        """Sequences ``(N, M, H, A)`` among the first candidates of the next plan: the best one of this plan."""
        return ledger.best.actions[:, None]


def _seed_of_draws(generator: Generator) -> int:
    """A seed for the model's draws, derived from ``generator`` without changing its state."""
    twin = Generator(generator.device)
    twin.set_state(generator.get_state())
    return draw_seed(twin)


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
