"""A multilayer perceptron per ensemble member, with a batched path and a routed one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch as th
from torch import Tensor, nn
from torch.nn.functional import silu

from mbrl_wrappers.nets.blocks import evaluate_in_blocks
from mbrl_wrappers.nets.ensemble_linear import EnsembleLinear
from mbrl_wrappers.nets.layer_norm import normalize_features
from mbrl_wrappers.nets.routing import Routing


class EnsembleMLP(nn.Module):
    """``E`` perceptrons with SiLU between layers and a linear output.

    Two ways in: :meth:`forward` gives every member its own batch (training, evaluation of all members),
    :meth:`route` sends each row through one member only (rollouts), which costs ``1/E`` of it.

    Args:
        num_members: ``E``.
        in_features: inputs per row.
        hidden: width of each hidden layer.
        out_features: outputs per row.
        layer_norm: normalise the features of each hidden layer before SiLU, without learned scales.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        num_members: int,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        layer_norm: bool = False,
        generator: th.Generator,
    ) -> None:
        super().__init__()
        self.layer_norm = layer_norm
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
            x = silu(self._normed(layer(x), 1))
        y: Tensor = output(x)
        return y.transpose(1, 2)

    def route(self, x: Tensor, routing: Routing) -> Tensor:
        """``(B, in)`` to ``(P, out)``, the output of row ``order[i]`` at place ``i``.

        In memory the features of the result come first, so that operations on each of them run through consecutive
        numbers. Differentiable; faster where no gradient is recorded.
        """
        grouped = x.index_select(0, routing.order).t().contiguous()
        if not th.is_grad_enabled():
            return evaluate_in_blocks(self.linear_layers(), grouped, routing.segments, layer_norm=self.layer_norm).t()
        return self._evaluate(grouped, routing).t()

    def _normed(self, x: Tensor, features: int) -> Tensor:
        """``x`` with its axis ``features`` normalised, where that is asked for."""
        return normalize_features(x, features) if self.layer_norm else x

    def _evaluate(self, x: Tensor, routing: Routing) -> Tensor:
        """``(in, P)``, grouped by member, to ``(out, P)``."""
        if len(routing.segments) > 1 and len({count for _, count in routing.segments}) == 1:
            return self._evaluate_together(x, [member for member, _ in routing.segments])
        weights = list(zip(*(layer.members() for layer in self.linear_layers()), strict=True))
        outputs = [x.new_empty(self.out_features, 0)]
        for rows, (member, _) in zip(
            x.split([count for _, count in routing.segments], 1), routing.segments, strict=True
        ):
            *hidden, (last_bias, last_weight) = weights[member]
            for bias, weight in hidden:
                rows = silu(self._normed(th.addmm(bias, weight, rows), 0))
            outputs.append(th.addmm(last_bias, last_weight, rows))
        return th.cat(outputs, dim=1)

    def _evaluate_together(self, x: Tensor, members: Sequence[int]) -> Tensor:
        """``(in, P)``, equally many places for each of ``members``, to ``(out, P)``: one product per layer."""
        order = sorted(range(len(members)), key=lambda place: members[place])
        ranked = [members[place] for place in order]
        whole = ranked == list(range(self.num_members))  # then no weight has to be copied
        index = th.tensor(ranked, device=x.device)
        rows = x.view(len(x), len(members), -1)[:, order].transpose(0, 1)
        *hidden, last = [
            (layer.bias, layer.weight)
            if whole
            else (layer.bias.index_select(0, index), layer.weight.index_select(0, index))
            for layer in self.linear_layers()
        ]
        for bias, weight in hidden:
            rows = silu(self._normed(th.baddbmm(bias, weight, rows), 1))
        outputs = th.baddbmm(*last, rows).transpose(0, 1)
        back = sorted(range(len(order)), key=lambda place: order[place])
        return outputs[:, back].reshape(self.out_features, -1)
