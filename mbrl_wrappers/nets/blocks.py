"""Evaluation without a graph: blocks of rows that stay in cache, shared out over threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch as th
from torch import Tensor
from torch.nn.functional import silu

from mbrl_wrappers.nets.ensemble_linear import EnsembleLinear
from mbrl_wrappers.nets.threads import in_threads

# Rows evaluated at a time: the activations of a block (512 x 200 float32 = 400 KB) stay in a core's L2 cache, and
# their number is a multiple of what the matrix product handles at once.
BLOCK_ROWS = 512

# With fewer rows than this for each thread, waking it takes longer than what it saves.
MIN_ROWS_PER_THREAD = 256


class Block(NamedTuple):
    """Columns ``start`` to ``stop`` of a batch, which go through ``member``."""

    member: int
    start: int
    stop: int


def evaluate_in_blocks(layers: Sequence[EnsembleLinear], x: Tensor, segments: Sequence[tuple[int, int]]) -> Tensor:
    """``(in, B)``, grouped by member as ``segments`` say, to ``(out, B)``."""
    count = x.shape[1]
    weights = {member: [layer.member(member) for layer in layers] for member, _ in segments}
    out = x.new_empty(layers[-1].bias.shape[1], count)
    width = max(layer.bias.shape[1] for layer in layers)

    def run(blocks: list[Block]) -> None:
        widest = max(block.stop - block.start for block in blocks)
        # Two buffers that take turns: what a layer reads and what it writes.
        buffers = x.new_empty(2, width * widest)
        for block in blocks:
            size = block.stop - block.start
            *hidden, (last_bias, last_weight) = weights[block.member]
            rows = x[:, block.start : block.stop]
            for depth, (bias, weight) in enumerate(hidden):
                target = buffers[depth % 2][: len(bias) * size].view(len(bias), size)
                rows = silu(th.addmm(bias, weight, rows, out=target), inplace=True)
            th.addmm(last_bias, last_weight, rows, out=out[:, block.start : block.stop])

    threads = 1 if x.is_cuda else min(th.get_num_threads(), count // MIN_ROWS_PER_THREAD)
    in_threads(run, cut(segments, max(threads, 1)))
    return out


def cut(segments: Sequence[tuple[int, int]], shares: int) -> list[list[Block]]:
    """Blocks of at most :data:`BLOCK_ROWS` in ``shares`` parts of the same number of rows."""
    rows = sum(count for _, count in segments)
    ends = [rows * (share + 1) // shares for share in range(shares)]
    parts: list[list[Block]] = [[] for _ in ends]
    start = share = 0
    for member, count in segments:
        stop = start + count
        while start < stop:
            if start == ends[share]:
                share += 1
            end = min(stop, ends[share], start + BLOCK_ROWS)
            parts[share].append(Block(member, start, end))
            start = end
    return [part for part in parts if part]
