"""Planning through a model: known times, plans that the model repeats, wrong uses."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from controllers import ICEM, KinodynamicPlan, KinodynamicProblem, KinodynamicRRT, PlanningProblem, close_gap
from mbrl_wrappers.types import Prediction
from tests.controllers.motion.integrator import SECONDS, integrator, rest_to_rest, shortest_time, step

QUICK = KinodynamicRRT(sparsity=0.0, max_nodes=3000)
SPARSE = KinodynamicRRT(sparsity=0.1, goal_tolerance=0.05, max_nodes=1000)


def seeded(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def replayed(problem: KinodynamicProblem[Any], plan: KinodynamicPlan) -> Any:
    """The coordinates that the model gives for the plan's actions."""
    state = problem.begin(seeded())
    places = [problem.coordinates(state, problem.start)[0]]
    for action in plan.actions:
        state, prediction = problem.model.step(state, action[None], generator=seeded())
        places.append(problem.coordinates(state, prediction.next_obs)[0])
    return np.array(places)


def test_the_shortest_times_of_the_double_integrator() -> None:
    assert shortest_time(4.0, 0.0) == 4
    assert shortest_time(0.5, 1.0) == 1
    assert shortest_time(0.0, 1.0) == pytest.approx(1 + np.sqrt(2))  # back first
    assert shortest_time(-4.0, 0.0) == 4


@pytest.mark.parametrize(("distance", "seed"), [(0.25, 0), (1.0, 1)])
def test_rest_to_rest_is_within_a_quarter_of_the_shortest_time_and_never_below_it(distance: float, seed: int) -> None:
    problem, bound = rest_to_rest(distance), 2 * np.sqrt(distance)
    rough = SPARSE.plan(problem, generator=seeded(seed))
    assert rough.solved
    # Ending a little before the goal is a little quicker, but not than the shortest time to where it ended.
    assert rough.cost * SECONDS >= shortest_time(*rough.path[-1]) - 1e-5
    exact = close_gap(problem, rough, generator=seeded(seed))
    assert exact.gap <= 1e-3
    assert bound - 1e-9 <= exact.cost * SECONDS <= 1.25 * bound


@pytest.mark.parametrize("seed", range(3))
def test_the_first_way_is_found_fast_and_the_model_repeats_it(seed: int) -> None:
    problem = rest_to_rest(1.0)
    plan = QUICK.plan(problem, generator=seeded(seed))
    assert plan.solved
    assert plan.gap <= QUICK.goal_tolerance
    assert plan.gap == pytest.approx(np.linalg.norm(plan.path[-1] - [1, 0]))
    assert plan.actions.abs().max() <= 1
    assert plan.path.shape == (plan.cost + 1, 2)
    np.testing.assert_array_equal(replayed(problem, plan), plan.path)
    assert ((plan.path >= problem.low) & (plan.path <= problem.high)).all()
    assert len(plan.nodes) < 3000


def test_costs_count_the_steps_of_the_tree() -> None:
    plan = QUICK.plan(rest_to_rest(1.0), generator=seeded())
    assert plan.costs[0] == 0
    assert (plan.costs[1:] > plan.costs[plan.parents[1:]]).all()
    assert (plan.costs[1:] - plan.costs[plan.parents[1:]]).max() <= QUICK.hold[1]
    assert plan.cost in plan.costs


def test_the_same_seed_gives_the_same_plan() -> None:
    first, second, other = (QUICK.plan(rest_to_rest(1.0), generator=seeded(s)) for s in (4, 4, 5))
    assert th.equal(first.actions, second.actions)
    assert first.actions.shape != other.actions.shape or not th.equal(first.actions, other.actions)


def test_sparse_trees_only_get_quicker() -> None:
    times = [
        KinodynamicRRT(sparsity=0.1, max_nodes=n).plan(rest_to_rest(1.0), generator=seeded()).cost for n in (150, 450)
    ]
    first = QUICK.plan(rest_to_rest(1.0), generator=seeded()).cost
    assert first >= times[0] >= times[1]


def test_obstacles_and_bounds_hold_between_the_steps_too() -> None:
    # A sheet that one step jumps: it has a hole at high speed only.
    def valid(places: Any) -> Any:
        return (np.abs(places[:, 0] - 0.5) > 0.001) | (places[:, 1] > 0.5)

    plan = QUICK.plan(rest_to_rest(1.0, valid=valid), generator=seeded())
    assert plan.solved
    share = np.linspace(0, 1, 500)[:, None]
    for before, after in zip(plan.path[:-1], plan.path[1:], strict=True):
        assert valid(before + share * (after - before)).all()
    crossing = plan.path[1:][np.diff(np.sign(plan.path[:, 0] - 0.5)) != 0]
    assert crossing[:, 1].min() > 0.5


def test_a_wall_that_the_rough_look_misses_is_not_jumped() -> None:
    problem = rest_to_rest(1.0, valid=lambda places: np.abs(places[:, 0] - 0.5) > 0.02, resolution=0.03)
    plan = KinodynamicRRT(sparsity=0.0, max_nodes=800).plan(problem, generator=seeded())
    assert plan.nodes[:, 0].max() < 0.5


def test_a_goal_that_cannot_be_reached_gives_the_nearest_approach() -> None:
    problem = rest_to_rest(1.0, valid=lambda places: np.abs(places[:, 0] - 0.5) > 0.05)
    plan = KinodynamicRRT(sparsity=0.0, max_nodes=300).plan(problem, generator=seeded())
    assert not plan.solved
    assert 0.5 < plan.gap < 1
    assert plan.gap == pytest.approx(problem.gaps(plan.nodes).min())
    assert plan.path[:, 0].max() < 0.45


def test_free_coordinates_of_the_goal_take_any_value() -> None:
    problem = KinodynamicProblem(integrator(), [0.0, 0.0], [1.0, np.nan], [-0.5, -2], [1.5, 2])
    plan = KinodynamicRRT(goal_tolerance=0.05, max_nodes=500).plan(problem, generator=seeded())
    assert plan.solved
    assert abs(plan.path[-1, 0] - 1) <= 0.05
    assert plan.path[-1, 1] > 1  # full force to the end: nothing asks to brake
    assert np.sqrt(2 * 0.95) <= plan.cost * SECONDS <= 1.1 * np.sqrt(2) + SECONDS


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([3])])
def test_discrete_actions_are_planned_too(space: Any) -> None:
    def discrete(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return step(obs, action.reshape(len(obs), 1).float() - 1)

    problem = rest_to_rest(1.0, model=integrator(space, discrete))
    plan = QUICK.plan(problem, generator=seeded())
    assert plan.solved
    assert (plan.actions.sum(1) == 1).all()
    assert plan.actions.shape[1] == 3
    np.testing.assert_array_equal(replayed(problem, plan), plan.path)
    with pytest.raises(TypeError, match="close_gap corrects continuous actions by a little"):
        close_gap(problem, plan, generator=seeded())


def test_what_the_model_ends_is_not_extended() -> None:
    def ending(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after, reward, _ = step(obs, action)
        return after, reward, after[:, 0] > 0.6

    plan = KinodynamicRRT(sparsity=0.0, max_nodes=300).plan(
        rest_to_rest(1.0, model=integrator(step_fn=ending)), generator=seeded()
    )
    assert not plan.solved
    assert plan.nodes[:, 0].max() <= 0.6


def test_predictions_that_are_not_finite_are_left_out() -> None:
    def breaking(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after, reward, ended = step(obs, action)
        return th.where(after[:, :1] > 0.6, th.nan, after), reward, ended

    plan = KinodynamicRRT(sparsity=0.0, max_nodes=300).plan(
        rest_to_rest(1.0, model=integrator(step_fn=breaking)), generator=seeded()
    )
    assert not plan.solved
    assert np.isfinite(plan.nodes).all()


class Hidden(NamedTuple):
    """A state that observations do not show: place, speed, and a member that follows the row."""

    vector: Tensor
    member: Tensor


class VectorModel:
    """Observes the place alone; its state has coordinates of its own."""

    def __init__(self) -> None:
        inner = integrator()
        self.observation_space = spaces.Box(-9, 9, (1,), np.float32)
        self.action_space, self.device = inner.action_space, inner.device

    def reset(self, obs: Tensor, *, generator: Generator) -> Hidden:
        return Hidden(th.cat([obs, th.zeros_like(obs)], 1), th.arange(len(obs)))

    def step(self, state: Hidden, action: Tensor, *, generator: Generator) -> tuple[Hidden, Prediction]:
        after, reward, ended = step(state.vector, action)
        return Hidden(after, state.member), Prediction(after[:, :1], reward, ended)

    def state_vector(self, state: Hidden) -> Tensor:
        return state.vector

    def with_state_vector(self, state: Hidden, vector: Tensor) -> Hidden:
        return state._replace(vector=vector)


def test_a_model_with_coordinates_of_its_own_is_planned_in_them() -> None:
    problem = KinodynamicProblem(VectorModel(), [0.0], [1.0, 0.0], [-0.5, -2], [1.5, 2])
    plan = QUICK.plan(problem, generator=seeded())
    assert plan.solved
    np.testing.assert_array_equal(replayed(problem, plan), plan.path)


def test_a_plan_scores_in_a_planning_problem_and_starts_other_planners() -> None:
    plan = QUICK.plan(rest_to_rest(1.0), generator=seeded())
    model = integrator()
    for horizon in (plan.cost, plan.cost + 7, plan.cost - 3):
        problem = PlanningProblem(model, th.zeros(1, 2), horizon)
        whole = plan.as_plan(problem, generator=seeded())
        assert whole.actions.shape == (1, horizon, 1)
        assert whole.value.item() == -horizon  # one point is lost per step
        kept = min(horizon, plan.cost)
        assert th.equal(whole.actions[0, :kept], plan.actions[:kept])
        assert (whole.actions[0, kept:] == 0).all()
        better = ICEM(population=8, iterations=1).plan(problem, whole.next_start, generator=seeded())
        assert better.report.warm_start_value.item() == -horizon
    with pytest.raises(ValueError, match="A plan has one start"):
        plan.as_plan(PlanningProblem(model, th.zeros(2, 2), 5), generator=seeded())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": [0.0]}, r"start must be one finite observation of the model, shape \(2,\)"),
        ({"start": [0.0, np.nan]}, "start must be one finite observation"),
        ({"goal": [1.0]}, "goal must have the 2 coordinates of the bounds"),
        ({"goal": [np.nan, np.nan]}, "not all NaN"),
        ({"goal": [5.0, 0.0]}, "goal .* lies outside the bounds"),
        ({"goal": [0.5, 0.0]}, "goal .* is not valid: it lies in an obstacle"),
        ({"model": integrator(spaces.Box(-np.inf, np.inf, (1,), np.float32))}, "has none: wrap the environment"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"model": integrator(), "start": [0.0, 0.0], "goal": [1.0, 0.0], **changes}
    with pytest.raises(ValueError, match=message):
        KinodynamicProblem(low=[-0.5, -2], high=[1.5, 2], valid=lambda p: np.abs(p[:, 0] - 0.5) > 0.1, **options)


@pytest.mark.parametrize(
    ("start", "low", "message"),
    [
        ([0.5, 0.0], [-0.5, -2], "start .* is not valid: it lies in an obstacle"),
        ([-1.0, 0.0], [-0.5, -2], "start .* lies outside the bounds"),
        ([0.0, 0.0], [-0.5, -2, -2], "The bounds have 3 coordinates and the state of FunctionModel has 2"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused_before_planning(start: Any, low: Any, message: str) -> None:
    high, goal = [1.5, 2, 2][: len(low)], [1.0, 0, 0][: len(low)]
    problem = KinodynamicProblem(integrator(), start, goal, low, high, lambda p: np.abs(p[:, 0] - 0.5) > 0.1)
    with pytest.raises(ValueError, match=message):
        QUICK.plan(problem, generator=seeded())


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"controls": 0}, "controls must be an integer of at least 1"),
        ({"hold": (3, 2)}, "hold must be the fewest and the most steps"),
        ({"hold": (0, 2)}, "hold must be an integer of at least 1"),
        ({"goal_tolerance": 0.0}, "random actions never end exactly at the goal"),
        ({"sparsity": -0.1}, "sparsity must be"),
        ({"extremes": 1.1}, "extremes must be"),
        ({"goal_bias": -0.1}, "goal_bias must be"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KinodynamicRRT(**numbers)


def test_a_start_at_the_goal_needs_no_action() -> None:
    problem = KinodynamicProblem(integrator(), [0.0, 0.0], [0.0, 0.0], [-1, -1], [1, 1])
    plan = KinodynamicRRT().plan(problem, generator=seeded())
    assert plan.solved
    assert plan.actions.shape == (0, 1)
    assert plan.path.tolist() == [[0, 0]]
