"""One affine layer per ensemble member, all members in one batched product."""

from __future__ import annotations

import math

import torch as th
from torch import Tensor, nn


class EnsembleLinear(nn.Module):
    r"""``E`` independent affine maps, :math:`y_e = W_e x_e + b_e`, on feature-major batches.

    Features come first and rows last, because the CPU's matrix product is faster that way round at these sizes.

    Weights start truncated normal with standard deviation :math:`1 / (2\sqrt{n_{in}})` (cut at two standard
    deviations) and biases at zero, as in PETS (Chua et al. 2018, reference implementation).

    Args:
        num_members: ``E``.
        in_features: inputs per row.
        out_features: outputs per row.
        generator: source of the initial weights.
    """

    def __init__(self, num_members: int, in_features: int, out_features: int, *, generator: th.Generator) -> None:
        super().__init__()
        std = 1.0 / (2.0 * math.sqrt(in_features))
        weight = th.empty(num_members, out_features, in_features)
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
        self.weight = nn.Parameter(weight)  # (E, out, in)
        self.bias = nn.Parameter(th.zeros(num_members, out_features, 1))  # (E, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(E, in, B)`` to ``(E, out, B)``; member ``e`` sees its own rows."""
        return th.baddbmm(self.bias, self.weight, x)

    def members(self) -> list[tuple[Tensor, Tensor]]:
        """Bias ``(out, 1)`` and weight ``(out, in)`` of each member, in the order ``addmm`` takes them."""
        return list(zip(self.bias.unbind(), self.weight.unbind(), strict=True))
