"""The newest states that a policy visits inside a model."""

from __future__ import annotations

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least


class StateRing:
    """A ring of observations in raw units, from which updates start; nothing else of a rollout is kept.

    Args:
        capacity: observations kept, the newest.

    Raises:
        ValueError: for a capacity below 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = at_least("capacity", capacity)
        self._rows: Tensor | None = None
        self._next = 0
        self._stored = 0

    def __len__(self) -> int:
        return self._stored

    def push(self, obs: Tensor) -> None:
        """Store ``obs (B, O)`` in place of the oldest; of more than the capacity, the last ones."""
        obs = obs.detach()[-self.capacity :]
        if self._rows is None or self._rows.dtype != obs.dtype or self._rows.shape[1:] != obs.shape[1:]:
            self._rows, self._next, self._stored = obs.new_empty(self.capacity, *obs.shape[1:]), 0, 0
        until_end = min(len(obs), self.capacity - self._next)
        self._rows[self._next : self._next + until_end] = obs[:until_end]
        self._rows[: len(obs) - until_end] = obs[until_end:]
        self._next = (self._next + len(obs)) % self.capacity
        self._stored = min(self._stored + len(obs), self.capacity)

    def sample(self, count: int, *, generator: Generator) -> Tensor:
        """``count`` stored observations ``(count, O)``, uniform and with replacement.

        Raises:
            ValueError: if none is stored.
        """
        if self._rows is None or not self._stored:
            raise ValueError("The ring is empty: push observations before any are drawn.")
        index = th.randint(self._stored, (count,), generator=generator, device=self._rows.device)
        return self._rows.index_select(0, index)
