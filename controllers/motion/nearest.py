"""Nearest-neighbour search in a growing set of points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from controllers.motion.space import Points

BUFFER = 256
"""Points that are searched one by one before they move into a tree."""

RATIO = 16
"""Each tree is at least this many times as large as the next one."""


class NearestPoints:
    r"""Exact Euclidean neighbours in a growing set of points: static k-d trees of geometric sizes and a short buffer.

    The logarithmic method (Bentley and Saxe 1980, "Decomposable searching problems I"): a full buffer becomes a tree
    and is merged with the smaller trees, so that :math:`n` points lie in :math:`O(\log n)` trees and each point is
    rebuilt :math:`O(\log n)` times. A query searches every tree and takes the best result. Indices count the points in
    order of insertion, which the trees keep.

    Args:
        dimensions: ``D``.
    """

    def __init__(self, dimensions: int) -> None:
        self._points = np.empty((BUFFER, dimensions))
        self._count = self._buffered_from = 0
        self._trees: list[tuple[int, cKDTree]] = []  # first index and tree, the oldest and largest first

    def __len__(self) -> int:
        return self._count

    @property
    def points(self) -> Points:
        """All points ``(n, D)``, a view."""
        return self._points[: self._count]

    def add(self, point: Points) -> int:
        """Add ``point (D,)`` and return its index."""
        if self._count == len(self._points):
            self._points = np.concatenate([self._points, np.empty_like(self._points)])
        self._points[self._count] = point
        self._count += 1
        if self._count - self._buffered_from == BUFFER:
            self._build()
        return self._count - 1

    def _build(self) -> None:
        first = self._buffered_from
        while self._trees and first - self._trees[-1][0] < RATIO * (self._count - first):
            first = self._trees.pop()[0]
        # Cells split in the middle are built faster than balanced ones and answer as well.
        tree = cKDTree(self._points[first : self._count].copy(), balanced_tree=False, compact_nodes=False)
        self._trees.append((first, tree))
        self._buffered_from = self._count

    def nearest(self, point: Points) -> tuple[int, float]:
        """Index and distance of the point nearest to ``point (D,)``.

        Raises:
            ValueError: while there is none.
        """
        if not self._count:
            raise ValueError("There is no nearest point before the first was added.")
        best, index = np.inf, 0
        if self._buffered_from < self._count:
            squares = self._buffered_squares(point)
            place = int(squares.argmin())
            best, index = float(np.sqrt(squares[place])), self._buffered_from + place
        for first, tree in self._trees:
            found = tree.query(point, distance_upper_bound=best)
            if float(found[0]) < best:
                best, index = float(found[0]), first + int(found[1])
        return index, best

    def within(self, point: Points, radius: float) -> NDArray[np.int64]:
        """Indices of all points at most ``radius`` from ``point (D,)``, in rising order."""
        found = [
            np.sort(np.asarray(tree.query_ball_point(point, radius), np.int64)) + first for first, tree in self._trees
        ]
        if self._buffered_from < self._count:
            found.append((self._buffered_squares(point) <= radius**2).nonzero()[0] + self._buffered_from)
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _buffered_squares(self, point: Points) -> Points:
        squares: Points = np.square(self._points[self._buffered_from : self._count] - point).sum(1)
        return squares
