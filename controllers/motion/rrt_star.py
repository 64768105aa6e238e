"""Trees whose paths become shorter as they grow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controllers.motion.collision import Checker
from controllers.motion.draws import InformedPoints, UniformPoints, unit_ball_volume
from controllers.motion.grown import DRAWS_PER_NODE, Grown, grown, length, metric_ends
from controllers.motion.ompl_backend import OmplRequest
from controllers.motion.rrt import RRT
from controllers.motion.space import MotionProblem, Points, Region
from controllers.motion.tree import Tree, steer
from mbrl_wrappers.checks import within

SHORT_ENOUGH = 1 + 1e-9  # of the straight line: nothing is left to gain
FOCUS = 0.999  # the radius is updated when the cost falls below this share of the one it was set for


@dataclass(frozen=True, kw_only=True)
class RRTStar(RRT):
    r"""RRT that chooses each parent, and rewires neighbours, by cost (Karaman and Frazzoli 2011, algorithm 6).

    A new node looks at all :math:`n` nodes within

    .. math:: r_n = \min\Big(\gamma \Big(\frac{\log n}{n}\Big)^{1/d}, step\Big), \qquad
              \gamma = f \cdot 2 \Big(1 + \frac1d\Big)^{1/d} \Big(\frac{\mu}{\zeta_d}\Big)^{1/d}

    with :math:`\mu` the volume of the bounds, :math:`\zeta_d` that of the unit ball and :math:`f` the
    ``radius_factor``; above 1, the cost of the path converges to the shortest one. All ``max_nodes`` nodes are used,
    and the goal becomes one of them as soon as it can be reached. Where draws are informed, :math:`\mu` and :math:`n`
    are those of the points that a shorter path could pass (Gammell, Barfoot and Srinivasa 2018, section V).

    Attributes:
        radius_factor: :math:`f`.
        informed: once a path is known, draw only points that a shorter one could pass (Gammell, Srinivasa and Barfoot
            2014).
    """

    radius_factor: float = 1.1
    informed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not within("radius_factor", self.radius_factor, 0):
            raise ValueError("radius_factor must be above 0; above 1 paths converge to the shortest.")

    def _grow(self, checker: Checker, rng: np.random.Generator) -> Grown:
        problem = checker.region
        start, goal = metric_ends(checker)
        step = self.step_in(problem)  # type: ignore[arg-type]
        tree = Tree(start)
        points, informed = UniformPoints(problem, rng), InformedPoints(problem, start, goal, rng)
        grower = _Grower(tree, checker, step, self.radius_factor * optimal_radius(problem))
        known = np.inf
        end = grower.insert(goal, 0) if informed.shortest <= step else None
        gap, nearest, iterations = informed.shortest, 0, 0
        while len(tree) < self.max_nodes and iterations < DRAWS_PER_NODE * self.max_nodes:
            iterations += 1
            if end is None:
                target = goal if rng.random() < self.goal_bias else points.draw()
            else:
                cost = float(tree.costs[end])
                if cost <= informed.shortest * SHORT_ENOUGH:
                    break
                if self.informed and cost < FOCUS * known:
                    known = cost
                    gamma = optimal_radius(problem, informed.volume(cost))
                    grower.focus(self.radius_factor * gamma, int((~informed.contains(tree.points, cost)).sum()))
                target = informed.draw(cost) if self.informed else points.draw()
            near, distance = tree.nearest.nearest(target)
            node = grower.insert(steer(tree.points[near], target, distance, step), near) if distance else None
            if node is None or end is not None:
                continue
            distance = length(goal - tree.points[node])
            if distance == 0:
                end = node
            elif distance <= step:
                end = grower.insert(goal, node)
            if distance < gap:
                gap, nearest = distance, node
        return grown(tree, nearest if end is None else end, iterations)

    def _for_ompl(self, problem: MotionProblem) -> OmplRequest:
        settings = (
            ("setGoalBias", self.goal_bias),
            ("setKNearest", False),
            ("setRewireFactor", self.radius_factor),
            ("setInformedSampling", self.informed),
        )
        return OmplRequest("RRTstar", settings, self.step_in(problem), self.tolerance, self.max_nodes, rewires=True)


@dataclass
class _Grower:
    """Adds nodes as RRT* does: chooses the best parent among near nodes, then rewires these through the new node.

    Attributes:
        tree: to grow.
        checker: of edges.
        step: largest radius.
        gamma: see :class:`RRTStar`.
        left_out: nodes that do not count in the radius.
    """

    tree: Tree
    checker: Checker
    step: float
    gamma: float
    left_out: int = 0

    def focus(self, gamma: float, left_out: int) -> None:
        """Set the radius for points from a part of the space; ``left_out`` nodes of the tree lie outside of it."""
        self.gamma, self.left_out = gamma, left_out

    def insert(self, point: Points, nearest: int) -> int | None:
        """Add ``point (D,)`` and return its index, or None if no edge leads there; ``nearest`` is its nearest node."""
        near = self._near(point, nearest)
        places = self.tree.points[near]
        lengths = np.sqrt(np.square(places - point).sum(1))
        costs = self.tree.costs[near] + lengths
        open_ = self.checker.roughly_valid(places, np.broadcast_to(point, places.shape))
        order = np.argsort(costs, kind="stable")
        for place in order[open_[order]]:
            if self.checker.finely_valid(places[place][None], point[None])[0]:
                break
        else:
            return None
        node = self.tree.add(point, int(near[place]))
        self._rewire(node, near, lengths, open_)
        return node

    def _near(self, point: Points, nearest: int) -> NDArray[np.int64]:
        count = max(len(self.tree) - self.left_out, 2)
        radius = min(self.gamma * (np.log(count) / count) ** (1 / len(point)), self.step)
        near = self.tree.nearest.within(point, radius)
        return near if len(near) else np.array([nearest])

    def _rewire(self, node: int, near: NDArray[np.int64], lengths: Points, open_: NDArray[np.bool_]) -> None:
        """Make ``node`` the parent of each of ``near (K,)`` where that path is shorter and free."""
        gains = self.tree.costs[node] + lengths < self.tree.costs[near] * (1 - 1e-12)
        chosen = near[gains & open_]
        if not len(chosen):
            return
        ends = self.tree.points[chosen]
        free = self.checker.finely_valid(np.broadcast_to(self.tree.points[node], ends.shape), ends)
        for other in chosen[free]:
            self.tree.rewire(int(other), node)


def optimal_radius(region: Region, volume: float | None = None) -> float:
    r"""The smallest :math:`\gamma` of RRT*, metric, for a part of the region of this volume; default all of it."""
    size = region.dimensions
    if volume is None:
        volume = float(np.prod(region.to_metric(region.high - region.low)))
    return float(2 * ((1 + 1 / size) * volume / unit_ball_volume(size)) ** (1 / size))
