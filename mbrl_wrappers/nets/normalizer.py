"""Per-dimension standardisation with statistics that are set once per fit."""

from __future__ import annotations

import torch as th
from torch import Tensor, nn

# Below this share of the largest magnitude seen, a spread is rounding noise of float32, not data.
RELATIVE_FLOOR = 1e-6


class Normalizer(nn.Module):
    r""":math:`z = (x - \mu) / \sigma` per dimension.

    The statistics are computed in float64 from the rows given to :meth:`set_statistics` and then frozen. A
    dimension that does not vary gets :math:`\sigma = 1`, so that it maps to zero instead of to noise.

    Args:
        size: number of dimensions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(size))
        self.register_buffer("std", th.ones(size))

    def set_statistics(self, rows: Tensor) -> None:
        """Take mean and standard deviation of ``rows (B, size)``."""
        exact = rows.double()
        mean, std = exact.mean(0), exact.std(0, correction=0)
        floor = RELATIVE_FLOOR * exact.abs().amax(0).clamp(min=1e-6)
        self.mean.copy_(mean)
        self.std.copy_(th.where(std > floor, std, th.ones_like(std)))

    def normalize(self, x: Tensor) -> Tensor:
        """Raw units to standardised ones."""
        return (x - self.mean) / self.std

    def denormalize(self, z: Tensor) -> Tensor:
        """Standardised units to raw ones."""
        return z * self.std + self.mean
