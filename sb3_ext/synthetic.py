"""The model's own transitions, in the layout in which SB3 trains on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.types import Transitions

FloatArray = NDArray[np.float32]


class SyntheticRows(NamedTuple):
    """Rows as SB3 stores them: ``obs (B, O)``, ``action (B, A)`` scaled or ``(B, 1)`` index, the rest ``(B, 1)``."""

    obs: FloatArray
    action: NDArray[Any]
    next_obs: FloatArray
    terminated: FloatArray
    reward: FloatArray


class SyntheticBuffer:
    """A ring of imagined transitions; memory is taken when the first rows arrive and when the capacity changes.

    Args:
        obs_size: ``O``.
        codec: turns one-hot model actions into the index SB3 stores for Discrete spaces.
        capacity: rows kept at most.
    """

    def __init__(self, obs_size: int, codec: ActionCodec, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"The capacity of the synthetic buffer must be at least 1, got {capacity}.")
        self.obs_size = obs_size
        self.codec = codec
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        """Forget every row and give the memory back."""
        self._columns: SyntheticRows | None = None
        self._position = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def row_bytes(self) -> int:
        """Memory of one row."""
        action = 8 if self.codec.is_discrete else 4 * self.codec.size
        return 4 * (2 * self.obs_size + 2) + action

    def set_capacity(self, capacity: int) -> None:
        """Change how many rows are kept; the newest survive."""
        if capacity == self.capacity:
            return
        if capacity < 1:
            raise ValueError(f"The capacity of the synthetic buffer must be at least 1, got {capacity}.")
        kept = self._newest(min(capacity, self._size)) if self._columns is not None else None
        self.capacity = capacity
        self.clear()
        if kept is not None:
            self._write(kept)

    def add_batch(self, transitions: Transitions) -> None:
        """Append rows; when there are more than fit, the oldest go (of a batch larger than the ring, too)."""
        action = transitions.action
        stored = self.codec.decode(action)[:, None] if self.codec.is_discrete else action
        rows = SyntheticRows(
            transitions.obs.cpu().numpy(),
            stored.cpu().numpy(),
            transitions.next_obs.cpu().numpy(),
            transitions.terminated.float().cpu().numpy()[:, None],
            transitions.reward.cpu().numpy()[:, None],
        )
        self._write(rows)

    def take(self, index: NDArray[np.int64]) -> SyntheticRows:
        """The rows ``index`` of the ring, a copy."""
        if self._columns is None:
            raise IndexError("The synthetic buffer is empty.")
        return SyntheticRows(*(column[index] for column in self._columns))

    def _write(self, rows: SyntheticRows) -> None:
        rows = SyntheticRows(*(column[-self.capacity :] for column in rows))
        count = len(rows.obs)
        if self._columns is None:
            self._columns = SyntheticRows(
                *(np.zeros((self.capacity, column.shape[1]), dtype=column.dtype) for column in rows)
            )
        first = min(count, self.capacity - self._position)
        for ring, column in zip(self._columns, rows, strict=True):
            ring[self._position : self._position + first] = column[:first]
            ring[: count - first] = column[first:]
        self._position = (self._position + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def _newest(self, count: int) -> SyntheticRows:
        return self.take((self._position - count + np.arange(count)) % self.capacity)
