"""A multilayer perceptron per ensemble member, with a batched path and a routed one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch as th
from torch import Tensor, nn
from torch.nn.functional import silu

from mbrl_wrappers.nets.ensemble_linear import EnsembleLinear

# Rows evaluated at a time: the activations of a block (768 x 200 float32 = 600 KB) stay in a core's L2 cache.
BLOCK_ROWS = 768


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
        grouped = x[order].t().contiguous()  # (in, B), the rows of one member after the other
        needs_grad = th.is_grad_enabled() and (x.requires_grad or self.linear_layers()[0].weight.requires_grad)
        if needs_grad:
            outputs = self._evaluate(grouped, counts).t()
            return th.zeros_like(outputs).index_copy(0, order, outputs)
        outputs = self._evaluate_in_blocks(grouped, counts).t()
        return x.new_empty(outputs.shape).index_copy_(0, order, outputs)

    def _evaluate(self, x: Tensor, counts: list[int]) -> Tensor:
        """``(in, B)``, grouped by member, to ``(out, B)``."""
        layers = [layer.members() for layer in self.linear_layers()]
        outputs = []
        for rows, *weights in zip(x.split(counts, dim=1), *layers, strict=True):
            for bias, weight in weights[:-1]:
                rows = silu(th.addmm(bias, weight, rows))
            bias, weight = weights[-1]
            outputs.append(th.addmm(bias, weight, rows))
        return th.cat(outputs, dim=1)

    def _evaluate_in_blocks(self, x: Tensor, counts: list[int]) -> Tensor:
        """The same values without a graph, block by block in two buffers that take turns and stay in cache."""
        layers = [layer.members() for layer in self.linear_layers()]  # [layer][member]
        width = max(layer.bias.shape[1] for layer in self.linear_layers()[:-1])
        buffers = x.new_empty(2, width * min(BLOCK_ROWS, max(counts))).unbind()
        outputs = []
        for rows, *weights in zip(x.split(counts, dim=1), *layers, strict=True):
            if not rows.shape[1]:
                continue
            *hidden, (last_bias, last_weight) = weights
            for block in rows.split(BLOCK_ROWS, dim=1):
                count = block.shape[1]
                for depth, (bias, weight) in enumerate(hidden):
                    out = buffers[depth % 2][: len(bias) * count].view(len(bias), count)
                    block = silu(th.addmm(bias, weight, block, out=out), inplace=True)
                outputs.append(th.addmm(last_bias, last_weight, block))
        return th.cat(outputs, dim=1) if outputs else x.new_empty(self.out_features, 0)
