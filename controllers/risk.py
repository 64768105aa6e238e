"""How the returns of a candidate's particles become one score.

Particles are the rows of one action sequence that follow different models or see different noise. A risk maps their
returns ``(..., K)`` to scores ``(...)``; higher is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mbrl_wrappers.checks import within


class Risk(Protocol):
    """Anything that reduces the last dimension: ``risk(returns (..., K)) -> (...)``."""

    def __call__(self, returns: Tensor) -> Tensor:
        """Reduce over particles."""
        ...


@dataclass(frozen=True)
class Mean:
    r"""The expected return, :math:`\frac{1}{K}\sum_k R_k` (PETS, Chua et al. 2018, section 5.1)."""

    def __call__(self, returns: Tensor) -> Tensor:
        """Reduce over particles."""
        return returns.mean(-1)


@dataclass(frozen=True)
class MeanMinusStd:
    r"""The mean less ``weight`` standard deviations of the particles, :math:`\bar R - c\,\mathrm{std}(R)`.

    Attributes:
        weight: ``c >= 0``; the standard deviation is that of the particles themselves (divisor ``K``).
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        within("weight", self.weight, 0)

    def __call__(self, returns: Tensor) -> Tensor:
        """Reduce over particles."""
        return returns.mean(-1) - self.weight * returns.std(-1, correction=0)


@dataclass(frozen=True)
class Worst:
    """The lowest return among the particles."""

    def __call__(self, returns: Tensor) -> Tensor:
        """Reduce over particles."""
        return returns.amin(-1)


@dataclass(frozen=True)
class CVaR:
    r"""Conditional value at risk: the mean of the worst share of the particles (Rockafellar and Uryasev 2000).

    With :math:`m = \alpha K` the :math:`\lfloor m \rfloor` lowest returns count fully and the next one counts
    :math:`m - \lfloor m \rfloor`, so :math:`m` need not be an integer.

    Attributes:
        fraction: ``alpha`` in (0, 1]; 1 is the mean.
    """

    fraction: float = 0.25

    def __post_init__(self) -> None:
        if within("fraction", self.fraction, 0, 1) == 0:
            raise ValueError("fraction must be above 0: use Worst() for the lowest return alone.")

    def __call__(self, returns: Tensor) -> Tensor:
        """Reduce over particles."""
        mass = self.fraction * returns.shape[-1]
        ordered = returns.sort(-1).values[..., : math.ceil(mass)]
        weights = ordered.new_ones(ordered.shape[-1])
        weights[-1] = mass - (ordered.shape[-1] - 1)
        return (ordered * weights).sum(-1) / mass
