"""Model predictive path integral control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Generator, Tensor

from controllers.plan import WarmStart
from controllers.problem import PlanningProblem
from controllers.shooting.base import Fitted, Ledger, Returns, Scored, ShootingPlanner, require_box, with_first
from controllers.shooting.distributions import GaussianSequences
from controllers.shooting.noise import coloured_noise, knot_matrix
from mbrl_wrappers.checks import at_least, within

TRIMMED = 10.0
"""Scores further below the best than this many widths of the best tenth do not count in :func:`score_scale`."""


@dataclass(frozen=True)
class MPPI(ShootingPlanner[GaussianSequences]):
    r"""The exponentially weighted mean of noisy sequences (Williams et al. 2017, algorithm 2), for Box actions.

    .. math:: U \leftarrow \sum_p w_p U_p, \qquad w_p \propto \exp\big((R_p - \max_q R_q) / \lambda\big),
              \qquad U_p = U + \sigma \epsilon_p

    With ``normalise`` the scores are divided by their standard deviation first, so that one temperature serves tasks
    with rewards of any size. Scores far behind the best are left out of it (:func:`score_scale`), else one large
    penalty would make all other candidates look alike. Without ``normalise`` and without bounds the weighted mean tends
    to :math:`\arg\max_U R(U) - \frac{\lambda}{2 \sigma^2} |U - U_0|^2` where that is quadratic.

    Attributes:
        population: sequences per iteration, the nominal one among them.
        iterations: rounds; the mean of one is the nominal sequence of the next.
        returns: the weighted mean; in an exact model the best candidate replaces it where it scores below the warm
            start.
        temperature: :math:`\lambda > 0`; lower is greedier.
        noise_std: :math:`\sigma`, as a share of half the range.
        normalise: divide scores by the deviation of those that are not far behind.
        noise_exponent: 0 for white noise, more for noise that is smooth in time.
        knots: draw noise at so many evenly spaced knots with a cubic spline between them, where its deviation is 0.7 to
            1.2 times that at the knots; None draws it at every step.
    """

    population: int = 256
    iterations: int = 2
    returns: Returns = "mean"
    temperature: float = 0.1
    noise_std: float = 0.3
    normalise: bool = True
    noise_exponent: float = 0.0
    knots: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if within("temperature", self.temperature, 0) == 0:
            raise ValueError("temperature must be above 0: use CEM or RandomShooting for the best sequence alone.")
        within("noise_std", self.noise_std, 0)
        within("noise_exponent", self.noise_exponent, 0)
        if self.knots is not None:
            at_least("knots", self.knots)

    def _begin(self, problem: PlanningProblem[Any], warm: WarmStart) -> GaussianSequences:
        require_box(problem, self)
        return GaussianSequences.around(problem, warm.actions, self.noise_std, min_std=0.0)

    def _draw(
        self,
        problem: PlanningProblem[Any],
        distribution: GaussianSequences,
        warm: WarmStart,
        last: Fitted | None,
        iteration: int,
        generator: Generator,
    ) -> Tensor:
        horizon, size = problem.sequence_shape
        steps = min(self.knots or horizon, horizon)
        shape = (problem.num_problems, self.population, steps, size)
        noise = coloured_noise(shape, self.noise_exponent, generator=generator)
        if steps < horizon:
            noise = knot_matrix(horizon, steps).to(noise.device) @ noise
        drawn = distribution.scaled(noise)
        return with_first(warm.firsts() if last is None else distribution.mean[:, None], drawn)

    def _fit(
        self, distribution: GaussianSequences, candidates: Tensor, scores: Tensor
    ) -> tuple[GaussianSequences, Fitted]:
        weights = path_weights(scores, self.temperature, normalise=self.normalise)
        some = weights.sum(1) > 0
        # Clamped, because a mean of bounds may leave them by a rounding error.
        mean = th.einsum("np,npha->nha", weights.to(candidates), candidates).clamp(distribution.low, distribution.high)
        size = th.where(some, 1 / weights.square().sum(1), 0)
        mean = th.where(some[:, None, None], mean, distribution.mean)
        return distribution._replace(mean=mean), Fitted(candidates, scores, size)

    def _mode(self, distribution: GaussianSequences, ledger: Ledger) -> Tensor:
        return distribution.mean

    def _choose(self, problem: PlanningProblem[Any], ledger: Ledger, distribution: GaussianSequences) -> Scored:
        chosen = super()._choose(problem, ledger, distribution)
        if not problem.is_exact:
            return chosen
        return chosen.replaced(chosen.value < ledger.warm_start_value, ledger.best)  # False where there was none


def path_weights(scores: Tensor, temperature: float, *, normalise: bool) -> Tensor:
    """Softmax weights of ``scores (N, P)``; zero where a score is not finite, all zero where none is."""
    finite = scores.isfinite()
    best = th.where(finite, scores, -th.inf).amax(1, keepdim=True)
    behind = th.where(finite, best - scores, th.inf)  # before anything else: large scores leave few digits
    if normalise:
        behind = behind / score_scale(behind, best)
    return th.softmax(-behind / temperature, 1).nan_to_num(0.0)


def score_scale(behind: Tensor, best: Tensor) -> Tensor:
    """The standard deviation ``(N, 1)`` of the scores that are not far behind the best tenth.

    The edge of the best tenth is the smallest distance to the best score within which a tenth of the candidates lie
    that are worse than the best; candidates that equal the best up to rounding do not count. Scores further behind than
    :data:`TRIMMED` such distances are left out of the deviation. So as long as fewer than nine tenths of the candidates
    meet an obstacle, it does not matter how much more the obstacle costs. 1 where no finite candidate is worse.

    Args:
        behind: ``(N, P)`` distances to the best score, infinite for candidates that do not count.
        best: ``(N, 1)`` the best scores.
    """
    worse = (behind > th.finfo(behind.dtype).eps * best.abs()) & behind.isfinite()
    count = worse.sum(1, keepdim=True)
    edge = th.where(worse, behind, th.inf).sort(1).values.gather(1, ((count + 9) // 10 - 1).clamp(min=0))
    near = behind <= TRIMMED * edge
    near = near & behind.isfinite()
    number = near.sum(1, keepdim=True).clamp(min=1)
    kept = th.where(near, behind, 0)
    centred = th.where(near, kept - kept.sum(1, keepdim=True) / number, 0)
    deviation = (centred.square().sum(1, keepdim=True) / number).sqrt()
    return th.where(deviation > 0, deviation, th.ones_like(deviation))
