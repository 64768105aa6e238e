"""A growing tree: nodes, parents, and the cost from the root to each node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controllers.motion.growing_array import GrowingArray, ancestry
from controllers.motion.nearest import NearestPoints
from controllers.motion.space import Points


class Tree:
    """A tree of points in metric coordinates whose edges cost their length.

    Args:
        root: ``(D,)``, the node 0.

    Attributes:
        nearest: the nodes, by place.
    """

    def __init__(self, root: Points) -> None:
        self.nearest = NearestPoints(len(root))
        self.nearest.add(root)
        self._parents = GrowingArray(np.array(-1, np.int64))
        self._costs = GrowingArray(np.array(0.0))
        self._children: list[list[int]] = [[]]

    def __len__(self) -> int:
        return len(self.nearest)

    @property
    def points(self) -> Points:
        """The nodes ``(n, D)``."""
        return self.nearest.points

    @property
    def parents(self) -> NDArray[np.int64]:
        """``(n,)``, -1 for the root."""
        return self._parents.rows

    @property
    def costs(self) -> Points:
        """``(n,)`` length of the way from the root."""
        return self._costs.rows

    def add(self, point: Points, parent: int) -> int:
        """Add ``point (D,)`` under ``parent`` and return its index."""
        index = self.nearest.add(point)
        self._parents.append(parent)
        self._costs.append(self.costs[parent] + self._length(index))
        self._children.append([])
        self._children[parent].append(index)
        return index

    def rewire(self, node: int, parent: int) -> None:
        """Move ``node`` to another parent and update the costs below it."""
        parents, costs = self.parents, self.costs
        self._children[int(parents[node])].remove(node)
        self._children[parent].append(node)
        parents[node] = parent
        due = [node]
        while due:
            index = due.pop()
            costs[index] = costs[parents[index]] + self._length(index)
            due.extend(self._children[index])

    def chain(self, node: int) -> Points:
        """The way from the root to ``node``, ``(M, D)``."""
        return self.points[ancestry(self.parents, node)]

    def _length(self, node: int) -> float:
        edge = self.points[node] - self.points[self.parents[node]]
        return float(np.sqrt(edge @ edge))


def steer(start: Points, target: Points, distance: float, step: float) -> Points:
    """``target (D,)``, or the point ``step`` towards it from ``start`` when it is farther than that."""
    if distance <= step:
        return target
    return start + (step / distance) * (target - start)
