"""Two trees that grow towards each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.motion.collision import Checker
from controllers.motion.draws import UniformPoints
from controllers.motion.grown import DRAWS_PER_NODE, Grown, length, metric_ends
from controllers.motion.ompl_backend import OmplRequest
from controllers.motion.planner import GeometricPlanner
from controllers.motion.space import MotionProblem, Points
from controllers.motion.tree import Tree, steer


@dataclass(frozen=True, kw_only=True)
class RRTConnect(GeometricPlanner):
    """Grows trees from start and goal; each connects greedily to the new nodes of the other (Kuffner and LaValle 2000).

    It finds a valid path fast and seldom a short one: see :func:`~controllers.motion.path.shortcut`. The plan holds
    the nodes of the start's tree and then those of the goal's.

    Attributes:
        step: longest edge; None for a twentieth of the diagonal.
        max_nodes: nodes of both trees after which the planner stops; it also stops after twenty times as many draws.
        backend: ``"own"``, or ``"ompl"`` (extra ``ompl``).
    """

    def _grow(self, checker: Checker, rng: np.random.Generator) -> Grown:
        problem = checker.region
        start, goal = metric_ends(checker)
        step = self.step_in(problem)  # type: ignore[arg-type]
        trees, points = (Tree(start), Tree(goal)), UniformPoints(problem, rng)
        iterations = 0
        bridge = (0, 0) if (start == goal).all() else None
        while bridge is None and iterations < DRAWS_PER_NODE * self.max_nodes:
            if sum(map(len, trees)) >= self.max_nodes:
                break
            grows = iterations % 2
            iterations += 1
            # The very first target is the other end: a free straight line needs no search.
            target = goal if iterations == 1 else points.draw()
            node = _extend(trees[grows], target, step, checker)
            if node is None:
                continue
            room = self.max_nodes - sum(map(len, trees))
            other = _connect(trees[1 - grows], trees[grows].points[node], step, checker, room)
            if other is not None:
                bridge = (node, other) if grows == 0 else (other, node)
        return _joined(trees, bridge, goal, iterations)

    def _for_ompl(self, problem: MotionProblem) -> OmplRequest:
        return OmplRequest("RRTConnect", (), self.step_in(problem), self.tolerance, self.max_nodes)


def _extend(tree: Tree, target: Points, step: float, checker: Checker) -> int | None:
    """One step towards ``target (D,)``: the new node, or None if it is blocked or already there."""
    near, distance = tree.nearest.nearest(target)
    if not distance:
        return None
    point = steer(tree.points[near], target, distance, step)
    return tree.add(point, near) if checker.edge_valid(tree.points[near], point) else None


def _connect(tree: Tree, target: Points, step: float, checker: Checker, room: int) -> int | None:
    """At most ``room`` steps towards ``target (D,)``, until one is blocked: the node that reached it, or None."""
    node, distance = tree.nearest.nearest(target)
    while distance:
        point = steer(tree.points[node], target, distance, step)
        if not room or not checker.edge_valid(tree.points[node], point):
            return None
        node, room = tree.add(point, node), room - 1
        distance = length(target - point)
    return node


def _joined(trees: tuple[Tree, Tree], bridge: tuple[int, int] | None, goal: Points, iterations: int) -> Grown:
    """Both trees as one outcome; the path leads over the bridge, or to the start's node nearest to the goal."""
    first, second = trees
    if bridge is None:
        path = first.chain(first.nearest.nearest(goal)[0])
    else:
        path = np.concatenate([first.chain(bridge[0]), second.chain(bridge[1])[-2::-1]])
    below = np.where(second.parents >= 0, second.parents + len(first), -1)
    return Grown(
        path,
        np.concatenate([first.points, second.points]),
        np.concatenate([first.parents, below]),
        np.concatenate([first.costs, second.costs]),
        iterations,
    )
