r"""What the double-horizon agent learns from: soft returns of short unrolled trajectories.

A :class:`Segment` is ``H`` steps of the policy and the action that follows them. With the values :math:`Q_H` of that
action, :math:`m_t` whether a row was alive before step :math:`t`, and :math:`\ell_t = \ln \pi(a_t | s_t)`,

.. math::
    y &= \sum_{t<H} \gamma^t m_t r_t - \sum_{t=1}^{H} \gamma^t m_t \alpha \ell_t + \gamma^H m_H Q_H, \\
    J &= \sum_{t<H} \gamma^t m_t (r_t - \alpha \ell_t) + \gamma^H m_H (Q_H - \alpha \ell_H)

are the target of the first action's value and the objective of the actor (DHMBPO, Kubo et al. 2024, "Double horizon
model-based policy optimization"). With ``H = 0``, :math:`J` is SAC's objective, and with ``H = 1``, :math:`y` is SAC's
target. A step that is not valid did not take place: the row ends before it, in the value there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor

from mbrl_wrappers.returns import lambda_returns
from mbrl_wrappers.unroll import Unrolled


class Segment(NamedTuple):
    """``H`` steps of ``B`` rows, and the action after them.

    Attributes:
        unrolled: the steps, with log-probabilities.
        last_action: ``(B, A)`` model action in the last observation.
        last_log_prob: ``(B,)`` of it.
    """

    unrolled: Unrolled
    last_action: Tensor
    last_log_prob: Tensor

    @property
    def first_log_prob(self) -> Tensor:
        """The log-probability ``(B,)`` of each row's first action."""
        log_prob = self.unrolled.log_prob
        return self.last_log_prob if log_prob is None or not len(log_prob) else log_prob[0]

    def soft_rewards(self, alpha: Tensor) -> Tensor:
        r"""Rewards less the cost of certainty, :math:`r_t - \alpha \ell_t`, ``(H, B)``."""
        log_prob = self.unrolled.log_prob
        return self.unrolled.reward if log_prob is None else self.unrolled.reward - alpha * log_prob

    def targets(self, last_value: Tensor, alpha: Tensor, discount: float) -> Tensor:
        """The target :math:`y` of each row's first action, ``(B,)``, given the values ``(B,)`` of the last ones."""
        rewards = th.cat([self.unrolled.reward[:1], self.soft_rewards(alpha)[1:]])
        return self._returns(rewards, last_value, alpha, discount)

    def objective(self, last_value: Tensor, alpha: Tensor, discount: float) -> Tensor:
        """The soft return :math:`J` of each row, ``(B,)``, given the values ``(B,)`` of the last actions."""
        return self._returns(self.soft_rewards(alpha), last_value, alpha, discount)

    def _returns(self, rewards: Tensor, last_value: Tensor, alpha: Tensor, discount: float) -> Tensor:
        # A row that ended at a step that is not valid repeats its last observation: its value is the last one too.
        values = (last_value - alpha * self.last_log_prob).expand(len(rewards) + 1, -1)
        return lambda_returns(self.unrolled._replace(reward=rewards), values, discount=discount)[0]


def real_segment(obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor) -> Unrolled:
    """One recorded step of ``B`` rows as a segment's steps."""
    ended = terminated.bool()
    return Unrolled(
        obs=th.stack([obs, next_obs]),
        action=action[None],
        reward=reward[None],
        alive=th.stack([th.ones_like(ended), ~ended]),
        terminated=ended[None],
        log_prob=None,
    )


def critic_loss(values: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """The squared error of every critic's ``values (E, B)``: mean over ``valid (B,)`` rows, summed over critics."""
    error = th.where(valid, (values - targets).square(), 0.0)
    return error.sum() / valid.sum().clamp(min=1)
