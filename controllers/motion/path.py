"""Paths: the result of a geometric planner, its length and validity, and shortcuts that make it shorter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Generator

from controllers.motion.collision import Checker
from controllers.motion.draws import numpy_stream
from controllers.motion.space import MotionProblem, Points
from mbrl_wrappers.checks import at_least


class MotionReport(NamedTuple):
    """What a motion plan cost.

    Attributes:
        iterations: points drawn.
        points_checked: points that the validity function was asked about.
        seconds: wall time of the whole plan.
        valid_seconds: the part of it spent in the validity function.
    """

    iterations: int
    points_checked: int
    seconds: float
    valid_seconds: float


class MotionPlan(NamedTuple):
    """The outcome of motion planning, in the units of the problem.

    Attributes:
        path: ``(M, D)`` corners of the path from the start to the goal, or to the point nearest to the goal that was
            reached; straight in between and free at the problem's resolution.
        cost: its length, in the problem's distance.
        solved: whether it ends at the goal, or within the planner's tolerance of it.
        gap: distance from its end to the goal.
        nodes: ``(n, D)`` of the tree, or of both trees one after the other.
        parents: ``(n,)`` index of each node's parent, -1 for a root.
        costs: ``(n,)`` length of the way from each node's root.
        report: what it cost.
    """

    path: Points
    cost: float
    solved: bool
    gap: float
    nodes: Points
    parents: NDArray[np.int64]
    costs: Points
    report: MotionReport


def path_length(problem: MotionProblem, path: Points) -> float:
    """The length of the corners ``path (M, D)``, in the problem's distance."""
    return float(np.linalg.norm(np.diff(path, axis=0) * problem.weights, axis=1).sum())


def path_valid(problem: MotionProblem, path: Points) -> bool:
    """Whether every point of the corners ``path (M, D)`` is free, at the problem's resolution."""
    metric = problem.to_metric(path)
    return bool(Checker(problem).edges_valid(metric[:-1], metric[1:]).all())


def shortcut(
    problem: MotionProblem, path: Points, attempts: int = 200, *, generator: Generator | np.random.Generator
) -> Points:
    """Replace pieces of a path by straight edges where these are free (Geraerts and Overmars 2007, section 3.2).

    Each attempt draws two points of the path by length. The result is free at the problem's resolution where the path
    was, never longer, and has the same ends.

    Args:
        problem: obstacles and distance.
        path: ``(M, D)`` corners, free.
        attempts: edges tried.
        generator: source of the draws.

    Returns:
        Corners ``(M', D)``.
    """
    at_least("attempts", attempts, 0)
    rng, checker = numpy_stream(generator), Checker(problem)
    corners = problem.to_metric(np.asarray(path, np.float64))
    for _ in range(attempts):
        places = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
        first, second = np.sort(rng.uniform(0, places[-1], 2))
        last = len(corners) - 2
        left, right = (min(int(np.searchsorted(places, place, "right")) - 1, last) for place in (first, second))
        if left == right:
            continue
        ends = np.stack([_at(corners, places, first, left), _at(corners, places, second, right)])
        if np.linalg.norm(ends[1] - ends[0]) >= second - first:
            continue
        pieces = np.concatenate([corners[: left + 1], ends, corners[right + 1 :]])
        # The remains of cut edges are checked too: their points lie elsewhere than before.
        if checker.edges_valid(pieces[left : left + 3], pieces[left + 1 : left + 4]).all():
            corners = pieces
    short = problem.from_metric(_without_repeats(corners))
    short[0], short[-1] = path[0], path[-1]
    return short


def _at(corners: Points, places: Points, place: float, edge: int) -> Points:
    """The point ``(D,)`` at length ``place`` on edge ``edge``."""
    share = (place - places[edge]) / (places[edge + 1] - places[edge])
    point: Points = corners[edge] + share * (corners[edge + 1] - corners[edge])
    return point


def _without_repeats(corners: Points) -> Points:
    """The corners without those that coincide with the one before; both ends stay."""
    moved = np.concatenate([[True], (np.diff(corners, axis=0) != 0).any(1)])
    moved[-1] = True
    kept: Points = corners[moved]
    return kept
