"""The range in which values can lie, from the rewards that the policy earns."""

from __future__ import annotations

import torch as th
from torch import Tensor, nn

SMALLEST_SCALE = 1e-3


class ValueBounds(nn.Module):
    r"""Bounds on discounted returns, :math:`[q_{low}, q_{high}]`, that follow the policy's rewards slowly.

    With the quantiles :math:`\rho_q` of the soft rewards :math:`r - \alpha \ln \pi` in a batch,

    .. math:: q_{low} = \min(\rho_{q}, 0) / (1 - \gamma), \quad q_{high} = \max(\rho_{1 - q}, 0) / (1 - \gamma)

    (DHMBPO, Kubo et al. 2024, reference implementation, which leaves out the zero: a task that pays at least one per
    step would then value a fall like many steps more). Zero is inside because it is the value after a termination. The
    first batch sets the bounds; each later one moves them by a share of the distance.

    Attributes:
        low: ``()``.
        high: ``()``.
        known: ``()`` bool, whether a batch was seen.
    """

    low: Tensor
    high: Tensor
    known: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", th.zeros(()))
        self.register_buffer("high", th.zeros(()))
        self.register_buffer("known", th.zeros((), dtype=th.bool))

    @th.no_grad()
    def follow(self, rewards: Tensor, *, discount: float, quantile: float, rate: float) -> None:
        r"""Move towards the bounds of soft ``rewards (n,)``; none leaves them as they are.

        Args:
            rewards: of steps that took place.
            discount: :math:`\gamma` below 1.
            quantile: share of the rewards on each side that is taken for outliers.
            rate: share of the distance that is moved.
        """
        if not len(rewards):
            return
        edges = th.quantile(rewards, rewards.new_tensor([quantile, 1 - quantile])) / (1 - discount)
        low, high = edges[0].clamp(max=0), edges[1].clamp(min=0)
        if not self.known:
            self.low.copy_(low)
            self.high.copy_(high)
            self.known.fill_(True)
        else:
            self.low.lerp_(low, rate)
            self.high.lerp_(high, rate)

    def scaled(self, outputs: Tensor) -> Tensor:
        """Network outputs, about in [-1, 1], as values: 0 is the middle of the bounds and 1 the upper one."""
        scale = ((self.high - self.low) / 2).clamp(min=SMALLEST_SCALE)
        return outputs * scale + (self.high + self.low) / 2

    def clipped(self, values: Tensor) -> Tensor:
        """``values`` inside the bounds; as they are before any rewards were seen."""
        return values.clamp(self.low, self.high) if self.known else values
