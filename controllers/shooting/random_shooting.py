"""Random shooting: the best of many uniform sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Generator, Tensor

from controllers.plan import WarmStart
from controllers.problem import PlanningProblem
from controllers.shooting.base import Fitted, Ledger, Returns, ShootingPlanner, with_first
from controllers.shooting.distributions import CategoricalSequences


@dataclass(frozen=True)
class RandomShooting(ShootingPlanner[None]):
    """Scores uniform sequences and returns the best (Nagabandi et al. 2018, section 4.3).

    A baseline for other planners: sufficient for small tasks, ineffective in many dimensions. Unbounded dimensions are
    drawn from a standard normal.

    Attributes:
        population: sequences drawn, the warm start among them.
        iterations: batches drawn, independent of each other.
        returns: the best, always.
    """

    population: int = 1000
    iterations: int = 1
    returns: Returns = "best"

    def _begin(self, problem: PlanningProblem[Any], warm: WarmStart) -> None:
        return None

    def _draw(
        self,
        problem: PlanningProblem[Any],
        distribution: None,
        warm: WarmStart,
        last: Fitted | None,
        iteration: int,
        generator: Generator,
    ) -> Tensor:
        drawn = uniform_sequences(problem, self.population, generator=generator)
        return with_first(warm.firsts(), drawn) if iteration == 0 else drawn

    def _fit(self, distribution: None, candidates: Tensor, scores: Tensor) -> tuple[None, Fitted]:
        return None, Fitted(candidates, scores, th.ones_like(scores[:, 0]))

    def _mode(self, distribution: None, ledger: Ledger) -> Tensor:
        return ledger.best.actions


def uniform_sequences(problem: PlanningProblem[Any], count: int, *, generator: Generator) -> Tensor:
    """``(N, count, H, A)`` model actions, uniform over bounded ranges, normal around the default action over others."""
    if problem.codec.groups:
        nowhere = WarmStart(
            th.zeros(problem.num_problems, *problem.sequence_shape, device=problem.device),
            th.zeros(problem.num_problems, dtype=th.bool, device=problem.device),
        )
        return CategoricalSequences.around(problem, nowhere, 0.0).sample(count, generator=generator)
    low, high = problem.bounds
    shape = (problem.num_problems, count, *problem.sequence_shape)
    bounded = low.isfinite() & high.isfinite()
    width = th.where(bounded, high - low, th.zeros_like(low))
    uniform = th.where(bounded, low, th.zeros_like(low)) + width * th.rand(
        shape, generator=generator, device=problem.device
    )
    if bounded.all():
        return uniform
    normal = problem.middle + th.randn(shape, generator=generator, device=problem.device)
    return th.where(bounded, uniform, normal.clamp(low, high))
