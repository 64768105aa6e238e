"""A diagonal Gaussian head whose log-variance is bounded."""

from __future__ import annotations

import torch as th
from torch import Tensor, nn
from torch.nn.functional import softplus


class BoundedLogVariance(nn.Module):
    r"""Soft limits on a log-variance (PETS, Chua et al. 2018, appendix A.1).

    .. math:: \ell' = \ell_{max} - \mathrm{softplus}(\ell_{max} - \ell), \quad
              \ell = \ell_{min} + \mathrm{softplus}(\ell' - \ell_{min})

    Learned limits are kept apart only by data and pulled together by :meth:`penalty`; fixed limits have no
    penalty, since it would have nothing to move.

    Args:
        size: predicted dimensions ``D``.
        low: initial lower limit.
        high: initial upper limit.
        learn: whether the limits are trained.
    """

    low: Tensor
    high: Tensor

    def __init__(self, size: int, low: float = -10.0, high: float = 0.5, *, learn: bool = True) -> None:
        super().__init__()
        if low >= high:
            raise ValueError(f"The lower limit of the log-variance ({low}) must be below the upper one ({high}).")
        self.learn = learn
        for name, value in (("low", low), ("high", high)):
            limit = th.full((size,), float(value))
            if learn:
                self.register_parameter(name, nn.Parameter(limit))
            else:
                self.register_buffer(name, limit)

    def forward(self, raw: Tensor) -> Tensor:
        """Unbounded ``(..., D)`` to bounded log-variance ``(..., D)``."""
        raw = self.high - softplus(self.high - raw)
        return self.low + softplus(raw - self.low)

    def std(self, raw: Tensor) -> Tensor:
        r"""The standard deviation that belongs to the bounded value of ``raw (..., D)``, without a logarithm.

        .. math:: e^{\ell / 2} = \sqrt{e^{\ell_{min}} + e^{\ell_{max}} S(\ell - \ell_{max})}

        with the logistic function :math:`S`: what two softplus and an exponential come to.
        """
        return th.addcmul(th.exp(self.low), th.exp(self.high), th.sigmoid(raw - self.high)).sqrt()

    def penalty(self) -> Tensor:
        """The sum of the widths between the limits, ``()``; zero when they are fixed."""
        return (self.high - self.low).sum() if self.learn else self.high.new_zeros(())


def gaussian_nll(mean: Tensor, log_variance: Tensor, target: Tensor, beta: float = 0.0) -> Tensor:
    r"""Twice the negative log-likelihood up to a constant, elementwise, weighted by a power of the variance.

    .. math:: \lfloor v^\beta \rfloor \Big[\frac{(y - \mu)^2}{v} + \ln v\Big], \quad v = e^\ell

    where the brackets stop the gradient (Seitzer et al. 2022, "On the pitfalls of heteroscedastic uncertainty
    estimation", equation 5). With ``beta=0`` the dimensions that are already predicted well drown the others, since
    their errors are divided by a small variance.
    """
    nll = (target - mean).square() * th.exp(-log_variance) + log_variance
    return nll * th.exp(beta * log_variance.detach()) if beta else nll
