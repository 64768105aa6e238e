"""The same planners by OMPL (Sucan, Moll and Kavraki 2012), an optional library: extra ``ompl``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from controllers.motion.collision import Checker
from controllers.motion.growing_array import ancestry
from controllers.motion.grown import DRAWS_PER_NODE, EXACT, Grown, metric_ends
from controllers.motion.space import MotionProblem, Points
from mbrl_wrappers.optional import require


class OmplRequest(NamedTuple):
    """What is asked of OMPL.

    Attributes:
        planner: name of the class in ``ompl.geometric``.
        settings: its setters and what they are called with.
        step: longest edge.
        tolerance: distance from the goal at which a path may end.
        max_nodes: when to stop.
        rewires: whether the planner rewires edges; nodes cannot then be counted by edges.
    """

    planner: str
    settings: tuple[tuple[str, float | bool], ...]
    step: float
    tolerance: float
    max_nodes: int
    rewires: bool = False


def grow_with_ompl(request: OmplRequest, checker: Checker, rng: np.random.Generator) -> Grown:
    """Plan by the OMPL planner of the same name, in metric coordinates.

    If the start is within the tolerance of the goal, the problem is solved without OMPL, which would leave the start
    and come back. Edges are checked by the same rule as ours, many points at a time. RRT and
    RRT-Connect stop as ours do, RRT* after ``max_nodes`` draws. OMPL's random numbers are seeded for the whole process.
    The nodes of RRT-Connect come as one tree from the start.

    Args:
        request: the planner and its numbers.
        checker: of points and edges.
        rng: source of OMPL's seed.

    Raises:
        ImportError: without OMPL.
    """
    base, util = require("ompl.base", extra="ompl"), require("ompl.util", extra="ompl")
    start, goal = metric_ends(checker)
    gap = float(np.linalg.norm(goal - start))
    if gap <= _tolerance(request, checker):
        path = start[None]
        if gap <= request.step and checker.edge_valid(start, goal):
            path = np.stack([start, goal])
        numbers = np.arange(len(path))
        return Grown(path, path, numbers - 1, gap * numbers.astype(np.float64), 0)
    level = util.getLogLevel()
    # OMPL warns that a second seed in one process has no effect, but it applies to objects built afterwards.
    util.setLogLevel(util.LogLevel.LOG_NONE)
    try:
        util.RNG.setSeed(int(rng.integers(1, 2**31)))
        return _grow(base, request, checker)
    finally:
        util.setLogLevel(level)


def _grow(base: Any, request: OmplRequest, checker: Checker) -> Grown:
    region = checker.region
    assert isinstance(region, MotionProblem)
    setup = _setup(base, request, checker)
    own = _planner(request, setup.getSpaceInformation())
    setup.setPlanner(own)
    budget = _Budget(request)
    setup.getSpaceInformation().setMotionValidator(_validator(base, setup.getSpaceInformation(), checker, budget))
    status = setup.solve(base.PlannerTerminationCondition(budget.is_spent))
    nodes, parents, costs = _tree(base, setup, region.dimensions)
    if status == base.PlannerStatus.EXACT_SOLUTION:
        path = _points(setup.getSolutionPath().getStates(), region.dimensions)
    else:
        path = _nearest_approach(nodes, parents, metric_ends(checker)[1])
    return Grown(path, nodes, parents, costs, budget.draws)


class _Budget:
    """Counts OMPL's draws and free edges, and tells when the limit of the request is reached."""

    def __init__(self, request: OmplRequest) -> None:
        self._request = request
        self._most = request.max_nodes * (1 if request.rewires else DRAWS_PER_NODE)
        self.draws = self.edges = 0

    def is_spent(self) -> bool:
        self.draws += 1
        full = not self._request.rewires and self.edges + 1 >= self._request.max_nodes
        return full or self.draws > self._most


def _setup(base: Any, request: OmplRequest, checker: Checker) -> Any:
    """Space, start and goal."""
    geometric = require("ompl.geometric", extra="ompl")
    region = checker.region
    space, bounds = base.RealVectorStateSpace(region.dimensions), base.RealVectorBounds(region.dimensions)
    for place, (low, high) in enumerate(zip(region.to_metric(region.low), region.to_metric(region.high), strict=True)):
        bounds.setLow(place, float(low))
        bounds.setHigh(place, float(high))
    space.setBounds(bounds)
    setup = geometric.SimpleSetup(space)
    setup.setStateValidityChecker(
        lambda state: bool(checker.points_valid(_points([state], checker.region.dimensions))[0])
    )
    ends = []
    for point in metric_ends(checker):
        state = space.allocState()
        for place, number in enumerate(point):
            state[place] = float(number)
        ends.append(state)
    setup.setStartAndGoalStates(*ends, _tolerance(request, checker))
    return setup


def _tolerance(request: OmplRequest, checker: Checker) -> float:
    """How far from the goal a path may end, in metric coordinates."""
    return max(request.tolerance, EXACT * checker.region.diagonal)


def _planner(request: OmplRequest, information: Any) -> Any:
    """OMPL's planner with the numbers of ours."""
    own = getattr(require("ompl.geometric", extra="ompl"), request.planner)(information)
    own.setRange(request.step)
    for setter, value in request.settings:
        getattr(own, setter)(value)
    return own


def _validator(base: Any, information: Any, checker: Checker, budget: _Budget) -> Any:
    """Our edge check as OMPL's."""
    size = checker.region.dimensions

    class Validator(base.MotionValidator):  # type: ignore[misc]
        def checkMotion(self, first: Any, second: Any, last_valid: Any = None) -> bool:
            ends = _points([first, second], size)
            free = checker.edge_valid(ends[0], ends[1])
            budget.edges += free
            return free

    return Validator(information)


def _points(states: Any, size: int) -> Points:
    """OMPL states as ``(B, D)``."""
    return np.array([[state[place] for place in range(size)] for state in states], np.float64)


def _tree(base: Any, setup: Any, size: int) -> tuple[Points, NDArray[np.int64], Points]:
    """Nodes, parents and costs; the start comes first."""
    data = base.PlannerData(setup.getSpaceInformation())
    setup.getPlannerData(data)
    count = data.numVertices()
    places = _points([data.getVertex(index).getState() for index in range(count)], size)
    beside: list[list[int]] = [[] for _ in range(count)]
    for index in range(count):
        for other in data.getEdges(index):
            beside[index].append(other)
            beside[other].append(index)
    # Edges of a tree from the goal point the other way, so that directions are found anew from the start.
    start = data.getStartIndex(0)
    order, above = [start], {start: -1}
    for index in order:
        for other in beside[index]:
            if other not in above:
                above[other] = index
                order.append(other)
    number = {index: place for place, index in enumerate(order)}
    parents = np.array([number[above[index]] if above[index] >= 0 else -1 for index in order], np.int64)
    nodes, costs = places[order], np.zeros(len(order))
    for place in range(1, len(order)):
        costs[place] = costs[parents[place]] + np.linalg.norm(nodes[place] - nodes[parents[place]])
    return nodes, parents, costs


def _nearest_approach(nodes: Points, parents: NDArray[np.int64], goal: Points) -> Points:
    """The way ``(M, D)`` from the start to the node nearest to ``goal (D,)``."""
    return nodes[ancestry(parents, int(np.linalg.norm(nodes - goal, axis=1).argmin()))]
