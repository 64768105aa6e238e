"""Per-dimension standardisation with statistics that are set once per fit."""

from __future__ import annotations

import torch as th
from torch import Tensor, nn

# Below this share of the largest magnitude seen, a spread is rounding noise of float32, not data ...
RELATIVE_FLOOR = 1e-6

# ... and magnitudes count from here: what a simulator leaves where a zero should be (1e-17) is no data either.
SMALLEST = 1e-9


class Normalizer(nn.Module):
    r"""Standardises each dimension, :math:`z = (x - \mu) / \sigma`, and back, :math:`x = \mu + \sigma z`.

    The statistics are computed in float64 from the rows given to :meth:`set_statistics` and then frozen. A dimension
    that does not vary in them has :math:`\sigma = 0`: it is always standardised to 0, since nothing is known of other
    values, and every :math:`z` comes back as exactly the constant.

    Args:
        size: number of dimensions.

    Attributes:
        mean: ``(size,)``.
        std: ``(size,)``, 0 for a dimension that does not vary.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(size))
        self.register_buffer("std", th.ones(size))

    @property
    def constant(self) -> Tensor:
        """Which dimensions did not vary, ``(size,)`` bool."""
        return self.std == 0

    def set_statistics(self, rows: Tensor) -> None:
        """Take mean and standard deviation of ``rows (B, size)``."""
        exact = rows.double()
        mean, std = exact.mean(0), exact.std(0, correction=0)
        floor = RELATIVE_FLOOR * exact.abs().amax(0).clamp(min=SMALLEST)
        self.mean.copy_(mean)
        self.std.copy_(th.where(std > floor, std, th.zeros_like(std)))

    def normalize(self, x: Tensor) -> Tensor:
        """Raw units to standardised ones."""
        return (x - self.mean) / self.std.masked_fill(self.constant, th.inf)

    def denormalize(self, z: Tensor) -> Tensor:
        """Standardised units to raw ones."""
        return z * self.std + self.mean
