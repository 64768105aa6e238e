"""How often each outcome of each state and action was seen: the data of a tabular model, and tables to draw from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Generator, Tensor


class OutcomeCounts(NamedTuple):
    """The distinct outcomes ``(s, a, s', terminated)``, ``M`` rows sorted by ``key``.

    With ``pair = s * A + a`` the key is ``(pair * S + s') * 2 + terminated``, all counted from 0.

    Attributes:
        key: ``(M,)`` int64, each once.
        weight: ``(M,)`` float64, how often the outcome was seen; for a model from known probabilities these.
        reward_sum: ``(M,)`` float64, of the rewards seen with it.
    """

    key: NDArray[np.int64]
    weight: NDArray[np.float64]
    reward_sum: NDArray[np.float64]

    @classmethod
    def empty(cls) -> OutcomeCounts:
        """Nothing seen."""
        return cls(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))

    @classmethod
    def of(cls, key: NDArray[np.int64], weight: NDArray[np.float64], reward_sum: NDArray[np.float64]) -> OutcomeCounts:
        """Sum up rows ``(B,)`` of the same key."""
        unique, index = np.unique(key, return_inverse=True)
        sums = [np.bincount(index, column, len(unique)).astype(np.float64) for column in (weight, reward_sum)]
        return cls(unique, *sums)

    def merged(self, other: OutcomeCounts) -> OutcomeCounts:
        """The sum of both sets of counts."""
        return OutcomeCounts.of(*(np.concatenate(columns) for columns in zip(self, other, strict=True)))


class OutcomeTable(NamedTuple):
    """What a model says of every pair, ``N`` rows sorted by pair; a pair never tried has one row.

    Attributes:
        first: ``(S * A + 1,)`` int64, where the rows of each pair begin.
        pair: ``(N,)`` int64.
        next_state: ``(N,)`` int64, counted from 0.
        terminated: ``(N,)`` bool.
        reward: ``(N,)`` float64, the mean over what was seen.
        probability: ``(N,)`` float64, 1 in sum over the rows of a pair.
        tried: ``(S * A,)`` bool.
    """

    first: NDArray[np.int64]
    pair: NDArray[np.int64]
    next_state: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    reward: NDArray[np.float64]
    probability: NDArray[np.float64]
    tried: NDArray[np.bool_]

    @classmethod
    def of(cls, counts: OutcomeCounts, num_states: int, num_actions: int, unseen_reward: float) -> OutcomeTable:
        r"""Maximum-likelihood probabilities :math:`\hat p = N(s, a, s', d) / N(s, a)` and mean rewards.

        A pair that was never tried stays where it is and pays ``unseen_reward``.
        """
        pairs = num_states * num_actions
        pair, rest = np.divmod(counts.key, 2 * num_states)
        total = np.bincount(pair, counts.weight, pairs)
        untried = np.flatnonzero(total == 0)
        columns = (
            np.concatenate([pair, untried]),
            np.concatenate([rest // 2, untried // num_actions]),
            np.concatenate([rest % 2 == 1, np.zeros(len(untried), np.bool_)]),
            np.concatenate([counts.reward_sum / counts.weight, np.full(len(untried), unseen_reward)]),
            np.concatenate([counts.weight / total[pair], np.ones(len(untried))]),
        )
        order = np.argsort(columns[0], kind="stable")
        pair, next_state, terminated, reward, probability = (column[order] for column in columns)
        first = np.searchsorted(pair, np.arange(pairs + 1)).astype(np.int64)
        return cls(first, pair, next_state, terminated, reward, probability, total > 0)


class DrawTables(NamedTuple):
    """:class:`OutcomeTable` as tensors to draw rows from: ``edge (N,)`` is the pair plus the cumulated probability."""

    first: Tensor
    edge: Tensor
    next_state: Tensor
    terminated: Tensor
    reward: Tensor

    @classmethod
    def of(cls, outcomes: OutcomeTable, device: th.device) -> DrawTables:
        """Tables on ``device``."""
        before = np.concatenate([[0.0], np.cumsum(outcomes.probability)])
        edge = outcomes.pair + (before[1:] - before[outcomes.first[outcomes.pair]])
        # Rounding must not let one pair's rows reach into the next one's.
        edge = np.minimum(edge, outcomes.pair + 1.0)
        columns = (outcomes.first, edge, outcomes.next_state, outcomes.terminated, outcomes.reward.astype(np.float32))
        return cls(*(th.as_tensor(column, device=device) for column in columns))

    def draw(self, pair: Tensor, groups: int, generator: Generator) -> Tensor:
        """One outcome ``(B,)`` for each ``pair (B,)``, by its probability; the ``groups`` equal blocks share draws."""
        uniform = th.rand(len(pair) // groups, generator=generator, device=self.edge.device, dtype=th.float64)
        found = th.searchsorted(self.edge, pair + uniform.repeat(groups), right=True)
        return found.clamp(self.first[pair], self.first[pair + 1] - 1)
