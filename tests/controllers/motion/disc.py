"""The unit square with a disc in the middle, whose shortest path is known, and what one looks at in a plan."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from controllers import MotionPlan, MotionProblem

RADIUS = 0.25
HALF_DIAGONAL = math.sqrt(0.5)
TANGENT = math.sqrt(HALF_DIAGONAL**2 - RADIUS**2)
SHORTEST = 2 * TANGENT + RADIUS * (math.pi - 2 * math.acos(RADIUS / HALF_DIAGONAL))
"""From corner to corner: two tangents and the arc between them."""


def outside(points: Any) -> Any:
    return np.square(points - 0.5).sum(1) >= RADIUS**2


def disc_problem(**options: Any) -> MotionProblem:
    return MotionProblem([0, 0], [1, 1], [0, 0], [1, 1], outside, **options)


def wall_problem(**options: Any) -> MotionProblem:
    """A wall from edge to edge: the goal cannot be reached."""
    return MotionProblem([0, 0], [1, 1], [0.1, 0.5], [0.9, 0.5], lambda p: np.abs(p[:, 0] - 0.5) > 0.1, **options)


def finely_free(path: Any, pieces: int = 20_000) -> bool:
    """Whether the path is outside the disc at far more points than it was checked at."""
    share = np.linspace(0, 1, pieces)[:, None]
    return all(bool(outside(a + share * (b - a)).all()) for a, b in pairwise(path))


def assert_is_tree(plan: MotionPlan) -> None:
    """Every cost is that of the parent and the edge."""
    child = (plan.parents >= 0).nonzero()[0]
    parent = plan.parents[child]
    lengths = np.linalg.norm(plan.nodes[child] - plan.nodes[parent], axis=1)
    np.testing.assert_allclose(plan.costs[child], plan.costs[parent] + lengths, atol=1e-12)
    assert (plan.costs[plan.parents < 0] == 0).all()
