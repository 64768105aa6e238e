"""Convolutions between images, given as rows of pixels, and vectors."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Generator, Tensor, nn
from torch.nn.functional import silu

from mbrl_wrappers.nets.seeded_layers import seeded_doubling, seeded_halving, seeded_linear

FIRST_CHANNELS = 16
"""Channels after the first convolution; each further one doubles them."""

SMALLEST_SIDE = 4
"""Height and width are halved until the smaller one is no larger than this."""


class ImageEncoder(nn.Module):
    """Convolutions that halve an image, and an affine map of what is left.

    Args:
        shape: ``(channels, height, width)``.
        out_features: entries of the vector.
        generator: source of the initial weights.

    Raises:
        ValueError: for sides that cannot be halved often enough.
    """

    def __init__(self, shape: tuple[int, int, int], out_features: int, *, generator: Generator) -> None:
        super().__init__()
        self.shape = shape
        channels = _channels(shape)
        self.convolutions = nn.ModuleList(seeded_halving(a, b, generator=generator) for a, b in pairwise(channels))
        self.output = seeded_linear(math.prod(_left(shape)), out_features, generator=generator)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(..., C * H * W)`` to ``(..., out)``."""
        x = pixels.reshape(-1, *self.shape)
        for convolution in self.convolutions:
            x = silu(convolution(x))
        vector: Tensor = self.output(x.flatten(1))
        return vector.reshape(*pixels.shape[:-1], -1)


class ImageDecoder(nn.Module):
    """An affine map to a small image, and transposed convolutions that double it.

    Args:
        in_features: entries of the vector.
        shape: ``(channels, height, width)``.
        generator: source of the initial weights.

    Raises:
        ValueError: for sides that cannot be halved often enough.
    """

    def __init__(self, in_features: int, shape: tuple[int, int, int], *, generator: Generator) -> None:
        super().__init__()
        self.small = _left(shape)
        channels = _channels(shape)[::-1]
        self.input = seeded_linear(in_features, math.prod(self.small), generator=generator)
        self.convolutions = nn.ModuleList(seeded_doubling(a, b, generator=generator) for a, b in pairwise(channels))

    def forward(self, vector: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., C * H * W)``."""
        x = self.input(vector.reshape(-1, vector.shape[-1])).reshape(-1, *self.small)
        for convolution in self.convolutions:
            x = convolution(silu(x))
        pixels: Tensor = x.reshape(*vector.shape[:-1], -1)
        return pixels


def _channels(shape: tuple[int, int, int]) -> list[int]:
    """Channels before, between and after the convolutions."""
    return [shape[0], *(FIRST_CHANNELS * 2**number for number in range(_halvings(shape)))]


def _left(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """What is left of an image after the convolutions."""
    count = _halvings(shape)
    return _channels(shape)[-1], shape[1] >> count, shape[2] >> count


def _halvings(shape: tuple[int, int, int]) -> int:
    _, height, width = shape
    count = max(math.ceil(math.log2(min(height, width) / SMALLEST_SIDE)), 1)
    if height % 2**count or width % 2**count:
        raise ValueError(
            f"Images of {height} by {width} pixels cannot be halved {count} times: resize them to a height and width "
            f"that are multiples of {2**count}, such as 16, 32 or 64."
        )
    return count
