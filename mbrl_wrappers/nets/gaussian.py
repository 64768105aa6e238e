"""A diagonal Gaussian head whose log-variance is bounded."""

from __future__ import annotations

import torch as th
from torch import Tensor, nn
from torch.nn.functional import softplus

# Learned limits stay so far apart, in units of the log-variance, whatever pulls at them.
MIN_WIDTH = 2.0


class BoundedLogVariance(nn.Module):
    r"""Soft limits on a log-variance (PETS, Chua et al. 2018, appendix A.1).

    .. math:: \ell' = \ell_{max} - \mathrm{softplus}(\ell_{max} - \ell), \quad
              \ell = \ell_{min} + \mathrm{softplus}(\ell' - \ell_{min})

    Fixed limits are shared by all members. Learned limits are those of each member; :meth:`penalty` pulls them
    together and :meth:`keep_apart`, called after each optimiser step, keeps each on its own side of the middle
    between the initial limits, at least :data:`MIN_WIDTH` apart. Limits that cross would leave the head without a
    gradient: its output would be the same for all inputs, for good.

    Args:
        size: predicted dimensions ``D``.
        low: lower limit, the initial one where it is learned.
        high: upper limit.
        learn_for: members ``E`` whose limits are trained, or None for fixed limits.

    Attributes:
        low: ``(D,)`` when fixed, ``(E, D)`` when learned.
        high: the same.

    Raises:
        ValueError: for limits that are closer than :data:`MIN_WIDTH`, where they are learned, or not in order.
    """

    low: Tensor
    high: Tensor

    def __init__(self, size: int, low: float = -10.0, high: float = 0.5, *, learn_for: int | None = None) -> None:
        super().__init__()
        if low >= high:
            raise ValueError(f"The lower limit of the log-variance ({low}) must be below the upper one ({high}).")
        if learn_for is not None and high - low < MIN_WIDTH:
            raise ValueError(f"Learned limits of the log-variance must begin {MIN_WIDTH} apart, got {low} and {high}.")
        self.learn = learn_for is not None
        self._middle = (low + high) / 2
        for name, value in (("low", low), ("high", high)):
            if learn_for is None:
                self.register_buffer(name, th.full((size,), float(value)))
            else:
                self.register_parameter(name, nn.Parameter(th.full((learn_for, size), float(value))))

    def limits(self, member: Tensor | None) -> tuple[Tensor, Tensor]:
        """The limits of each ``member (...)`` int64: ``(..., D)``, or ``(D,)`` where all members share them."""
        if not self.learn:
            return self.low, self.high
        assert member is not None, "learned limits differ between members"
        return self.low[member], self.high[member]

    def forward(self, raw: Tensor, member: Tensor | None = None) -> Tensor:
        """Unbounded ``(..., D)`` to bounded log-variance ``(..., D)``; learned limits need ``member (...)``."""
        low, high = self.limits(member)
        raw = high - softplus(high - raw)
        return low + softplus(raw - low)

    def std(self, raw: Tensor, member: Tensor | None = None) -> Tensor:
        r"""The standard deviation that belongs to the bounded value of ``raw (..., D)``, without a logarithm.

        .. math:: e^{\ell / 2} = \sqrt{e^{\ell_{min}} + e^{\ell_{max}} S(\ell - \ell_{max})}

        with the logistic function :math:`S`: what two softplus and an exponential come to.
        """
        low, high = self.limits(member)
        return th.addcmul(th.exp(low), th.exp(high), th.sigmoid(raw - high)).sqrt()

    def penalty(self) -> Tensor:
        """The widths between the limits summed over dimensions: of each member ``(E,)``, or ``()`` zero when fixed."""
        return (self.high - self.low).sum(-1) if self.learn else self.high.new_zeros(())

    @th.no_grad()
    def keep_apart(self) -> None:
        """Move learned limits that came too near to the other one back; fixed limits stay."""
        if self.learn:
            self.low.clamp_(max=self._middle - MIN_WIDTH / 2)
            self.high.clamp_(min=self._middle + MIN_WIDTH / 2)


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor, beta: float = 0.0) -> Tensor:
    r"""Twice the negative log-likelihood up to a constant, elementwise, weighted by a power of the variance.

    .. math:: \lfloor v^\beta \rfloor \Big[\frac{(y - \mu)^2}{v} + \ln v\Big], \quad v = e^\ell

    where the brackets stop the gradient (Seitzer et al. 2022, "On the pitfalls of heteroscedastic uncertainty
    estimation", equation 5). With ``beta=0`` the dimensions that are already predicted well drown the others, since
    their errors are divided by a small variance.
    """
    nll = (target - mean).square() * th.exp(-log_variance) + log_variance
    return nll * th.exp(beta * log_variance.detach()) if beta else nll
