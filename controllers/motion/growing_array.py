"""Arrays that grow row by row."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class GrowingArray(Generic[Scalar]):
    """Rows that are appended in amortised constant time.

    Args:
        first: the first row, which gives all others their shape and type.
    """

    def __init__(self, first: NDArray[Scalar]) -> None:
        self._rows: NDArray[Scalar] = np.repeat(first[None], 64, 0)
        self._count = 1

    @property
    def rows(self) -> NDArray[Scalar]:
        """A writable view of all rows so far; the next ``append`` may reallocate, and the view is then stale."""
        return self._rows[: self._count]

    def append(self, row: Any) -> None:
        """Add one row."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, self._rows])
        self._rows[self._count] = row
        self._count += 1


def ancestry(parents: NDArray[np.int64], node: int) -> list[int]:
    """The nodes from the root, whose parent is -1, to ``node``."""
    nodes = [node]
    while (parent := int(parents[nodes[-1]])) >= 0:
        nodes.append(parent)
    return nodes[::-1]
