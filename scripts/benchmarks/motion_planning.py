"""Motion planners: how neighbours and trees grow, and what paths they find around a disc and through a model.

Times are CPU seconds of this process, so that other programs disturb them little. OMPL is measured beside ours where
it is installed; it calls the same batched check of an edge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import RRT, KinodynamicProblem, KinodynamicRRT, MotionProblem, RRTConnect, RRTStar, close_gap, shortcut
from controllers.motion.nearest import NearestPoints
from controllers.motion.path import path_length
from mbrl_wrappers import FunctionModel

RADIUS = 0.25
SHORTEST = 2 * math.sqrt(0.5 - RADIUS**2) + RADIUS * (math.pi - 2 * math.acos(RADIUS / math.sqrt(0.5)))
STEP_SECONDS = 0.05


@dataclass(frozen=True)
class Growth:
    """CPU seconds until there were ``count`` nodes, and their ratio to ``n log n``, the first one being 1."""

    what: str
    backend: str
    count: int
    seconds: float
    per_n_log_n: float


@dataclass(frozen=True)
class Found:
    """Paths of one planner over seeds."""

    planner: str
    backend: str
    nodes: int
    solved: int
    lengths: tuple[float, ...]
    after_shortcuts: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Reached:
    """Times of the double integrator from rest to rest; ``bound`` is the shortest possible."""

    distance: float
    bound: float
    sparse: bool
    times: tuple[float, ...]
    gaps: tuple[float, ...]
    seconds: tuple[float, ...]


def motion_report(seeds: int = 5, largest: int = 10_000) -> dict[str, Any]:
    """Measure and print.

    Args:
        seeds: per planner.
        largest: nodes of the largest RRT*.
    """
    backends = ("own", "ompl") if installed("ompl") else ("own",)
    growth = [*neighbours(), *(row for backend in backends for row in rrt_star_growth(backend, largest))]
    found = [row for backend in backends for row in disc_paths(backend, seeds)]
    reached = [rest_to_rest(distance, sparse, seeds) for distance in (0.25, 1.0, 2.0) for sparse in (False, True)]
    return {
        "versions": {name: installed(name) for name in ("numpy", "scipy", "torch", "ompl")},
        "shortest": SHORTEST,
        "growth": [asdict(row) for row in growth],
        "disc": [asdict(row) for row in found],
        "double_integrator": [asdict(row) for row in reached],
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` returns, and its CPU seconds."""
    started = time.process_time()
    return work(), time.process_time() - started


def neighbours() -> list[Growth]:
    """Time of alternating insertions and nearest-neighbour queries in the plane: kd-trees and brute force."""
    points, rows = np.random.default_rng(0).random((100_000, 2)), []
    for what, largest in (("nearest neighbours", 100_000), ("search through all", 10_000)):
        known, first, started = NearestPoints(2), 0.0, time.process_time()
        for count, point in enumerate(points[:largest], 1):
            if what == "nearest neighbours" and count > 1:
                known.nearest(point)
            elif count > 1:
                np.square(points[: count - 1] - point).sum(1).argmin()
            known.add(point)
            if count in (1_000, 10_000, 100_000):
                seconds = time.process_time() - started
                first = first or seconds / n_log_n(count)
                rows.append(shown(Growth(what, "own", count, seconds, seconds / n_log_n(count) / first)))
    return rows


def rrt_star_growth(backend: Any, largest: int) -> list[Growth]:
    """Seconds of RRT* by its number of nodes, obstacles and all."""
    rows: list[Growth] = []
    first = 0.0
    for nodes in (largest // 8, largest // 4, largest // 2, largest):
        planner = RRTStar(max_nodes=nodes, backend=backend)
        plan, seconds = timed(lambda planner=planner: planner.plan(disc(), generator=seeded(0)))
        count = len(plan.nodes)
        first = first or seconds / n_log_n(count)
        rows.append(shown(Growth("RRT*", backend, count, seconds, seconds / n_log_n(count) / first)))
    return rows


def disc_paths(backend: Any, seeds: int) -> list[Found]:
    """Lengths around the disc, before and after shortcuts."""
    rows = []
    for planner in (RRT(backend=backend), RRTConnect(backend=backend), RRTStar(backend=backend)):
        plans = [timed(lambda p=planner, s=seed: p.plan(disc(), generator=seeded(s))) for seed in range(seeds)]
        short = [path_length(disc(), shortcut(disc(), plan.path, generator=seeded(0))) for plan, _ in plans]
        rows.append(
            Found(
                type(planner).__name__,
                backend,
                max(len(plan.nodes) for plan, _ in plans),
                sum(plan.solved for plan, _ in plans),
                tuple(plan.cost for plan, _ in plans),
                tuple(short),
                tuple(seconds for _, seconds in plans),
            )
        )
        shown(rows[-1])
    return rows


def rest_to_rest(distance: float, sparse: bool, seeds: int) -> Reached:
    """The double integrator by plain and by sparse kinodynamic RRT, closed to the goal."""
    problem = double_integrator(distance)
    planner = KinodynamicRRT(goal_tolerance=0.05, sparsity=0.05 if sparse else 0.0)
    runs = []
    for seed in range(seeds):
        plan, seconds = timed(lambda seed=seed: planner.plan(problem, generator=seeded(seed)))
        runs.append((close_gap(problem, plan, generator=seeded(seed)), seconds))
    times, gaps = tuple(plan.cost * STEP_SECONDS for plan, _ in runs), tuple(plan.gap for plan, _ in runs)
    seconds = tuple(seconds for _, seconds in runs)
    return shown(Reached(distance, 2 * math.sqrt(distance), sparse, times, gaps, seconds))


def double_integrator(distance: float) -> KinodynamicProblem[Any]:
    """From rest to rest, ``distance`` away, by a force within 1."""
    model = FunctionModel(spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32), push)
    return KinodynamicProblem(model, [0.0, 0.0], [distance, 0.0], [-0.5, -2], [distance + 0.5, 2])


def push(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A unit mass under a force that is held for a step."""
    place, speed, force = obs[:, 0], obs[:, 1], action[:, 0]
    after = [place + STEP_SECONDS * speed + STEP_SECONDS**2 / 2 * force, speed + STEP_SECONDS * force]
    return th.stack(after, 1), -th.ones(len(obs)), th.zeros(len(obs), dtype=th.bool)


def disc() -> MotionProblem:
    """The unit square with a disc in the middle."""
    return MotionProblem([0, 0], [1, 1], [0, 0], [1, 1], lambda points: np.square(points - 0.5).sum(1) >= RADIUS**2)


def seeded(seed: int) -> th.Generator:
    return th.Generator().manual_seed(seed)


def n_log_n(count: int) -> float:
    return count * math.log(count)


def installed(name: str) -> str | None:
    """The version of a library, None without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def shown(row: Any) -> Any:
    """Print ``row`` and return it."""

    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return "(" + " ".join(text(part) for part in value) + ")"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    print("  ".join(f"{name}={text(value)}" for name, value in asdict(row).items()), flush=True)
    return row
