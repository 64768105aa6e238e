"""A multilayer perceptron per ensemble member, with a batched path and a routed one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch as th
from torch import Tensor, nn
from torch.nn.functional import silu

from mbrl_wrappers.nets.ensemble_linear import EnsembleLinear

# Rows evaluated at a time: the activations of a block (512 x 200 float32 = 400 KB) stay in a core's L2 cache.
BLOCK_ROWS = 512


class EnsembleMLP(nn.Module):
    """``E`` perceptrons with SiLU between layers and a linear output.

    Two ways in: :meth:`forward` gives every member its own batch (training, evaluation of all members),
    :meth:`route` sends each row through one member only (rollouts), which costs ``1/E`` of it.

    Args:
        num_members: ``E``.
        in_features: inputs per row.
        hidden: width of each hidden layer.
        out_features: outputs per row.
        generator: source of the initial weights.
    """

    def __init__(
        self, num_members: int, in_features: int, hidden: Sequence[int], out_features: int, *, generator: th.Generator
    ) -> None:
        super().__init__()
        sizes = (in_features, *hidden, out_features)
        self.num_members = num_members
        self.out_features = out_features
        self.layers = nn.ModuleList(EnsembleLinear(num_members, a, b, generator=generator) for a, b in pairwise(sizes))

    def linear_layers(self) -> list[EnsembleLinear]:
        """The affine layers from input to output."""
        return cast(list[EnsembleLinear], list(self.layers))

    def forward(self, x: Tensor) -> Tensor:
        """``(E, B, in)`` to ``(E, B, out)``."""
        *hidden, output = self.linear_layers()
        x = x.transpose(1, 2)
        for layer in hidden:
            x = silu(layer(x))
        y: Tensor = output(x)
        return y.transpose(1, 2)

    def route(self, x: Tensor, member: Tensor) -> Tensor:
        """``(B, in)`` and the member of each row ``(B,)`` to ``(B, out)``; differentiable in ``x``."""
        # Small integers sort faster than int64; a stable order keeps runs repeatable.
        order = th.argsort(member.to(th.uint8) if self.num_members < 256 else member, stable=True)
        counts = th.bincount(member, minlength=self.num_members).tolist()
        grouped = x[order].t().contiguous().split(counts, dim=1)  # E of (in, B_e)
        needs_grad = th.is_grad_enabled() and (x.requires_grad or self.layers[0].weight.requires_grad)
        evaluate = self._evaluate if needs_grad else self._evaluate_in_blocks
        outputs = [evaluate(rows, index) for index, rows in enumerate(grouped) if rows.shape[1]]
        if not outputs:
            return x.new_empty(0, self.out_features)
        inverse = th.empty_like(order)
        inverse[order] = th.arange(len(order), device=order.device)
        return th.cat(outputs, dim=1).t().contiguous()[inverse]

    def _evaluate(self, x: Tensor, index: int) -> Tensor:
        *hidden, output = self.linear_layers()
        for layer in hidden:
            bias, weight = layer.member(index)
            x = silu(th.addmm(bias, weight, x))
        bias, weight = output.member(index)
        return th.addmm(bias, weight, x)

    def _evaluate_in_blocks(self, x: Tensor, index: int) -> Tensor:
        """The same values without a graph, block by block in buffers that stay in cache."""
        *hidden, output = [layer.member(index) for layer in self.linear_layers()]
        blocks = []
        buffers: list[Tensor] = []
        for block in x.split(BLOCK_ROWS, dim=1):
            if not buffers or buffers[0].shape[1] != block.shape[1]:
                buffers = [x.new_empty(len(bias), block.shape[1]) for bias, _ in hidden]
            for (bias, weight), buffer in zip(hidden, buffers, strict=True):
                block = silu(th.addmm(bias, weight, block, out=buffer), inplace=True)
            blocks.append(th.addmm(output[0], output[1], block))
        return th.cat(blocks, dim=1)
