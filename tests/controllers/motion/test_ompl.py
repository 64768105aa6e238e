"""OMPL behind the same classes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch as th

from controllers import RRT, MotionProblem, RRTConnect, RRTStar
from tests.controllers.motion.disc import SHORTEST, assert_is_tree, disc_problem, finely_free, wall_problem


def seeded(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def test_without_ompl_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "ompl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ompl", None)
    with pytest.raises(ImportError, match=r"needs ompl, which is not installed: pip install 'mbrl-wrappers\[ompl\]'"):
        RRT(backend="ompl").plan(disc_problem(), generator=seeded())


@pytest.mark.parametrize(
    "planner",
    [RRT(backend="ompl"), RRTConnect(backend="ompl"), RRTStar(backend="ompl", max_nodes=800)],
    ids=lambda planner: type(planner).__name__,
)
def test_ompl_finds_valid_paths_and_repeats_them(planner: Any) -> None:
    pytest.importorskip("ompl")
    plan, again = (planner.plan(disc_problem(), generator=seeded(3)) for _ in range(2))
    assert plan.solved
    assert plan.path[[0, -1]].tolist() == [[0, 0], [1, 1]]
    assert finely_free(plan.path)
    assert plan.cost >= SHORTEST - 1e-9
    assert_is_tree(plan)
    np.testing.assert_array_equal(plan.path, again.path)
    if isinstance(planner, RRTStar):
        assert plan.cost <= 1.1 * SHORTEST


@pytest.mark.parametrize("backend", ["own", "ompl"])
@pytest.mark.parametrize("kind", [RRT, RRTConnect, RRTStar])
@pytest.mark.parametrize("offset", [0.0, 1e-15])
def test_a_start_at_the_goal_is_a_path_of_no_length(kind: Any, backend: Any, offset: float) -> None:
    if backend == "ompl":
        pytest.importorskip("ompl")
    problem = MotionProblem([0, 0], [1, 1], [0.3, 0.3], [0.3 + offset, 0.3])
    plan = kind(backend=backend, max_nodes=200).plan(problem, generator=seeded())
    assert plan.solved
    assert plan.cost == pytest.approx(0, abs=1e-14)
    assert plan.gap == 0
    assert plan.path[[0, -1]].tolist() == [problem.start.tolist(), problem.goal.tolist()]
    assert_is_tree(plan)


@pytest.mark.parametrize("backend", ["own", "ompl"])
def test_a_start_within_the_tolerance_goes_on_to_the_goal_where_it_can(backend: Any) -> None:
    if backend == "ompl":
        pytest.importorskip("ompl")
    planner = RRT(backend=backend, goal_tolerance=0.1, max_nodes=200)
    plan = planner.plan(MotionProblem([0, 0], [1, 1], [0.3, 0.3], [0.35, 0.3]), generator=seeded())
    assert plan.solved
    assert plan.cost == pytest.approx(0.05)
    wall = MotionProblem([0, 0], [1, 1], [0.3, 0.3], [0.35, 0.3], lambda points: abs(points[:, 0] - 0.32) > 0.01)
    blocked = planner.plan(wall, generator=seeded())
    assert (blocked.solved, blocked.cost) == (True, 0.0)
    assert blocked.gap == pytest.approx(0.05)


@pytest.mark.parametrize(
    "planner",
    [RRT(backend="ompl", max_nodes=200), RRTConnect(backend="ompl", max_nodes=200)],
    ids=lambda planner: type(planner).__name__,
)
def test_ompl_fails_as_we_do(planner: Any) -> None:
    pytest.importorskip("ompl")
    plan = planner.plan(wall_problem(), generator=seeded())
    assert not plan.solved
    assert plan.path[0].tolist() == [0.1, 0.5]
    assert 0.5 < plan.gap < 0.6
