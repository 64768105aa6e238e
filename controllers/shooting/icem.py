"""iCEM: a cross-entropy method that needs few samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Generator, Tensor

from controllers.plan import WarmStart
from controllers.problem import PlanningProblem
from controllers.shooting.base import Fitted, Ledger, Returns, ShootingPlanner, elites_of, require_box, with_first
from controllers.shooting.distributions import GaussianSequences
from controllers.shooting.noise import coloured_noise
from mbrl_wrappers.checks import at_least, within


@dataclass(frozen=True)
class ICEM(ShootingPlanner[GaussianSequences]):
    r"""Sample-efficient cross-entropy method (Pinneri et al. 2020, section 3) for Box actions.

    What it adds to CEM: noise that is coloured along time; a population that shrinks by ``decay`` per iteration, down
    to twice the elites; a share of the elites kept from iteration to iteration, and, shifted, from plan to plan; the
    mean as a candidate of the last iteration. Kept elites count towards the population, so that a plan costs exactly
    :math:`\sum_i \max(P\,\gamma^{-i}, 2M)` sequences: 40 + 32 + 26 with the defaults.

    Attributes:
        population: candidates of the first iteration, ``P``; with 1 the warm start is the only one.
        iterations: rounds of refitting.
        returns: the mean in a learned model, the best in an exact one, unless said otherwise.
        num_elites: ``M``.
        momentum: what is kept of the old mean and variance in a refit.
        init_std: deviation at the start of every plan, as a share of half the range.
        min_std: floor of the deviation, so that a small population does not collapse onto a point.
        noise_exponent: :math:`\beta` of the spectrum :math:`f^{-\beta}`; 0.25 for fast gaits, 2 to 3.5 for reaching.
        decay: :math:`\gamma \ge 1`.
        keep_ratio: share of the elites that is kept.
    """

    population: int = 40
    iterations: int = 3
    returns: Returns = "auto"
    num_elites: int = 10
    momentum: float = 0.1
    init_std: float = 0.5
    min_std: float = 0.05
    noise_exponent: float = 2.0
    decay: float = 1.25
    keep_ratio: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("num_elites", self.num_elites)
        for name in ("init_std", "min_std", "noise_exponent"):
            within(name, getattr(self, name), 0)
        within("decay", self.decay, 1)
        for name in ("momentum", "keep_ratio"):
            within(name, getattr(self, name), 0, 1)

    def population_at(self, iteration: int) -> int:
        """Candidates of an iteration."""
        shrunk = round(self.population * self.decay**-iteration)
        return max(shrunk, min(2 * self.num_elites, self.population))

    @property
    def num_kept(self) -> int:
        """Number of elites kept as candidates."""
        return round(self.keep_ratio * self.num_elites)

    def _begin(self, problem: PlanningProblem[Any], warm: WarmStart) -> GaussianSequences:
        require_box(problem, self)
        return GaussianSequences.around(problem, warm.actions, self.init_std, self.min_std)

    def _draw(
        self,
        problem: PlanningProblem[Any],
        distribution: GaussianSequences,
        warm: WarmStart,
        last: Fitted | None,
        iteration: int,
        generator: Generator,
    ) -> Tensor:
        shape = (problem.num_problems, self.population_at(iteration), *problem.sequence_shape)
        drawn = distribution.scaled(coloured_noise(shape, self.noise_exponent, generator=generator))
        if last is None:
            drawn = with_first(warm.firsts(), drawn)
        else:
            drawn = with_first(elites_of(last.candidates, last.scores, self.num_kept)[0], drawn)
        if iteration == self.iterations - 1 and drawn.shape[1] > 1:
            drawn = th.cat([drawn[:, :-1], distribution.mean[:, None]], 1)
        return drawn

    def _fit(
        self, distribution: GaussianSequences, candidates: Tensor, scores: Tensor
    ) -> tuple[GaussianSequences, Fitted]:
        elites, finite = elites_of(candidates, scores, self.num_elites)
        return distribution.refit(elites, finite, self.momentum), Fitted(candidates, scores, finite.sum(1))

    def _mode(self, distribution: GaussianSequences, ledger: Ledger) -> Tensor:
        return distribution.mean

    def _kept(self, last: Fitted, ledger: Ledger) -> Tensor:
        elites, _ = elites_of(last.candidates, last.scores, max(1, self.num_kept))
        return th.cat([ledger.best.actions[:, None], elites[:, 1:]], 1)
