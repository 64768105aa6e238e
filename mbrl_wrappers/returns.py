r"""Returns of an unrolled policy: the targets of value expansion.

All of them are discounted sums of the rewards of an :class:`~mbrl_wrappers.unroll.Unrolled` that end in a value. In
each row, at each time :math:`t` that it is alive,

* a *valid* step adds its reward, and the value after a termination is zero;
* a step that is not valid did not take place: the return ends there, in the value :math:`V(s_t)` of the observation
  before it, as it does at the horizon.

The values are those of ``obs``, ``(H + 1, B)``. For soft (maximum entropy) returns, give
``unrolled._replace(reward=unrolled.reward - alpha * unrolled.log_prob)`` and soft values. Gradients flow through
rewards and values; a consumer that regresses on a return detaches it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.unroll import Unrolled


def lambda_returns(unrolled: Unrolled, values: Tensor, *, discount: float, lam: float = 1.0) -> Tensor:
    r"""The :math:`\lambda`-return of each observation, ``(H + 1, B)``; zero where a row is not alive.

    .. math:: G_t = r_t + \gamma\,[(1 - \lambda)\,V(s_{t+1}) + \lambda\,G_{t+1}], \quad G_H = V(s_H)

    With :math:`\lambda = 1` these are the targets of model-based value expansion for all imagined steps at once (MVE,
    Feinberg et al. 2018, "Model-based value estimation for efficient model-free reinforcement learning", the TD-k
    trick); with :math:`\lambda = 0`, those of one step.

    Args:
        unrolled: ``H`` steps of ``B`` rows.
        values: ``(H + 1, B)``, of each of ``unrolled.obs``. Those of rows that are not alive are not read.
        discount: :math:`\gamma` in [0, 1].
        lam: :math:`\lambda` in [0, 1].

    Raises:
        ValueError: for values of another shape, and for numbers outside their range.
    """
    _check(unrolled, values, discount)
    within("lam", lam, 0, 1)
    found = [values[-1]]
    for time in reversed(range(len(unrolled.reward))):
        following = found[-1] if lam == 1 else (1 - lam) * values[time + 1] + lam * found[-1]
        found.append(_one_step(unrolled, time, following, values[time], discount))
    return th.where(unrolled.alive, th.stack(found[::-1]), 0.0)


def n_step_returns(unrolled: Unrolled, values: Tensor, steps: int, *, discount: float) -> Tensor:
    r"""The return of each observation after up to ``steps`` steps, ``(H + 1, B)``; zero where a row is not alive.

    .. math:: G_t = \sum_{k=0}^{m-1} \gamma^k r_{t+k} + \gamma^m V(s_{t+m}), \quad m = \min(n, H - t)

    Args:
        unrolled: ``H`` steps of ``B`` rows.
        values: ``(H + 1, B)``, of each of ``unrolled.obs``. Those of rows that are not alive are not read.
        steps: ``n >= 0``; 0 returns the values themselves.
        discount: :math:`\gamma` in [0, 1].

    Raises:
        ValueError: for values of another shape, and for numbers outside their range.
    """
    _check(unrolled, values, discount)
    at_least("steps", steps, 0)
    found = values
    for _ in range(min(steps, len(unrolled.reward))):
        found = th.cat([_one_step(unrolled, slice(None), found[1:], values[:-1], discount), values[-1:]])
    return th.where(unrolled.alive, found, 0.0)


def expansions(unrolled: Unrolled, values: Tensor, *, discount: float) -> Tensor:
    r"""The return of each start after ``h = 0 ... H`` imagined steps, ``(H + 1, B)``.

    .. math:: T_h = \sum_{t<h} \gamma^t r_t + \gamma^h V(s_h)

    These are the candidates that STEVE weighs against each other, see :func:`inverse_variance_mean`. A row that ends
    has the same candidate from there on.

    Args:
        unrolled: ``H`` steps of ``B`` rows.
        values: ``(H + 1, B)``, of each of ``unrolled.obs``. Those of rows that are not alive are not read.
        discount: :math:`\gamma` in [0, 1].

    Raises:
        ValueError: for values of another shape, and for a discount outside its range.
    """
    _check(unrolled, values, discount)
    found, rewards, scale = [values[0]], th.zeros_like(values[0]), 1.0
    for time, valid in enumerate(unrolled.valid):
        rewards, scale = rewards + scale * unrolled.reward[time], scale * discount
        ended = unrolled.terminated[time]
        value = th.where(ended, 0.0, values[time + 1])
        found.append(th.where(valid, rewards + scale * value, found[-1]))
    return th.stack(found)


class Mixture(NamedTuple):
    """Candidates weighed into one: ``mean (B,)``, and ``weights (H + 1, B)`` that sum to 1."""

    mean: Tensor
    weights: Tensor


def inverse_variance_mean(candidates: Tensor, *, epsilon: float = 1e-8) -> Mixture:
    r"""The target of STEVE: candidates weighed by how much the members of ensembles agree about them.

    .. math:: \sum_h w_h \mu_h, \quad w_h = \frac{1 / (\sigma_h^2 + \varepsilon)}{\sum_j 1 / (\sigma_j^2 + \varepsilon)}

    where :math:`\mu_h` and :math:`\sigma_h^2` are mean and variance over the members (Buckman et al. 2018,
    "Sample-efficient reinforcement learning with stochastic ensemble value expansion", equation 6).

    Args:
        candidates: ``(H + 1, M, B)``, :func:`expansions` of each of ``M`` combinations of a dynamics model, a reward
            and a value function.
        epsilon: keeps weights finite where all members agree.

    Raises:
        ValueError: for candidates of another number of axes, or an ``epsilon`` that is not positive.
    """
    if candidates.ndim != 3 or not candidates.shape[1]:
        raise ValueError(f"candidates must have shape (H + 1, M, B) with M >= 1, got {tuple(candidates.shape)}.")
    if not within("epsilon", epsilon, 0):
        raise ValueError("epsilon must be positive: without it, members that agree exactly divide by zero.")
    precision = 1 / (candidates.var(1, correction=0) + epsilon)
    weights = precision / precision.sum(0)
    return Mixture((weights * candidates.mean(1)).sum(0), weights)


def _one_step(unrolled: Unrolled, time: int | slice, following: Tensor, here: Tensor, discount: float) -> Tensor:
    """Reward and discounted value of what follows; where a step is not valid, the value of where it would start."""
    # Selected and not multiplied: a value that is not read may be NaN.
    after = th.where(unrolled.alive[1:][time], following, 0.0)
    return th.where(unrolled.valid[time], unrolled.reward[time] + discount * after, here)


def _check(unrolled: Unrolled, values: Tensor, discount: float) -> None:
    within("discount", discount, 0, 1)
    if values.shape != unrolled.alive.shape:
        raise ValueError(
            f"values must have shape (H + 1, B) = {tuple(unrolled.alive.shape)}, one per observation, got "
            f"{tuple(values.shape)}."
        )
