"""A store of model states: rows are added once and gathered in any order and number, cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch as th
from torch import Tensor

from mbrl_wrappers.objects import Objects
from mbrl_wrappers.rows import num_rows

S = TypeVar("S")


class StatePool(Generic[S]):
    """Rows of states that a search tree refers to by number.

    Adding ``B`` rows costs time in proportion to ``B``, not to what is there already: tensors grow by doubling. The
    states that are put in are copied and never changed.

    Args:
        like: any state of the kind that will be added; it is not added itself.
    """

    def __init__(self, like: S) -> None:
        self._like = like
        self._columns: list[Any] = [
            leaf.new_empty((0, *leaf.shape[1:])) if isinstance(leaf, Tensor) else [] for leaf in leaves(like)
        ]
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, rows: S) -> range:
        """Store ``B`` rows; returns their numbers."""
        first, last = self._used, self._used + num_rows(rows)
        for place, leaf in enumerate(leaves(rows)):
            column = self._columns[place]
            if not isinstance(leaf, Tensor):
                column.extend(leaf)
                continue
            if last > len(column):
                room = leaf.new_empty((max(last, 2 * len(column)), *leaf.shape[1:]))
                room[:first] = column[:first]
                self._columns[place] = column = room
            column[first:last] = leaf
        self._used = last
        return range(first, last)

    def take(self, numbers: Sequence[int]) -> S:
        """The states with these numbers, as a batch of rows in this order."""
        index = th.as_tensor(numbers)
        taken = iter(
            [
                column[index.to(column.device)] if isinstance(column, Tensor) else Objects([column[i] for i in numbers])
                for column in self._columns
            ]
        )
        state: S = _rebuilt(self._like, taken)
        return state


def leaves(state: Any) -> list[Any]:
    """The tensors and :class:`~mbrl_wrappers.objects.Objects` of a state, nested tuples flattened, in order."""
    if isinstance(state, Tensor | Objects):
        return [state]
    return [leaf for field in state for leaf in leaves(field)]


def _rebuilt(like: Any, taken: Any) -> Any:
    if isinstance(like, Tensor | Objects):
        return next(taken)
    return type(like)(*(_rebuilt(field, taken) for field in like))
