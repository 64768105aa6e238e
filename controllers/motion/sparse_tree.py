"""A tree of model states for RRT and stable sparse RRT (SST): witnesses decide which nodes may be extended."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from controllers.motion.growing_array import GrowingArray, ancestry
from controllers.motion.nearest import NearestPoints
from controllers.motion.space import Points


class Way(NamedTuple):
    """How a node was reached.

    Attributes:
        state: the model's at the node, one row.
        action: ``(A,)`` model action, None for the root.
        steps: for how many steps it was held.
        places: ``(steps, D)`` coordinates on the way.
    """

    state: Any
    action: Tensor | None
    steps: int
    places: Points


class SparseTree:
    r"""Nodes with a model state, the action that led there and the steps it took.

    A *witness* is a point that stands for everything within ``sparsity`` of it; its representative is the node there
    that took the fewest steps (SST, Li, Littlefield and Bekris 2016, section 4). Distances to a node are measured to
    its witness, so that points are never removed from the search structure. With a sparsity of 0 each node is a witness
    of its own.

    Args:
        state: the model's, one row.
        place: ``(D,)`` its coordinates.
        weights: ``(D,)`` of the metric.
        sparsity: in the metric.
    """

    def __init__(self, state: Any, place: Points, weights: Points, sparsity: float) -> None:
        self._weights, self._sparsity = weights, sparsity
        self._places, self._costs = GrowingArray(place), GrowingArray(np.array(0, np.int64))
        self._parents = GrowingArray(np.array(-1, np.int64))
        self._ways: list[Way] = [Way(state, None, 0, place[None][:0])]
        self._witnesses = NearestPoints(len(place))
        self._witnesses.add(place * weights)
        self._representatives = GrowingArray(np.array(0, np.int64))

    def __len__(self) -> int:
        return len(self._ways)

    @property
    def places(self) -> Points:
        """``(n, D)`` coordinates of the nodes."""
        return self._places.rows

    @property
    def costs(self) -> NDArray[np.int64]:
        """``(n,)`` steps from the root to each node."""
        return self._costs.rows

    @property
    def parents(self) -> NDArray[np.int64]:
        """``(n,)``, -1 for the root."""
        return self._parents.rows

    def way(self, node: int) -> Way:
        """How ``node`` was reached from its parent."""
        return self._ways[node]

    def select(self, target: Points) -> int:
        """The node to extend towards ``target (D,)``, in metric coordinates.

        The quickest representative of the witnesses within twice the sparsity, else that of the nearest witness.
        """
        if self._sparsity:
            near = self._representatives.rows[self._witnesses.within(target, 2 * self._sparsity)]
            if len(near):
                return int(near[self.costs[near].argmin()])
        return int(self._representatives.rows[self._witnesses.nearest(target)[0]])

    def wants(self, place: Points, cost: int) -> bool:
        """Whether a node at ``place (D,)`` after ``cost`` steps would be the quickest of its witness."""
        witness, distance = self._witnesses.nearest(place * self._weights)
        return distance > self._sparsity or cost < self.costs[self._representatives.rows[witness]]

    def add(self, way: Way, place: Points, parent: int, *, kept: bool) -> int:
        """Add a node under ``parent`` and return its index; only ``kept`` ones are ever selected."""
        node = len(self)
        self._ways.append(way)
        self._places.append(place)
        self._parents.append(parent)
        self._costs.append(self.costs[parent] + way.steps)
        if not kept:
            return node
        witness, distance = self._witnesses.nearest(place * self._weights)
        if distance > self._sparsity:
            self._witnesses.add(place * self._weights)
            self._representatives.append(node)
        else:
            self._representatives.rows[witness] = node
        return node

    def chain(self, node: int) -> list[int]:
        """The nodes from the root to ``node``."""
        return ancestry(self.parents, node)
