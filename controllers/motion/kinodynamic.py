"""A tree of model states that grows by random actions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Generator, Tensor

from controllers.motion.collision import Checker
from controllers.motion.controls import draw_controls
from controllers.motion.draws import UniformPoints
from controllers.motion.kinodynamic_path import KinodynamicPlan, KinodynamicReport
from controllers.motion.kinodynamic_problem import KinodynamicProblem
from controllers.motion.space import Points
from controllers.motion.sparse_tree import SparseTree, Way
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.rows import map_tensors, take_rows
from mbrl_wrappers.seeding import draw_seed

SPARSITY_SHARE = 0.02  # of the diagonal, when none is given
DRAWS_PER_NODE = 4  # targets drawn per node a planner may have, before it gives up


@dataclass(frozen=True, kw_only=True)
class KinodynamicRRT:
    r"""Grows a tree of model states by random actions (LaValle and Kuffner 2001), sparse and anytime if asked to.

    Each round draws ``batch`` points, one in ``goal_bias`` of them at the goal, takes a node for each, and lets the
    model try ``controls`` random actions from it, each held for a random number of steps, all in one call per step.
    The end nearest to the point becomes a node. A path that passes within ``goal_tolerance`` of the goal ends there.

    With ``sparsity`` :math:`\delta > 0` this is stable sparse RRT (SST; Li, Littlefield and Bekris 2016): of all nodes
    within :math:`2\delta` of a drawn point, the one with the fewest steps is extended, and of all nodes within
    :math:`\delta` of a witness, only the one with the fewest steps can be extended. It uses all its nodes, and keeps
    shortening its path. With 0 it is plain RRT: the nearest node is extended and the first path found is returned.

    Attributes:
        controls: actions tried per extension, ``m``.
        hold: fewest and most steps for which an action is held.
        goal_bias: share of points drawn at the goal.
        goal_tolerance: distance from the goal, in the problem's metric, at which a way may end.
        max_nodes: nodes after which the planner stops; it also stops after four times as many points.
        batch: extensions per round: larger is faster per node and looks ahead less.
        sparsity: see above, in the problem's metric; None for a fiftieth of the diagonal.
        extremes: share of the actions that are drawn at the bounds, where time-optimal actions lie (Pontryagin).
    """

    controls: int = 10
    hold: tuple[int, int] = (1, 10)
    goal_bias: float = 0.05
    goal_tolerance: float = 0.1
    max_nodes: int = 5000
    batch: int = 16
    sparsity: float | None = None
    extremes: float = 0.25

    def __post_init__(self) -> None:
        at_least("controls", self.controls)
        at_least("max_nodes", self.max_nodes, 2)
        at_least("batch", self.batch)
        if len(self.hold) != 2 or at_least("hold", self.hold[0]) > at_least("hold", self.hold[1]):
            raise ValueError(f"hold must be the fewest and the most steps of an action, got {self.hold}.")
        within("goal_bias", self.goal_bias, 0, 1)
        within("extremes", self.extremes, 0, 1)
        if self.sparsity is not None:
            within("sparsity", self.sparsity, 0)
        if not within("goal_tolerance", self.goal_tolerance, 0):
            raise ValueError("goal_tolerance must be above 0: random actions never end exactly at the goal.")

    @th.no_grad()
    def plan(self, problem: KinodynamicProblem[Any], *, generator: Generator) -> KinodynamicPlan:
        """Actions that lead to the goal, or as near to it as was reached.

        Args:
            problem: model, start, goal, obstacles, distance.
            generator: source of every draw, on the model's device.

        Raises:
            TypeError: for a problem of another kind, or if its ``valid`` does not return one bool per point.
            ValueError: for a start that is not valid or bounds of another size than the model's state.
        """
        if not isinstance(problem, KinodynamicProblem):
            raise TypeError(
                f"KinodynamicRRT plans a KinodynamicProblem, got {type(problem).__name__}: a MotionProblem has no "
                "model, plan it with RRT, RRTStar or RRTConnect."
            )
        return _KinodynamicRun(self, problem, generator).run()


class _Extension(NamedTuple):
    """``R`` rows that were extended for up to ``T`` steps.

    Attributes:
        parents: ``(R,)`` nodes.
        actions: ``(R, A)``.
        holds: ``(R,)`` steps for which each action is held.
        states: the model's after each step, ``T`` of them with ``R`` rows.
        places: ``(T, R, D)`` coordinates after each step.
        reached: ``(T, R)`` bool, whether the row is valid, held and clear of obstacles up to this step.
    """

    parents: NDArray[np.int64]
    actions: Tensor
    holds: NDArray[np.int64]
    states: list[Any]
    places: Points
    reached: NDArray[np.bool_]


class _KinodynamicRun:
    """One run of the planner: the tree, the counts of its report, and the rounds that grow it."""

    def __init__(self, planner: KinodynamicRRT, problem: KinodynamicProblem[Any], generator: Generator) -> None:
        self.planner, self.problem, self.generator = planner, problem, generator
        self.started, self.model_seconds, self.model_calls = time.perf_counter(), 0.0, 0
        self.rng = np.random.default_rng(draw_seed(generator))
        self.checker = Checker(problem)
        self.points = UniformPoints(problem, self.rng)
        self.sparsity = SPARSITY_SHARE * problem.diagonal if planner.sparsity is None else planner.sparsity
        start = problem.begin(generator)
        self.tree = SparseTree(start, problem.coordinates(start, problem.start)[0], problem.weights, self.sparsity)
        self.gap = float(problem.gaps(self.tree.places)[0])
        self.end = 0  # the quickest node at the goal, else the one nearest to it
        self.rounds = 0

    @property
    def solved(self) -> bool:
        return self.gap <= self.planner.goal_tolerance

    def run(self) -> KinodynamicPlan:
        most = DRAWS_PER_NODE * self.planner.max_nodes // self.planner.batch + 1
        while self.rounds < most and len(self.tree) < self.planner.max_nodes:
            if self.solved and (self.end == 0 or not self.sparsity):
                break
            self.rounds += 1
            targets = np.stack([self._target() for _ in range(self.planner.batch)])
            nodes = np.array([self.tree.select(target) for target in targets])
            extension = self._extend(nodes)
            self._finish(extension)
            self._keep(extension, targets)
        report = KinodynamicReport(
            self.rounds * self.planner.batch,
            self.model_calls,
            self.checker.points,
            time.perf_counter() - self.started,
            self.model_seconds,
        )
        return self._plan(report)

    def _plan(self, report: KinodynamicReport) -> KinodynamicPlan:
        chain = self.tree.chain(self.end)
        ways = [self.tree.way(node) for node in chain]
        taken = [way.action.expand(way.steps, -1) for way in ways if way.action is not None]
        return KinodynamicPlan(
            actions=th.cat(taken) if taken else th.zeros(0, self.problem.codec.size),
            path=np.concatenate([self.tree.places[:1], *(way.places for way in ways)]),
            solved=self.solved,
            gap=self.gap,
            nodes=self.tree.places.copy(),
            parents=self.tree.parents.copy(),
            costs=self.tree.costs.copy(),
            report=report,
        )

    def _target(self) -> Points:
        """A point ``(D,)`` in metric coordinates; the free coordinates of the goal are drawn."""
        point = self.points.draw()
        if self.rng.random() >= self.planner.goal_bias:
            return point
        return np.where(self.problem.is_free, point, self.problem.to_metric(self.problem.goal))

    def _extend(self, nodes: NDArray[np.int64]) -> _Extension:
        """Try random actions from each of ``nodes (K,)``: ``R = K m`` rows, those of a node side by side."""
        planner, problem, model = self.planner, self.problem, self.problem.model
        parents = np.repeat(nodes, planner.controls)
        rows = th.as_tensor(np.arange(len(nodes)).repeat(planner.controls), device=model.device)
        each = [self.tree.way(int(node)).state for node in nodes]
        state = take_rows(map_tensors(lambda *parts: th.cat(parts), *each), rows)
        actions = draw_controls(problem.codec, len(parents), planner.extremes, self.rng).to(model.device)
        holds = self.rng.integers(planner.hold[0], planner.hold[1] + 1, len(parents))
        states, places = [], [self.tree.places[parents]]
        alive = np.ones(len(parents), bool)
        reached = []
        for t in range(int(holds.max())):
            before = time.perf_counter()
            state, prediction = model.step(state, actions, generator=self.generator)
            self.model_seconds += time.perf_counter() - before
            self.model_calls += len(parents)
            place = problem.coordinates(state, prediction.next_obs)
            alive = alive & ~problem.is_over(prediction) & np.isfinite(place).all(1)
            states.append(state)
            places.append(np.where(alive[:, None], place, places[-1]))
            reached.append(alive & (t < holds))
        track = problem.to_metric(np.stack(places))
        clear = self._rough(track[:-1], track[1:], np.stack(reached))
        return _Extension(parents, actions, holds, states, np.stack(places[1:]), clear)

    def _rough(self, before: Points, after: Points, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which steps ``(T, R)`` were reached without an obstacle that a rough look shows."""
        free = np.zeros(asked.shape, bool)
        free[asked] = self.checker.roughly_valid(before[asked], after[asked])
        return np.logical_and.accumulate(free, 0)

    def _finish(self, extension: _Extension) -> None:
        """Take the extension that reaches the goal in the fewest steps, if it is better than the best path so far."""
        gaps = np.where(extension.reached, self.problem.gaps(extension.places), np.inf)
        steps, rows = (gaps <= self.planner.goal_tolerance).nonzero()
        costs = self.tree.costs[extension.parents[rows]] + steps + 1
        for place in np.argsort(costs, kind="stable"):
            if self.solved and costs[place] >= self.tree.costs[self.end]:
                return
            node = self._add(extension, int(rows[place]), int(steps[place]) + 1, kept=False)
            if node is not None:
                self.end, self.gap = node, float(gaps[steps[place], rows[place]])
                return

    def _keep(self, extension: _Extension, targets: Points) -> None:
        """Add to the tree, for each of ``targets (K, D)``, the extension that ends nearest to it."""
        rows = np.arange(len(extension.parents))
        ends = self.problem.to_metric(extension.places[extension.holds - 1, rows])
        whole = extension.reached[extension.holds - 1, rows]
        misses = np.linalg.norm(ends - np.repeat(targets, self.planner.controls, 0), axis=1)
        misses = np.where(whole, misses, np.inf).reshape(len(targets), -1)
        best = misses.argmin(1) + np.arange(len(targets)) * self.planner.controls
        for row in best[np.isfinite(misses.min(1))]:
            if len(self.tree) >= self.planner.max_nodes:
                return
            node = self._add(extension, int(row), int(extension.holds[row]), kept=True)
            if node is None or self.solved:
                continue
            gap = float(self.problem.gaps(self.tree.places[node]))
            if gap < self.gap:
                self.end, self.gap = node, gap

    def _add(self, extension: _Extension, row: int, steps: int, *, kept: bool) -> int | None:
        """Add the state of ``row`` after ``steps``, if its way is free; ``kept`` nodes are for further extension."""
        parent = int(extension.parents[row])
        cost = int(self.tree.costs[parent]) + steps
        place = extension.places[steps - 1, row]
        if kept and ((self.solved and cost >= self.tree.costs[self.end]) or not self.tree.wants(place, cost)):
            return None
        track = self.problem.to_metric(np.concatenate([self.tree.places[parent][None], extension.places[:steps, row]]))
        if not self.checker.finely_valid(track[:-1], track[1:]).all():
            return None
        state = take_rows(extension.states[steps - 1], th.tensor([row], device=self.problem.model.device))
        way = Way(state, extension.actions[row], steps, extension.places[:steps, row])
        return self.tree.add(way, place, parent, kept=kept)
