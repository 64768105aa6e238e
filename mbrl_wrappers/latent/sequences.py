"""Pieces of episodes: what a latent state-space model is trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor

from mbrl_wrappers.types import Transitions


class SequenceBatch(NamedTuple):
    r"""Pieces of episodes :math:`o_1, a_1, r_1, o_2, \dots, a_{T-1}, r_{T-1}, o_T` in raw units, padded at the end.

    Action, reward and termination number :math:`t` belong to the step from :math:`o_t` to :math:`o_{t+1}`. A piece
    never crosses the end of an episode; its last observation is the true successor.

    Attributes:
        obs: ``(B, T, O)``.
        action: ``(B, T - 1, A)`` model actions.
        reward: ``(B, T - 1)``.
        terminated: ``(B, T - 1)`` bool, time limits excluded.
        first: ``(B,)`` bool, whether an episode begins with ``obs[:, 0]``.
        length: ``(B,)`` int64, how many observations a row has, from 1 to ``T``; what follows them is padding.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    first: Tensor
    length: Tensor

    @property
    def valid(self) -> Tensor:
        """Which observations are no padding, ``(B, T)`` bool."""
        return th.arange(self.obs.shape[1], device=self.obs.device) < self.length[:, None]

    @property
    def valid_steps(self) -> Tensor:
        """Which steps are no padding, ``(B, T - 1)`` bool."""
        return self.valid[:, 1:]

    def to(self, device: th.device) -> SequenceBatch:
        """The same pieces on ``device``."""
        return SequenceBatch(*(column.to(device) for column in self))

    def cut(self, steps: int) -> SequenceBatch:
        """The first ``steps`` observations of each piece, and what lies between them."""
        return SequenceBatch(
            obs=self.obs[:, :steps],
            action=self.action[:, : steps - 1],
            reward=self.reward[:, : steps - 1],
            terminated=self.terminated[:, : steps - 1],
            first=self.first,
            length=self.length.clamp(max=steps),
        )

    @classmethod
    def of_episode(cls, rows: Transitions, *, first: bool = True) -> SequenceBatch:
        """Consecutive ``rows`` of one episode as one piece.

        Args:
            rows: in the order of time, without an end in between.
            first: whether an episode begins with them.
        """
        obs = th.cat([rows.obs, rows.next_obs[-1:]])[None]
        return cls(
            obs=obs,
            action=rows.action[None],
            reward=rows.reward[None],
            terminated=rows.terminated[None],
            first=th.tensor([first], device=obs.device),
            length=th.tensor([obs.shape[1]], device=obs.device),
        )
