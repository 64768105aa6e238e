"""The cross-entropy method for action sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from controllers.plan import WarmStart
from controllers.problem import PlanningProblem
from controllers.shooting.base import Fitted, Ledger, Returns, ShootingPlanner, elites_of, with_first
from controllers.shooting.distributions import CategoricalSequences, GaussianSequences, SequenceDistribution
from mbrl_wrappers.checks import within


@dataclass(frozen=True)
class CEM(ShootingPlanner[SequenceDistribution]):
    r"""Fits a distribution to the elites of its own samples (Rubinstein and Kroese 2004; PETS, Chua et al. 2018, 5.1).

    .. math:: \mu \leftarrow \alpha \mu + (1 - \alpha)\,\mathrm{mean}(\text{elites}), \qquad
              \sigma^2 \leftarrow \max(\alpha \sigma^2 + (1 - \alpha)\,\mathrm{var}(\text{elites}), \sigma_{min}^2)

    Gaussian per entry for Box actions (drawn, then clipped to the bounds), categorical per step for Discrete and
    MultiDiscrete ones. Deviations are in model actions: a share of half the range of a bounded dimension, units of an
    unbounded one. The last iteration also scores the mean.

    Attributes:
        population: candidates per iteration.
        iterations: rounds of refitting.
        returns: the mean in a learned model, the best in an exact one, unless said otherwise.
        elite_ratio: share of the candidates that the distribution is refitted to.
        momentum: :math:`\alpha`, what is kept of the old distribution.
        init_std: deviation at the start of every plan.
        min_std: :math:`\sigma_{min}`; 0 lets the search collapse onto a point.
        smoothing: counts added to every Discrete action when refitting.
    """

    population: int = 400
    iterations: int = 5
    returns: Returns = "auto"
    elite_ratio: float = 0.1
    momentum: float = 0.1
    init_std: float = 0.5
    min_std: float = 0.05
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("elite_ratio", "momentum"):
            within(name, getattr(self, name), 0, 1)
        for name in ("init_std", "min_std", "smoothing"):
            within(name, getattr(self, name), 0)

    @property
    def num_elites(self) -> int:
        """How many candidates the distribution is refitted to, at least one."""
        return max(1, round(self.elite_ratio * self.population))

    def _begin(self, problem: PlanningProblem[Any], warm: WarmStart) -> SequenceDistribution:
        if problem.codec.groups:
            return CategoricalSequences.around(problem, warm, self.smoothing)
        return GaussianSequences.around(problem, warm.actions, self.init_std, self.min_std)

    def _draw(
        self,
        problem: PlanningProblem[Any],
        distribution: SequenceDistribution,
        warm: WarmStart,
        last: Fitted | None,
        iteration: int,
        generator: Generator,
    ) -> Tensor:
        drawn = distribution.sample(self.population, generator=generator)
        if iteration == 0:
            return with_first(warm.firsts(), drawn)
        return with_first(distribution.mode[:, None], drawn) if iteration == self.iterations - 1 else drawn

    def _fit(
        self, distribution: SequenceDistribution, candidates: Tensor, scores: Tensor
    ) -> tuple[SequenceDistribution, Fitted]:
        elites, finite = elites_of(candidates, scores, self.num_elites)
        return distribution.refit(elites, finite, self.momentum), Fitted(candidates, scores, finite.sum(1))

    def _mode(self, distribution: SequenceDistribution, ledger: Ledger) -> Tensor:
        return distribution.mode
