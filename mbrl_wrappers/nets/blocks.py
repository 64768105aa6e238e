"""Evaluation without a graph: blocks of rows whose activations stay in cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch as th
from torch import Tensor
from torch.nn.functional import silu

from mbrl_wrappers.nets.ensemble_linear import EnsembleLinear
from mbrl_wrappers.nets.layer_norm import normalize_features_

# Rows evaluated at a time: the activations of a block (768 x 200 float32 = 600 KB) stay in a core's L2 cache.
BLOCK_ROWS = 768

# From this many rows of a member on it pays to copy its weights and biases into one matrix.
PACK_ROWS = 1000


class Activations(NamedTuple):
    """What a hidden layer returns for a block: ``values (width, B)``, and the same above a row of ones."""

    values: Tensor
    with_ones: Tensor


def evaluate_in_blocks(
    layers: Sequence[EnsembleLinear], x: Tensor, segments: Sequence[tuple[int, int]], *, layer_norm: bool = False
) -> Tensor:
    """``(in, B)``, grouped by member as ``segments`` say, to ``(out, B)``."""
    weights = list(zip(*(layer.members() for layer in layers), strict=True))
    out = x.new_empty(layers[-1].bias.shape[1], x.shape[1])
    counts = [count for _, count in segments]
    buffers = _Buffers(x, [layer.bias.shape[1] for layer in layers[:-1]], min(BLOCK_ROWS, max(counts, default=0)))
    for (member, _), inputs, outputs in zip(segments, x.split(counts, 1), out.split(counts, 1), strict=True):
        _run_member(weights[member], inputs, outputs, buffers, layer_norm)
    return out


def _run_member(
    weights: Sequence[tuple[Tensor, Tensor]], x: Tensor, out: Tensor, buffers: _Buffers, layer_norm: bool
) -> None:
    """Fill ``out (out, B)`` with what one member, whose bias and weight of each layer are given, makes of ``x``."""
    (first_bias, first_weight), *later = weights
    packed: list[Tensor] = []
    if x.shape[1] >= PACK_ROWS:
        # A bias that is one more column of the weights saves a pass over the activations in each product.
        packed = [th.cat([weight, bias], 1) for bias, weight in later]
    for block, result in zip(x.split(BLOCK_ROWS, 1), out.split(BLOCK_ROWS, 1), strict=True):
        activations = buffers.views(block.shape[1])
        targets = [*(view.values for view in activations), result]
        th.addmm(first_bias, first_weight, block, out=targets[0])
        for depth, (source, target) in enumerate(zip(activations, targets[1:], strict=True)):
            if layer_norm:
                normalize_features_(source.values, 0)
            silu(source.values, inplace=True)
            if packed:
                th.mm(packed[depth], source.with_ones, out=target)
            else:
                th.addmm(*later[depth], source.values, out=target)


class _Buffers:
    """Activation buffers of the hidden layers: consecutive layers alternate, so that none overwrites its input.

    Args:
        like: a tensor of the device and type they should have.
        widths: of the hidden layers.
        columns: rows of the largest block.
    """

    def __init__(self, like: Tensor, widths: Sequence[int], columns: int) -> None:
        self._keys = [(depth % 2, width) for depth, width in enumerate(widths)]
        self._memory = {key: like.new_empty((key[1] + 1) * columns) for key in self._keys}
        self._size = 0
        self._views: list[Activations] = []

    def views(self, size: int) -> list[Activations]:
        """Where each hidden layer puts its activations of ``size`` rows; most blocks have the same size."""
        if size != self._size:
            views = {}
            for (half, width), memory in self._memory.items():
                with_ones = memory[: (width + 1) * size].view(width + 1, size)
                with_ones[width].fill_(1)
                views[half, width] = Activations(with_ones[:width], with_ones)
            self._size, self._views = size, [views[key] for key in self._keys]
        return self._views
