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
        mean_rest: ``(size,)``, what float32 lost of the mean; it centres float64 values far from zero.
        std: ``(size,)``, 0 for a dimension that does not vary.
    """

    mean: Tensor
    mean_rest: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(size))
        self.register_buffer("mean_rest", th.zeros(size))
        self.register_buffer("std", th.ones(size))

    @property
    def constant(self) -> Tensor:
        """Which dimensions did not vary, ``(size,)`` bool."""
        return self.std == 0

    def set_statistics(self, rows: Tensor) -> None:
        """Take mean and standard deviation of ``rows (B, size)``."""
        exact = rows.double()
        mean, std = exact.mean(0), exact.std(0, correction=0)
        precision = th.finfo(rows.dtype).eps / th.finfo(th.float32).eps if rows.is_floating_point() else 1.0
        floor = RELATIVE_FLOOR * precision * exact.abs().amax(0).clamp(min=SMALLEST)
        self.mean.copy_(mean)
        self.mean_rest.copy_(mean - self.mean)
        self.std.copy_(th.where(std > floor, std, th.zeros_like(std)))

    def normalize(self, x: Tensor) -> Tensor:
        """Raw units to standardised ones."""
        centred = x - self.mean
        if x.dtype == th.float64:
            centred = centred - self.mean_rest
        return centred / self.std.masked_fill(self.constant, th.inf)

    def denormalize(self, z: Tensor) -> Tensor:
        """Standardised units to raw ones."""
        x = z * self.std + self.mean
        return x + self.mean_rest if z.dtype == th.float64 else x
