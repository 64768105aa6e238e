"""The model's own transitions, in the layout in which SB3 trains on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.states import StateDict, require_keys
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
    """Imagined transitions in no particular order, each with the real step at which it was made.

    Memory is taken when the first rows arrive and when the capacity changes. Rows are drawn uniformly, so their order
    carries no meaning: the gap that an old row leaves is filled with the last one.

    Args:
        obs_size: ``O``.
        codec: turns one-hot model actions into the index SB3 stores for Discrete spaces.
        capacity: rows kept at most.
    """

    def __init__(self, obs_size: int, codec: ActionCodec, capacity: int) -> None:
        self.obs_size = obs_size
        self.codec = codec
        self.capacity = at_least("capacity", capacity)
        self.clear()

    def clear(self) -> None:
        """Forget every row and give the memory back."""
        self._columns: SyntheticRows | None = None
        self._made_at = np.zeros(0, np.int64)
        self._size = 0
        self._oldest: int | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def row_bytes(self) -> int:
        """Memory of one row."""
        action = 8 if self.codec.is_discrete else 4 * self.codec.size
        number = 4 if self._columns is None else self._columns.obs.itemsize
        return 2 * number * self.obs_size + 8 + action + self._made_at.itemsize

    @property
    def oldest(self) -> int | None:
        """The real step at which the oldest row was made; None without rows."""
        return self._oldest

    def set_capacity(self, capacity: int) -> None:
        """Change how many rows are kept; the newest survive."""
        if at_least("capacity", capacity) == self.capacity:
            return
        if self._size > capacity:
            self._remove_oldest(self._size - capacity)
        kept, made_at = (
            (None if self._columns is None else self.take(np.arange(self._size))),
            self._made_at[: self._size],
        )
        self.capacity = capacity
        self.clear()
        if kept is not None:
            self._append(kept, made_at)

    def add_batch(self, transitions: Transitions, made_at: int = 0) -> None:
        """Append rows made at the real step ``made_at``; when more than fit are stored, the oldest go.

        Of a batch with more rows than the capacity, the first ones are left out.
        """
        action = transitions.action
        stored = self.codec.decode(action)[:, None] if self.codec.is_discrete else action
        rows = SyntheticRows(
            transitions.obs.cpu().numpy(),
            stored.cpu().numpy(),
            transitions.next_obs.cpu().numpy(),
            transitions.terminated.float().cpu().numpy()[:, None],
            transitions.reward.cpu().numpy()[:, None],
        )
        rows = SyntheticRows(*(column[-self.capacity :] for column in rows))
        overflow = self._size + len(rows.obs) - self.capacity
        if overflow > 0:
            self._remove_oldest(overflow)
        self._append(rows, np.full(len(rows.obs), made_at, np.int64))

    def expire(self, until: int) -> None:
        """Forget the rows that were made at the real step ``until`` or earlier."""
        if self._oldest is not None and self._oldest <= until:
            self._remove(np.flatnonzero(self._made_at[: self._size] <= until))

    def take(self, index: NDArray[np.int64]) -> SyntheticRows:
        """The rows ``index``, each below ``len(self)``; a copy."""
        if self._columns is None:
            raise IndexError("The synthetic buffer is empty.")
        return SyntheticRows(*(column[index] for column in self._columns))

    def state_dict(self) -> StateDict:
        """The rows in their order, which decides what a batch draws; views of the buffer, to be written at once."""
        columns = None if self._columns is None else self._columns._asdict()
        rows = {} if columns is None else {name: column[: self._size] for name, column in columns.items()}
        return {"capacity": self.capacity, "rows": rows, "made_at": self._made_at[: self._size]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold the rows of ``state`` in place of one's own.

        Raises:
            ValueError: if they do not fit these observations and actions; nothing is changed then.
        """
        require_keys(state, ("capacity", "rows", "made_at"), "a synthetic buffer")
        capacity, columns, made_at = at_least("capacity", state["capacity"]), state["rows"], state["made_at"]
        if columns:
            require_keys(columns, SyntheticRows._fields, "a synthetic buffer's rows")
        action = 1 if self.codec.is_discrete else self.codec.size
        for name, width in zip(SyntheticRows._fields, (self.obs_size, action, self.obs_size, 1, 1), strict=True):
            if columns and columns[name].shape != (len(made_at), width):
                raise ValueError(
                    f"{name} of the imagined rows has shape {columns[name].shape}, and {(len(made_at), width)} is "
                    "needed: they are of another task."
                )
        if len(made_at) > capacity:
            raise ValueError(f"There are {len(made_at)} imagined rows, and the capacity is {capacity}.")
        self.clear()
        self.capacity = capacity
        if columns:
            self._append(SyntheticRows(**{name: np.asarray(column) for name, column in columns.items()}), made_at)

    def _append(self, rows: SyntheticRows, made_at: NDArray[np.int64]) -> None:
        if self._columns is None:
            self._columns = SyntheticRows(
                *(np.zeros((self.capacity, column.shape[1]), dtype=column.dtype) for column in rows)
            )
            self._made_at = np.zeros(self.capacity, np.int64)
        end = self._size + len(rows.obs)
        columns: tuple[NDArray[Any], ...] = (*self._columns, self._made_at)
        for column, new in zip(columns, (*rows, made_at), strict=True):
            column[self._size : end] = new
        self._size = end
        self._note_oldest()

    def _remove_oldest(self, count: int) -> None:
        """Remove the ``count`` oldest rows; of rows made at the same step, any."""
        self._remove(np.argpartition(self._made_at[: self._size], count - 1)[:count])

    def _remove(self, index: NDArray[np.int64]) -> None:
        """Remove the rows ``index``; the last rows move into the gaps."""
        assert self._columns is not None
        end = self._size - len(index)
        gone = np.zeros(self._size, bool)
        gone[index] = True
        gaps, moved = np.flatnonzero(gone[:end]), end + np.flatnonzero(~gone[end:])
        columns: tuple[NDArray[Any], ...] = (*self._columns, self._made_at)
        for column in columns:
            column[gaps] = column[moved]
        self._size = end
        self._note_oldest()

    def _note_oldest(self) -> None:
        self._oldest = int(self._made_at[: self._size].min()) if self._size else None
