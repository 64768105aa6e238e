"""Inputs and results of a geometric search, in metric coordinates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controllers.motion.collision import Checker
from controllers.motion.space import MotionProblem, Points
from controllers.motion.tree import Tree

DRAWS_PER_NODE = 20  # a planner gives up when it has drawn this many points per node it may have
EXACT = 1e-12  # share of the diagonal within which a path ends exactly at the goal


class Grown(NamedTuple):
    """What a planner has found, in metric coordinates.

    Attributes:
        path: ``(M, D)`` from the start to the goal or to where the planner came nearest.
        nodes: ``(n, D)``.
        parents: ``(n,)``, -1 for a root.
        costs: ``(n,)`` from each node's root.
        iterations: points drawn.
    """

    path: Points
    nodes: Points
    parents: NDArray[np.int64]
    costs: Points
    iterations: int


def grown(tree: Tree, end: int, iterations: int) -> Grown:
    """The outcome of a single tree whose path ends at the node ``end``."""
    return Grown(tree.chain(end), tree.points.copy(), tree.parents.copy(), tree.costs.copy(), iterations)


def metric_ends(checker: Checker) -> tuple[Points, Points]:
    """Start and goal in metric coordinates."""
    problem = checker.region
    assert isinstance(problem, MotionProblem)
    return problem.to_metric(problem.start), problem.to_metric(problem.goal)


def length(edge: Points) -> float:
    """The Euclidean length of one vector ``(D,)``."""
    return float(np.sqrt(edge @ edge))
