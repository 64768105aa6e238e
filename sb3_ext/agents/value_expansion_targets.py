r"""The targets of MVE and STEVE as functions of imagined steps and of the values along them.

Both expand the value of the state :math:`s_0` that follows a real transition :math:`(s, a, r, s_0)`, whose target is
then :math:`r + \gamma\,(1 - d)\,\hat V(s_0)`. With an entropy bonus :math:`\alpha` (SAC) rewards and values are soft:
a reward is :math:`r_t - \alpha \ln \pi(a_t | s_t)`, and a value :math:`Q(s, a') - \alpha \ln \pi(a' | s)`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor

from mbrl_wrappers.returns import expansions, inverse_variance_mean, lambda_returns
from mbrl_wrappers.unroll import Unrolled


class ImaginedRows(NamedTuple):
    """What critics regress on beside real rows: ``obs (n, O)``, ``action (n, A)`` and ``target (n,)``."""

    obs: Tensor
    action: Tensor
    target: Tensor


class ExpandedValues(NamedTuple):
    """The values of the states that follow real transitions.

    Attributes:
        value: ``(B,)``.
        rows: imagined rows to learn from; of none where only real rows are.
        weights: ``(H + 1, B)``, the share of each number of imagined steps in ``value``.
        steps: ``()``, valid imagined steps per row that a real step did not end.
        refused: ``()``, share of these rows whose expansion ended in a step that was not valid.
    """

    value: Tensor
    rows: ImaginedRows
    weights: Tensor
    steps: Tensor
    refused: Tensor


def not_imagined(starts: Tensor, action_size: int) -> Unrolled:
    """No steps at all from ``starts (B, O)``: what there is to expand before a model exists."""
    number = starts.new_zeros(0, len(starts))
    alive = th.ones(1, len(starts), dtype=th.bool, device=starts.device)
    return Unrolled(starts[None], starts.new_zeros(0, len(starts), action_size), number, alive, number.bool(), None)


def begun_where(alive: Tensor, unrolled: Unrolled) -> Unrolled:
    """``unrolled`` without the steps of rows that are not ``alive (B,)`` at their start."""
    return unrolled._replace(alive=unrolled.alive & alive, terminated=unrolled.terminated & alive)


def softened(unrolled: Unrolled, alpha: Tensor | float) -> Unrolled:
    """``unrolled`` with the entropy bonus in its rewards; as it is for a deterministic policy."""
    if unrolled.log_prob is None:
        return unrolled
    return unrolled._replace(reward=unrolled.reward - alpha * unrolled.log_prob)


def mve(
    unrolled: Unrolled, values: Tensor, *, discount: float, alpha: Tensor | float, every_step: bool
) -> ExpandedValues:
    r"""Model-based value expansion (MVE, Feinberg et al. 2018, arXiv 1803.00101, equation 3 and algorithm 1).

    .. math:: \hat V(s_0) = \sum_{t<H} \gamma^t r_t + \gamma^H V(s_H)

    With ``every_step``, the imagined action :math:`a_t` of each valid step is a row too, and what was earned from there
    on is its target: critics are then trained on the states that their own targets read (the TD-k trick).

    Args:
        unrolled: ``H`` steps of ``B`` rows of the policy that the targets follow.
        values: ``(H + 1, B)``, of each of ``unrolled.obs``.
        discount: :math:`\gamma`.
        alpha: weight of the entropy.
        every_step: whether imagined steps are rows.
    """
    found = lambda_returns(softened(unrolled, alpha), values, discount=discount)
    steps = unrolled.valid if every_step else th.zeros_like(unrolled.valid)
    # The value of an action counts the entropy of later actions only.
    bonus = 0.0 if unrolled.log_prob is None else alpha * unrolled.log_prob
    rows = ImaginedRows(unrolled.obs[:-1][steps], unrolled.action[steps], (found[:-1] + bonus)[steps])
    weights = th.zeros_like(values)
    weights[-1] = 1
    return ExpandedValues(found[0], rows, weights, *_reach(unrolled))


def steve(
    unrolled: Unrolled, values: Tensor, *, members: int, discount: float, alpha: Tensor | float
) -> ExpandedValues:
    r"""Stochastic ensemble value expansion (STEVE, Buckman et al. 2018, arXiv 1807.01675, equations 5 and 6).

    .. math:: \hat V(s_0) = \sum_h w_h \mu_h, \quad w_h \propto 1 / (\sigma_h^2 + \varepsilon)

    where :math:`\sigma_h^2` is the variance of :math:`\sum_{t<h} \gamma^t r_t + \gamma^h V_l(s_h)` over all pairs of a
    member of the model (whose reward it is as well) and a critic :math:`l`. The paper's :math:`\mu_h` is the mean of
    these; here it is the mean over members of the value that the parent agent would take, which is the smallest of its
    critics. So ``H = 0`` is the parent agent, and keeps its guard against overestimation.

    Args:
        unrolled: ``H`` steps of ``B K`` rows, the ``K`` members of a state side by side.
        values: ``(L, H + 1, B K)``, of each of ``unrolled.obs`` by each of ``L`` critics; the same for all members of a
            start.
        members: ``K``.
        discount: :math:`\gamma`.
        alpha: weight of the entropy.
    """
    soft = softened(unrolled, alpha)

    def per_member(found: Tensor) -> Tensor:  # (H + 1, B K) to (H + 1, K, B)
        split: Tensor = found.unflatten(1, (-1, members))
        return split.transpose(1, 2)

    candidates = th.cat([per_member(expansions(soft, critic, discount=discount)) for critic in values], 1)
    weights = inverse_variance_mean(candidates).weights
    taken = per_member(expansions(soft, values.amin(0), discount=discount))
    # Measured from the first, so that the mean of equal numbers is that number to the last bit.
    mean = taken[:, 0] + (taken - taken[:, :1]).mean(1)
    nothing = ImaginedRows(
        unrolled.obs[0, :0], unrolled.action.new_zeros(0, unrolled.action.shape[-1]), values[0, 0, :0]
    )
    return ExpandedValues((weights * mean).sum(0), nothing, weights, *_reach(unrolled))


def _reach(unrolled: Unrolled) -> tuple[Tensor, Tensor]:
    """Valid steps per row that began, and the share of these that ended without a termination."""
    begun = unrolled.alive[0].sum().clamp(min=1)
    refused = unrolled.alive[0] & ~unrolled.alive[-1] & ~unrolled.terminated.any(0)
    return unrolled.valid.sum() / begun, refused.sum() / begun
