"""Standard normal draws that blocks of rows share."""

from __future__ import annotations

import torch as th
from torch import Generator, Tensor


class SharedDraws:
    """Standard normal draws for rows that are ``groups`` equal blocks: row ``i`` of every block gets the same."""

    def __init__(self, generator: Generator, groups: int, device: th.device) -> None:
        self._generator, self._groups, self._device = generator, groups, device

    def normal(self, like: Tensor) -> Tensor:
        """Draws of the shape of ``like (B, ...)``."""
        shape = (len(like) // self._groups, *like.shape[1:])
        noise = th.randn(shape, generator=self._generator, device=self._device)
        return noise.repeat(self._groups, *[1] * (like.ndim - 1)) if self._groups > 1 else noise
