"""Diagonal Gaussians: draws, densities, divergences, and a network that returns one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from mbrl_wrappers.nets.seeded_layers import Perceptron


class DiagonalGaussian(NamedTuple):
    """A Gaussian with independent entries: ``mean (..., Z)`` and ``std (..., Z)``."""

    mean: Tensor
    std: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """The draw that belongs to standard normal ``noise (..., Z)``; gradients flow to mean and std."""
        return self.mean + self.std * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of each entry of ``value (..., Z)``, ``(..., Z)`` nats."""
        return -0.5 * ((value - self.mean) / self.std).square() - self.std.log() - 0.5 * math.log(2 * math.pi)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        r"""The divergence of each entry from that of ``other``, ``(..., Z)`` nats.

        .. math:: \ln\frac{\sigma_2}{\sigma_1} + \frac{\sigma_1^2 + (\mu_1 - \mu_2)^2}{2 \sigma_2^2} - \frac{1}{2}
        """
        ratio = self.std / other.std
        shift = (self.mean - other.mean) / other.std
        return 0.5 * (ratio.square() + shift.square() - 1) - ratio.log()

    def detached(self) -> DiagonalGaussian:
        """The same numbers without gradients."""
        return DiagonalGaussian(self.mean.detach(), self.std.detach())

    def at(self, *index: Any) -> DiagonalGaussian:
        """The part of mean and std at ``index``, as in ``tensor[index]``."""
        return DiagonalGaussian(self.mean[index], self.std[index])


class PositiveStd(nn.Module):
    r"""One standard deviation per entry, :math:`\sigma = \sigma_{min} + \mathrm{softplus}(\rho)`, learned or fixed.

    Args:
        size: number of entries.
        std: the initial value, at least ``floor``; the fixed one when not ``learned``.
        floor: :math:`\sigma_{min}`.
        learned: whether it is trained.
    """

    raw: Tensor

    def __init__(self, size: int, std: float, floor: float, *, learned: bool) -> None:
        super().__init__()
        self.floor = floor
        raw = th.full((size,), inverse_softplus(std - floor))
        if learned:
            self.raw = nn.Parameter(raw)
        else:
            self.register_buffer("raw", raw)

    def forward(self) -> Tensor:
        """The standard deviations ``(size,)``."""
        return self.floor + softplus(self.raw)


def inverse_softplus(value: float) -> float:
    """What softplus maps to ``value > 0``."""
    return value + math.log(-math.expm1(-max(value, 1e-12)))


class GaussianHead(nn.Module):
    r"""A perceptron that returns a diagonal Gaussian with :math:`\sigma = \sigma_{min} + \mathrm{softplus}(\rho)`.

    Args:
        in_features: inputs per row.
        hidden: width of each hidden layer.
        size: entries of the Gaussian, ``Z``.
        min_std: :math:`\sigma_{min}`.
        generator: source of the initial weights.
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int], size: int, *, min_std: float, generator: Generator
    ) -> None:
        super().__init__()
        self.min_std = min_std
        self.net = Perceptron(in_features, hidden, 2 * size, generator=generator)

    def forward(self, x: Tensor) -> DiagonalGaussian:
        """``(..., in)`` to a Gaussian of ``(..., Z)``."""
        mean, raw = self.net(x).chunk(2, -1)
        return DiagonalGaussian(mean, self.min_std + softplus(raw))
