"""Rapidly exploring random trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.motion.collision import Checker
from controllers.motion.draws import UniformPoints
from controllers.motion.grown import DRAWS_PER_NODE, Grown, grown, length, metric_ends
from controllers.motion.ompl_backend import OmplRequest
from controllers.motion.planner import GeometricPlanner
from controllers.motion.space import MotionProblem
from controllers.motion.tree import Tree, steer
from mbrl_wrappers.checks import within


@dataclass(frozen=True, kw_only=True)
class RRT(GeometricPlanner):
    r"""Grows a tree from the start towards random points and stops at the goal (LaValle and Kuffner 2001).

    Each iteration draws :math:`x`, evenly from the bounds or, with probability ``goal_bias``, the goal; takes the node
    nearest to it, and adds the point at most ``step`` from there towards :math:`x` if the edge is free. From every new
    node within a step of the goal the edge to the goal itself is tried, so a solved path ends exactly there unless
    ``goal_tolerance`` accepts less.

    The first path found is returned: it is valid and far from short. :class:`RRTStar` shortens it while it searches,
    :func:`~controllers.motion.path.shortcut` afterwards.

    Attributes:
        step: longest edge; None for a twentieth of the diagonal.
        max_nodes: nodes after which the planner stops; it also stops after twenty times as many draws.
        backend: ``"own"``, or ``"ompl"`` (extra ``ompl``).
        goal_bias: share of draws that are the goal.
        goal_tolerance: distance from the goal at which a path may end, for goals that are hard to meet exactly.
    """

    goal_bias: float = 0.05
    goal_tolerance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        within("goal_bias", self.goal_bias, 0, 1)
        within("goal_tolerance", self.goal_tolerance, 0)

    @property
    def tolerance(self) -> float:
        """The distance from the goal within which a path counts as solved."""
        return self.goal_tolerance

    def _grow(self, checker: Checker, rng: np.random.Generator) -> Grown:
        problem = checker.region
        start, goal = metric_ends(checker)
        step = self.step_in(problem)  # type: ignore[arg-type]
        tree, points = Tree(start), UniformPoints(problem, rng)
        node, end, gap = 0, 0, length(goal - start)
        iterations = 0
        while True:
            # ``node`` is new: is it the nearest so far, or even one step from the goal?
            distance = length(goal - tree.points[node])
            if distance <= gap:
                end, gap = node, distance
            if distance <= step and checker.edge_valid(tree.points[node], goal):
                return grown(tree, tree.add(goal, node), iterations)
            if gap <= self.goal_tolerance:
                return grown(tree, end, iterations)
            added = None
            while added is None:
                if len(tree) >= self.max_nodes or iterations >= DRAWS_PER_NODE * self.max_nodes:
                    return grown(tree, end, iterations)
                iterations += 1
                target = goal if rng.random() < self.goal_bias else points.draw()
                near, distance = tree.nearest.nearest(target)
                point = steer(tree.points[near], target, distance, step)
                if distance and checker.edge_valid(tree.points[near], point):
                    added = tree.add(point, near)
            node = added

    def _for_ompl(self, problem: MotionProblem) -> OmplRequest:
        return OmplRequest(
            "RRT", (("setGoalBias", self.goal_bias),), self.step_in(problem), self.tolerance, self.max_nodes
        )
