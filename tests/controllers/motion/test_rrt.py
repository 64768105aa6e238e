"""RRT and RRT-Connect: valid paths, honest failures, the same plan for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from controllers import RRT, KinodynamicRRT, MotionProblem, RRTConnect, RRTStar
from tests.controllers.motion.disc import SHORTEST, assert_is_tree, disc_problem, finely_free, wall_problem

PLANNERS = [RRT(), RRTConnect(), RRTStar(max_nodes=250)]
each_planner = pytest.mark.parametrize("planner", PLANNERS, ids=lambda planner: type(planner).__name__)


def seeded(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def test_the_known_answer() -> None:
    assert pytest.approx(1.503559, abs=5e-7) == SHORTEST


@each_planner
@pytest.mark.parametrize("seed", range(5))
def test_a_path_is_valid_from_start_to_goal_and_never_shorter_than_the_shortest(planner: Any, seed: int) -> None:
    plan = planner.plan(disc_problem(), generator=seeded(seed))
    assert plan.solved
    assert plan.gap == 0
    assert plan.path[0].tolist() == [0, 0]
    assert plan.path[-1].tolist() == [1, 1]
    assert finely_free(plan.path)
    assert plan.cost >= SHORTEST - 1e-9
    assert plan.cost == pytest.approx(np.linalg.norm(np.diff(plan.path, axis=0), axis=1).sum())
    assert np.linalg.norm(np.diff(plan.path, axis=0), axis=1).max() <= 0.05 * np.sqrt(2) + 1e-12
    assert_is_tree(plan)


@each_planner
def test_the_same_seed_gives_the_same_plan(planner: Any) -> None:
    global_stream = th.get_rng_state()
    first, second, other = (planner.plan(disc_problem(), generator=seeded(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.nodes, second.nodes)
    np.testing.assert_array_equal(first.path, second.path)
    assert not np.array_equal(first.path, other.path)
    assert th.equal(th.get_rng_state(), global_stream)


@each_planner
def test_a_numpy_generator_will_do(planner: Any) -> None:
    assert planner.plan(disc_problem(), generator=np.random.default_rng(0)).solved


@pytest.mark.parametrize("planner", [RRT(max_nodes=200), RRTConnect(max_nodes=200), RRTStar(max_nodes=200)])
def test_a_goal_that_cannot_be_reached_gives_the_nearest_approach(planner: Any) -> None:
    plan = planner.plan(wall_problem(), generator=seeded())
    assert not plan.solved
    assert plan.path[0].tolist() == [0.1, 0.5]
    assert plan.path[-1, 0] < 0.4
    assert plan.gap == pytest.approx(np.linalg.norm(plan.path[-1] - [0.9, 0.5]))
    assert 0.5 < plan.gap < 0.6
    mine = plan.nodes[plan.nodes[:, 0] < 0.5]
    assert plan.gap == np.linalg.norm(mine - [0.9, 0.5], axis=1).min()
    assert len(plan.nodes) == 200


@each_planner
def test_a_planner_gives_up_when_nothing_can_be_added(planner: Any) -> None:
    pinned = MotionProblem([0, 0], [1, 1], [0.1, 0.1], [0.9, 0.9], lambda p: (p == p[:, :1]).all(1) & _ends(p))
    plan = type(planner)(max_nodes=10).plan(pinned, generator=seeded())
    assert not plan.solved
    assert plan.path.tolist() == [[0.1, 0.1]]
    assert plan.report.iterations == 200


def _ends(points: Any) -> Any:
    return (np.abs(points - 0.1) < 1e-9).all(1) | (np.abs(points - 0.9) < 1e-9).all(1)


def test_a_tolerance_accepts_a_path_that_ends_beside_a_goal_no_edge_leads_to() -> None:
    # The goal sits alone in a closed ring.
    def valid(points: Any) -> Any:
        distance = np.linalg.norm(points - [0.8, 0.8], axis=1)
        return (distance < 0.001) | (distance > 0.05)

    problem = MotionProblem([0, 0], [1, 1], [0, 0], [0.8, 0.8], valid)
    assert not RRT(max_nodes=300).plan(problem, generator=seeded()).solved
    for planner in (RRT(goal_tolerance=0.1), RRTStar(goal_tolerance=0.1, max_nodes=500)):
        plan = planner.plan(problem, generator=seeded())
        assert plan.solved
        assert 0.05 < plan.gap <= 0.1


@each_planner
def test_a_free_line_is_taken_as_it_is(planner: Any) -> None:
    problem = MotionProblem([0, 0, 0], [1, 1, 1], [0.1, 0.2, 0.3], [0.12, 0.22, 0.32])
    plan = planner.plan(problem, generator=seeded())
    np.testing.assert_allclose(plan.path[[0, -1]], [[0.1, 0.2, 0.3], [0.12, 0.22, 0.32]])
    assert plan.cost == pytest.approx(0.02 * np.sqrt(3))
    assert len(plan.path) == 2


@each_planner
def test_no_planner_has_more_nodes_than_it_may(planner: Any) -> None:
    free = MotionProblem([0, 0], [1, 1], [0.1, 0.1], [0.9, 0.9])
    plan = type(planner)(step=0.001, max_nodes=50).plan(free, generator=seeded())
    assert len(plan.nodes) == 50
    assert not plan.solved


@each_planner
def test_a_goal_at_the_start_is_solved(planner: Any) -> None:
    plan = planner.plan(MotionProblem([0, 0], [1, 1], [0.5, 0.5], [0.5, 0.5]), generator=seeded())
    assert plan.solved
    assert plan.cost == 0


@each_planner
def test_one_dimension_and_six(planner: Any) -> None:
    for size in (1, 6):
        problem = MotionProblem([0.0] * size, [1.0] * size, [0.1] * size, [0.9] * size)
        assert planner.plan(problem, generator=seeded()).solved


@each_planner
def test_weights_scale_the_whole_problem(planner: Any) -> None:
    # Twice the units in one coordinate, half the weight: the same plan.
    def valid(points: Any) -> Any:
        return np.square(points / [2, 1] - 0.5).sum(1) >= 0.0625

    stretched = MotionProblem([0, 0], [2, 1], [0, 0], [2, 1], valid, weights=[0.5, 1])
    plain = planner.plan(disc_problem(), generator=seeded())
    scaled = planner.plan(stretched, generator=seeded())
    np.testing.assert_allclose(scaled.path / [2, 1], plain.path, atol=1e-12)
    assert scaled.cost == pytest.approx(plain.cost)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RRT(step=0.0), "step must be above 0"),
        (lambda: RRT(step=-1.0), "step must be a finite number"),
        (lambda: RRT(max_nodes=1), "max_nodes must be an integer of at least 2"),
        (lambda: RRT(goal_bias=1.5), "goal_bias must be .* at most 1"),
        (lambda: RRT(goal_tolerance=-0.1), "goal_tolerance must be"),
        (lambda: RRT(backend="opml"), r"backend must be one of \('own', 'ompl'\)"),
        (lambda: RRTStar(radius_factor=0.0), "radius_factor must be above 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_problem_of_another_kind_is_sent_to_its_planner() -> None:
    with pytest.raises(TypeError, match="RRT plans a MotionProblem, got dict: plan through a model with Kinodynamic"):
        RRT().plan({}, generator=seeded())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got MotionProblem: a MotionProblem has no model, plan it with RRT"):
        KinodynamicRRT().plan(disc_problem(), generator=seeded())  # type: ignore[arg-type]


def test_the_report_counts_what_was_asked() -> None:
    asked = []

    def valid(points: Any) -> Any:
        asked.append(len(points))
        return np.ones(len(points), bool)

    problem = MotionProblem([0, 0], [1, 1], [0, 0], [1, 1], valid)
    asked.clear()
    report = RRT().plan(problem, generator=seeded()).report
    assert report.points_checked == sum(asked)
    assert report.seconds >= report.valid_seconds > 0
