"""Layers of torch whose initial weights come from a generator instead of the global stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch as th
from torch import Generator, Tensor, nn

M = TypeVar("M", nn.Linear, nn.GRU, nn.Conv2d, nn.ConvTranspose2d)


def seeded_layer(kind: type[M], *args: Any, generator: Generator, **kwargs: Any) -> M:
    r"""A layer of the class ``kind`` with weights uniform in :math:`\pm 1/\sqrt{n_{in}}` and biases of zero.

    Args:
        kind: class of the layer.
        *args: of its constructor.
        generator: source of the weights, on the CPU.
        **kwargs: of its constructor.
    """
    with th.device("meta"):  # elsewhere the constructor would draw from the global stream
        layer: M = kind(*args, **kwargs)
    layer.to_empty(device="cpu")
    with th.no_grad():
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
        layers = [seeded_layer(nn.Linear, a, b, generator=generator) for a, b in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        for number, layer in enumerate(self.layers):
            x = layer(nn.functional.silu(x) if number else x)
        return x
