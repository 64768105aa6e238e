"""Spread of the returns of a plan's particles, split into disagreement of the members and noise."""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor


class ReturnSpread(NamedTuple):
    r"""Standard deviations of the return of one action sequence, each ``(N,)`` in units of reward.

    By the law of total variance, with :math:`m` the member that a particle follows from the start to the horizon,

    .. math:: \mathrm{Var}(R) = \underbrace{\mathrm{Var}_m\,E[R \mid m]}_{\text{epistemic}}
              + \underbrace{E_m\,\mathrm{Var}[R \mid m]}_{\text{aleatoric}}.

    The aleatoric part is the pooled variance of particles that follow the same member, the epistemic one the variance
    of the members' means less what the aleatoric part adds to it by chance (analysis of variance, as in Chua et al.
    2018, section 5.1, with particles for draws). The epistemic part measures the disagreement of the members drawn, so
    it covers model uncertainty only as far as the ensemble does.

    Attributes:
        total: deviation of all particles (divisor ``K``), NaN for a single one.
        epistemic: between members; 0 where the members agree as well as the noise allows to say.
        aleatoric: within members. Both are NaN where they cannot be told apart: particles that change their member on
            the way (``"ts1"``), a mean of the members, or no member with two particles.
    """

    total: Tensor
    epistemic: Tensor
    aleatoric: Tensor


def return_spread(returns: Tensor, members: Tensor | None) -> ReturnSpread:
    """The spread of ``returns (N, K)`` of particles that follow ``members (N, K)`` int64, or None of their own.

    Rows with a return that is not finite are NaN throughout.
    """
    count = returns.shape[1]
    nothing = th.full_like(returns[:, 0], th.nan)
    total = returns.std(1, correction=0) if count > 1 else nothing
    total = th.where(returns.isfinite().all(1), total, th.nan)
    if members is None or count == 1:
        return ReturnSpread(total, nothing, nothing)
    exact = returns.double()
    follows = (members[:, :, None] == th.arange(int(members.max()) + 1, device=members.device)).double()  # (N, K, E)
    particles = follows.sum(1)  # (N, E)
    means = (follows * exact[:, :, None]).sum(1) / particles.clamp(min=1)
    within = (exact - means.gather(1, members)).square().sum(1)
    between = (particles * (means - exact.mean(1, keepdim=True)).square()).sum(1)
    groups = (particles > 0).sum(1)
    aleatoric = within / (count - groups)  # NaN where every particle has a member of its own
    epistemic = ((between - (groups - 1) * aleatoric) / count).clamp(min=0)
    told_apart = (groups < count) & total.isfinite()
    parts = (th.where(told_apart, part.sqrt(), th.nan).to(returns.dtype) for part in (epistemic, aleatoric))
    return ReturnSpread(total, *parts)
