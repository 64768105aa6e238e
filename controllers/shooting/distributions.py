"""Distributions over action sequences: Gaussian per entry for Box, categorical per step for Discrete actions."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

import torch as th
from torch import Generator, Tensor

from controllers.plan import WarmStart
from controllers.problem import PlanningProblem

D = TypeVar("D", bound="SequenceDistribution")


class SequenceDistribution(Protocol):
    """A distribution over action sequences that cross-entropy methods sample and refit."""

    def sample(self, count: int, *, generator: Generator) -> Tensor:
        """``(N, count, H, A)`` model actions inside the bounds."""
        ...

    def refit(self: D, elites: Tensor, weights: Tensor, momentum: float) -> D:
        """Towards elites ``(N, M, H, A)`` with weights ``(N, M)``; rows whose weights are all zero stay."""
        ...

    @property
    def mode(self) -> Tensor:
        """The most likely sequence ``(N, H, A)``."""
        ...


class GaussianSequences(NamedTuple):
    """Independent Gaussians, drawn and then clipped to the bounds.

    Attributes:
        mean: ``(N, H, A)``.
        std: ``(N, H, A)``.
        low: ``(A,)``.
        high: ``(A,)``.
        min_std: the standard deviation never falls below it while there is a width to search.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    min_std: float

    @classmethod
    def around(cls, problem: PlanningProblem[Any], mean: Tensor, std: float, min_std: float) -> GaussianSequences:
        """Start at ``mean (N, H, A)`` with one ``std`` in model actions, none where the range has no width."""
        low, high = problem.bounds
        return cls(mean, (high > low).float().expand_as(mean) * std, low, high, min_std)

    def scaled(self, noise: Tensor) -> Tensor:
        """Sequences inside the bounds: the mean plus unit noise ``(N, P, H, A)`` times the deviation."""
        return (self.mean[:, None] + self.std[:, None] * noise).clamp(self.low, self.high)

    def sample(self, count: int, *, generator: Generator) -> Tensor:
        """``(N, count, H, A)`` with white noise."""
        n, h, a = self.mean.shape
        return self.scaled(th.randn(n, count, h, a, generator=generator, device=self.mean.device))

    def refit(self, elites: Tensor, weights: Tensor, momentum: float) -> GaussianSequences:
        """``momentum`` of the old mean and variance, the rest from the weighted elites."""
        some, share = _shares(weights)
        mean = (share * elites).sum(1)
        variance = (share * (elites - mean[:, None]).square()).sum(1)
        std = (momentum * self.std.square() + (1 - momentum) * variance).sqrt()
        floor = self.min_std * (self.high > self.low)
        return self._replace(
            # Clamped, because a mean of bounds may leave them by a rounding error.
            mean=th.where(some, momentum * self.mean + (1 - momentum) * mean, self.mean).clamp(self.low, self.high),
            std=th.where(some, std, self.std).maximum(floor),
        )

    @property
    def mode(self) -> Tensor:
        """The mean."""
        return self.mean


class CategoricalSequences(NamedTuple):
    """Independent categoricals over one-hot actions.

    Attributes:
        probabilities: ``(N, H, A)``, rows of each of the ``groups`` sum to one.
        groups: sizes of the one-hot groups of an action; one for Discrete, one per entry of MultiDiscrete.
        smoothing: counts added to every action when refitting (Laplace), so that none is ruled out for good.
    """

    probabilities: Tensor
    groups: tuple[int, ...]
    smoothing: float

    @classmethod
    def around(cls, problem: PlanningProblem[Any], warm: WarmStart, smoothing: float) -> CategoricalSequences:
        """Uniform probabilities, averaged with the warm start in rows that have one."""
        groups = problem.codec.groups
        uniform = th.cat([th.full((size,), 1 / size, device=problem.device) for size in groups])
        uniform = uniform.expand(problem.num_problems, *problem.sequence_shape)
        return cls(th.where(warm.known[:, None, None], (uniform + warm.actions) / 2, uniform), groups, smoothing)

    def sample(self, count: int, *, generator: Generator) -> Tensor:
        """``(N, count, H, A)`` one-hot rows."""
        n, h, _ = self.probabilities.shape
        parts = []
        for size, part in zip(self.groups, self.probabilities.split(self.groups, -1), strict=True):
            drawn = th.multinomial(part.reshape(n * h, size), count, replacement=True, generator=generator)
            parts.append(th.nn.functional.one_hot(drawn.view(n, h, count).permute(0, 2, 1), size))
        return th.cat(parts, -1).float()

    def refit(self, elites: Tensor, weights: Tensor, momentum: float) -> CategoricalSequences:
        """``momentum`` of the old probabilities, the rest from smoothed counts of the weighted elites."""
        some, _ = _shares(weights)
        counts = (weights[:, :, None, None] * elites).sum(1) + self.smoothing
        parts = [part / part.sum(-1, keepdim=True) for part in counts.split(self.groups, -1)]
        fitted = momentum * self.probabilities + (1 - momentum) * th.cat(parts, -1)
        return self._replace(probabilities=th.where(some, fitted, self.probabilities))

    @property
    def mode(self) -> Tensor:
        """The most likely action of each step."""
        parts = self.probabilities.split(self.groups, -1)
        return th.cat([th.nn.functional.one_hot(part.argmax(-1), part.shape[-1]) for part in parts], -1).float()


def _shares(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows have any weight, ``(N, 1, 1)``, and the weights as shares, ``(N, M, 1, 1)``."""
    total = weights.sum(1, keepdim=True)
    share = weights / th.where(total > 0, total, th.ones_like(total))
    return (total > 0)[:, :, None], share[:, :, None, None]
