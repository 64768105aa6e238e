"""Layers of torch whose initial weights come from a generator instead of the global stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch as th
from torch import Generator, Tensor, nn

L = TypeVar("L", bound=nn.Module)


class _Unset:
    """In front of a layer's class it leaves the weights unset, where torch would draw from the global stream."""

    def reset_parameters(self) -> None:
        """Nothing."""


class _UnsetLinear(_Unset, nn.Linear):
    pass


class _UnsetGRU(_Unset, nn.GRU):
    pass


class _UnsetConv2d(_Unset, nn.Conv2d):
    pass


class _UnsetConvTranspose2d(_Unset, nn.ConvTranspose2d):
    pass


def seeded_linear(in_features: int, out_features: int, *, generator: Generator) -> nn.Linear:
    """An affine layer with the initial weights of :func:`set_weights`."""
    return set_weights(_UnsetLinear(in_features, out_features), generator=generator)


def seeded_gru(in_features: int, size: int, *, generator: Generator) -> nn.GRU:
    """A GRU of one layer, batch first, with the initial weights of :func:`set_weights`."""
    return set_weights(_UnsetGRU(in_features, size, batch_first=True), generator=generator)


def seeded_halving(in_channels: int, out_channels: int, *, generator: Generator) -> nn.Conv2d:
    """A convolution that halves height and width, with the initial weights of :func:`set_weights`."""
    return set_weights(_UnsetConv2d(in_channels, out_channels, 4, stride=2, padding=1), generator=generator)


def seeded_doubling(in_channels: int, out_channels: int, *, generator: Generator) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles height and width, with the initial weights of :func:`set_weights`."""
    return set_weights(_UnsetConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1), generator=generator)


@th.no_grad()
def set_weights(layer: L, *, generator: Generator) -> L:
    r"""Draw the weights of ``layer`` uniformly from :math:`\pm 1/\sqrt{n_{in}}`, and set its biases to zero."""
    for weight in layer.parameters():
        if weight.ndim == 1:
            weight.zero_()
        else:
            bound = 1 / math.sqrt(weight[0].numel())
            weight.uniform_(-bound, bound, generator=generator)
    return layer


class Perceptron(nn.Module):
    """A multilayer perceptron with SiLU between its layers and a linear output.

    Args:
        in_features: inputs per row.
        hidden: width of each hidden layer; none for an affine map.
        out_features: outputs per row.
        generator: source of the initial weights.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_features: int, *, generator: Generator) -> None:
        super().__init__()
        sizes = (in_features, *hidden, out_features)
        layers = [seeded_linear(a, b, generator=generator) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        for number, layer in enumerate(self.layers):
            x = layer(nn.functional.silu(x) if number else x)
        return x
