"""Rows of a model's state that are no tensors, such as snapshots of an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch as th
from torch import Tensor

T = TypeVar("T")


class Objects(Generic[T]):
    """An immutable column of ``B`` Python objects that is rearranged as if it were a tensor.

    It keeps a table of objects and an int64 tensor that says which of them each row holds, so whatever rearranges
    rows of tensors (an index, ``repeat_interleave``, ``cat``, ``index_copy``) is applied to that tensor: rows share
    objects and never copy them. The functions of :mod:`mbrl_wrappers.rows` accept it wherever a tensor may stand.

    Args:
        table: the objects. Nothing here changes them; whoever reads one must not either.
        index: ``(B,)`` int64, which object each row holds; one row per object when left out.
    """

    def __init__(self, table: Sequence[T], index: Tensor | None = None) -> None:
        self._table = tuple(table)
        self.index = th.arange(len(self._table)) if index is None else index  # (B,)

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[T]:
        return (self._table[place] for place in self.index.tolist())

    def __getitem__(self, rows: Tensor) -> Objects[T]:
        """The rows ``rows`` (int64 indices or a bool mask)."""
        return Objects(self._table, self.index[rows])

    def map_rows(self, function: Callable[..., Tensor], *others: Objects[T]) -> Objects[T]:
        """Apply to the rows what ``function(tensor, *tensors) -> tensor`` does to the rows of tensors."""
        table, indices = list(self._table), [self.index]
        for other in others:
            indices.append(other.index + len(table))
            table.extend(other._table)
        index = function(*indices)
        if not others:
            return Objects(table, index)
        used, index = index.unique(return_inverse=True)  # else a state would keep every object that ever was in it
        return Objects([table[place] for place in used.tolist()], index)
