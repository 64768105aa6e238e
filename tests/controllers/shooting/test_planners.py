"""Tests of what all shooting planners promise, whatever the model does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from controllers import CEM, ICEM, MPPI, GradientShooting, Planner, PlanningProblem, RandomShooting, WarmStart
from mbrl_wrappers.models import EnsembleDynamics, FunctionModel
from mbrl_wrappers.types import Prediction
from tests.controllers.linear import linear_problem, optimal_actions
from tests.controllers.recording import RecordingProblem
from tests.controllers.scripted import SCALAR, Particle, SharedMembers
from tests.controllers.shooting.test_distributions import HIGH, LOW, ODD_BOX, in_env_units
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model

PLANNERS: dict[str, Planner] = {
    "CEM": CEM(population=20, iterations=3),
    "ICEM": ICEM(population=20, iterations=3, num_elites=5),
    "MPPI": MPPI(population=20, iterations=2),
    "MPPI with knots": MPPI(population=20, iterations=2, knots=3, noise_exponent=1.0),
    "RandomShooting": RandomShooting(population=20),
    "GradientShooting": GradientShooting(population=3, iterations=4),
}
MINIMAL: dict[str, Planner] = {
    "CEM": CEM(population=1, iterations=1),
    "ICEM": ICEM(population=1, iterations=2),
    "MPPI": MPPI(population=1, iterations=1, knots=4),
    "RandomShooting": RandomShooting(population=1),
    "GradientShooting": GradientShooting(population=1, iterations=1),
}
every_planner = pytest.mark.parametrize("planner", PLANNERS.values(), ids=PLANNERS.keys())


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def oracle_problem(horizon: int = 4, starts: int = 3) -> PlanningProblem[Any]:
    start = 0.8 * th.rand(starts, 3, generator=generator(9)) - 0.4
    return PlanningProblem(oracle_model(OracleEnv()), start, horizon)


class NoisyReward(SharedMembers):
    """``r = -u^2 + noise``, with noise that all candidates of a batch share; the state stays where it is."""

    def _advance(self, state: Particle, action: Tensor, noise: Tensor) -> tuple[Particle, Prediction]:
        return state, Prediction(state.obs, noise - action[:, 0].square(), th.zeros(len(action), dtype=th.bool))


FEW: dict[str, Planner] = {
    "CEM": CEM(population=4, iterations=10, returns="best", init_std=1.0, min_std=0.5),
    "ICEM": ICEM(population=4, iterations=10, returns="best", init_std=1.0, num_elites=2),
    "MPPI": MPPI(population=4, iterations=10, returns="best"),
    "RandomShooting": RandomShooting(population=4, iterations=10),
    "GradientShooting": GradientShooting(population=4, iterations=4),
}


@pytest.mark.parametrize("planner", FEW.values(), ids=FEW.keys())
@pytest.mark.parametrize("particles", [1, 3])
def test_no_luck_of_the_draws_beats_the_warm_start(planner: Any, particles: int) -> None:
    model = NoisyReward(1.0)
    model.action_space = spaces.Box(-1, 1, (1,), np.float32)  # type: ignore[assignment]
    problem = PlanningProblem(model, th.zeros(2, 1), 1, particles=particles)
    for seed in range(10):
        plan = planner.plan(problem, th.zeros(2, 1, 1), generator=generator(seed))  # the optimum
        assert plan.actions.tolist() == [[[0.0]], [[0.0]]]
        assert plan.value.equal(plan.report.warm_start_value)


@pytest.mark.parametrize("propagation", ["ts1", "tsinf"])
@pytest.mark.parametrize("particles", [1, 4])
def test_a_candidate_scores_the_same_in_any_company(propagation: Any, particles: int) -> None:
    model = EnsembleDynamics(
        spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,)), hidden=(8,), propagation=propagation, device="cpu"
    )
    problem = PlanningProblem(model, th.randn(3, 2, generator=generator()), 4, particles=particles)
    actions = th.rand(3, 5, 4, 1, generator=generator(1)) - 0.5
    together = problem.score(actions, generator=generator(2))
    alone = [problem.score(actions[:, [p]], generator=generator(2)) for p in range(5)]
    th.testing.assert_close(th.cat(alone, 1), together, rtol=1e-4, atol=1e-5)
    pairs = problem.score(actions[:, [3, 1]], generator=generator(2))
    th.testing.assert_close(pairs, together[:, [3, 1]], rtol=1e-4, atol=1e-5)


def test_plans_with_other_seeds_see_other_draws() -> None:
    model = NoisyReward(1.0)
    problem = PlanningProblem(model, th.zeros(1, 1), 1)
    warm = th.zeros(1, 1, 1)
    values = {CEM(population=4).plan(problem, warm, generator=generator(seed)).value.item() for seed in range(5)}
    assert len(values) == 5


@every_planner
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.0, 0.3, 3.0]))
def test_a_plan_is_never_worse_than_its_warm_start_in_an_exact_model(planner: Planner, seed: int, scale: float) -> None:
    problem = oracle_problem()
    warm = scale * th.randn(3, 4, 2, generator=generator(seed))
    plan = planner.plan(problem, warm, generator=generator(seed + 1))
    value = problem.score(warm.clamp(-1, 1)[:, None])[:, 0]
    assert plan.report.warm_start_value.equal(value)
    assert (plan.value >= value).all()
    assert (plan.report.best_value >= plan.value).all()
    th.testing.assert_close(problem.score(plan.actions[:, None])[:, 0], plan.value)


@every_planner
def test_an_optimal_warm_start_is_not_lost(planner: Planner) -> None:
    problem = linear_problem(10)
    best = th.tensor(optimal_actions(10), dtype=th.float32)[None]
    plan = planner.plan(problem, best, generator=generator())
    assert plan.value.item() >= problem.score(best[:, None]).item()
    again = planner.plan(problem, plan.next_start, generator=generator(1))
    assert again.report.best_value.item() >= plan.value.item() - 1e-5, "what was best is looked at again"


@every_planner
def test_equal_seeds_give_equal_plans_and_others_differ(planner: Planner) -> None:
    plans = [planner.plan(oracle_problem(), generator=generator(seed)) for seed in (1, 1, 2)]
    assert plans[0].actions.equal(plans[1].actions)
    assert plans[0].value.equal(plans[1].value)
    assert not plans[0].candidates.equal(plans[2].candidates)


@every_planner
def test_the_report_adds_up(planner: Planner) -> None:
    problem = RecordingProblem.of(oracle_problem())
    report = planner.plan(problem, generator=generator()).report
    assert report.model_calls == sum(scores.numel() * 4 for scores in problem.scores)
    assert report.warm_start_value.isnan().all(), "there was no warm start"
    last = problem.scores[-1]
    best = th.cat(problem.scores, 1).amax(1)
    assert report.best_value.equal(best)
    if last.shape[1] > 1:
        th.testing.assert_close(report.mean_value, last.mean(1))
    assert (report.effective_sample_size >= 1).all()
    assert report.num_invalid == 0
    assert 0 < report.model_seconds <= report.seconds


# --- models that fail -------------------------------------------------------------------------------------------------


def failing_problem(reward: float, terminated: bool, starts: int = 2) -> PlanningProblem[Any]:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + 1, obs[:, 0] * 0 + reward, th.full((len(obs),), terminated)

    return PlanningProblem(FunctionModel(SCALAR, ODD_BOX, step), th.zeros(starts, 1), 3)


@every_planner
@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_model_of_nan_gives_the_warm_start_or_the_middle(planner: Planner, reward: float) -> None:
    problem = failing_problem(reward, terminated=False)
    plan = planner.plan(problem, generator=generator())
    assert in_env_units(problem, plan.actions).unique(dim=0).tolist() == [[1.0, 0.25, 3.0, 0.0, 5.0]]
    assert plan.value.tolist() == [-math.inf] * 2
    assert plan.report.mean_value.isnan().all()
    assert plan.report.num_invalid > 0
    warm = problem.middle + th.tensor([0.1, -0.2, 0.0, 0.3, 0.4]).expand(2, 3, 5)
    known = WarmStart(warm, th.tensor([True, False]))
    plan = planner.plan(problem, known, generator=generator())
    th.testing.assert_close(plan.actions, th.stack([warm[0], problem.middle.expand(3, 5)]), rtol=0, atol=0)
    for left in (plan.next_start.actions, plan.next_start.elites):
        assert left is None or left.isfinite().all()


@every_planner
def test_a_model_that_always_ends_scores_one_step(planner: Planner) -> None:
    problem = failing_problem(2.5, terminated=True)
    if isinstance(planner, GradientShooting):  # here no prediction depends on any action
        with pytest.raises(TypeError, match="No gradient"):
            planner.plan(problem, generator=generator())
        return
    plan = planner.plan(problem, generator=generator())
    assert plan.value.tolist() == [2.5, 2.5]
    assert plan.actions.isfinite().all()


@every_planner
def test_candidates_that_fail_are_left_out(planner: Planner) -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = action[:, 0]  # the best finite action is at the edge of what fails
        return obs, th.where(u > 0.2, th.nan, u), th.zeros(len(obs), dtype=th.bool)

    problem = PlanningProblem(FunctionModel(SCALAR, spaces.Box(-1, 1, (1,)), step), th.zeros(1, 1), 2)
    plan = planner.plan(problem, generator=generator())
    assert 0.0 <= plan.value.item() <= 0.4
    assert plan.actions.max() <= 0.2
    assert plan.next_start.actions.isfinite().all()


# --- extremes ---------------------------------------------------------------------------------------------------------


@every_planner
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_candidates_and_plans_stay_inside_odd_bounds(planner: Planner, seed: int) -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs, action.sum(1), th.zeros(len(obs), dtype=th.bool)  # drives everything to its bounds

    problem = RecordingProblem.of(PlanningProblem(FunctionModel(SCALAR, ODD_BOX, step), th.zeros(2, 1), 3))
    warm = 10 * th.randn(2, 3, 5, generator=generator(seed))
    plan = planner.plan(problem, warm, generator=generator(seed))
    low, high = problem.bounds
    for sequences in (*problem.candidates, plan.actions, plan.next_start.actions):
        assert (sequences >= low).all()
        assert (sequences <= high).all()
    env = problem.codec.to_env(plan.actions[:, 0])
    assert all(row in ODD_BOX for row in env)
    assert ((env >= LOW) & (env <= HIGH)).all()


@pytest.mark.parametrize("planner", MINIMAL.values(), ids=MINIMAL.keys())
@pytest.mark.parametrize("horizon", [1, 2])
def test_one_candidate_is_the_warm_start_or_the_middle(planner: Planner, horizon: int) -> None:
    problem = oracle_problem(horizon)
    plan = planner.plan(problem, generator=generator())
    warm = 0.25 * th.ones(3, horizon, 2)
    kept = planner.plan(problem, warm, generator=generator())
    assert plan.actions.shape == (3, horizon, 2)
    assert kept.report.warm_start_value.isfinite().all()
    if not isinstance(planner, GradientShooting):
        assert plan.actions.equal(th.zeros(3, horizon, 2))
        assert kept.actions.equal(warm)


@every_planner
def test_a_horizon_of_one_step_is_enough(planner: Planner) -> None:
    plan = planner.plan(oracle_problem(horizon=1), generator=generator())
    assert plan.actions.shape == (3, 1, 2)
    assert plan.value.isfinite().all()


def test_planners_of_continuous_actions_refuse_discrete_ones() -> None:
    problem = PlanningProblem(oracle_model(DiscreteOracleEnv()), th.zeros(1, 3), 2)
    for name in ("ICEM", "MPPI", "GradientShooting"):
        with pytest.raises(TypeError, match=f"{name} plans continuous actions"):
            PLANNERS[name].plan(problem, generator=generator())


# --- warm starts ------------------------------------------------------------------------------------------------------


@every_planner
@pytest.mark.parametrize("shape", [(4, 2), (3, 5, 2), (2, 4, 2), (3, 4, 1)])
def test_warm_starts_of_another_shape_are_refused(planner: Planner, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"warm start must have shape \(3, 4, 2\)"):
        planner.plan(oracle_problem(), th.zeros(shape), generator=generator())


def test_elites_and_proposals_of_another_shape_are_refused() -> None:
    warm, known = th.zeros(3, 4, 2), th.ones(3, dtype=th.bool)
    for name in ("elites", "proposals"):
        start = WarmStart(warm, known)._replace(**{name: th.zeros(3, 2, 5, 2)})
        with pytest.raises(ValueError, match=f"{name} of the warm start"):
            PLANNERS["CEM"].plan(oracle_problem(), start, generator=generator())


@every_planner
def test_rows_without_a_warm_start_plan_as_if_nobody_had_one(planner: Planner) -> None:
    fresh = planner.plan(oracle_problem(), generator=generator(5))
    old = WarmStart(th.full((3, 4, 2), 0.7), th.tensor([True, False, True]), th.full((3, 2, 4, 2), -0.6), None)
    plan = planner.plan(oracle_problem(), old, generator=generator(5))
    assert plan.candidates[1].equal(fresh.candidates[1])
    assert plan.actions[1].equal(fresh.actions[1])
    assert plan.report.warm_start_value.isnan().tolist() == [False, True, False]


@every_planner
def test_warm_start_elites_and_proposals_are_looked_at_first_inside_the_bounds(planner: Planner) -> None:
    problem = RecordingProblem.of(oracle_problem())
    warm, elites, proposals = (th.full((3, m, 4, 2), value) for m, value in ((1, 0.1), (1, 0.2), (1, 3.0)))
    proposals[1, 0, 2, 0] = math.nan
    start = WarmStart(warm[:, 0], th.ones(3, dtype=th.bool), elites, proposals)
    planner.plan(problem, start, generator=generator())
    first = problem.candidates[0]
    assert first[:, 0].equal(warm[:, 0])
    assert first[:, 1].equal(elites[:, 0])
    assert first[[0, 2], 2].equal(th.ones(2, 4, 2)), "clamped"
    assert first.isfinite().all(), "a proposal with NaN gives its place to a draw"


def test_a_warm_start_that_is_not_finite_is_unknown() -> None:
    warm = th.zeros(3, 4, 2)
    warm[1, 0, 0] = math.nan
    for planner in PLANNERS.values():
        plan = planner.plan(oracle_problem(), warm, generator=generator())
        assert plan.report.warm_start_value.isnan().tolist() == [False, True, False]
        assert plan.actions.isfinite().all()


def test_float64_and_numpy_like_warm_starts_are_taken() -> None:
    warm = th.tensor(np.full((3, 4, 2), 0.5))
    plan = PLANNERS["CEM"].plan(oracle_problem(), warm, generator=generator())
    assert plan.actions.dtype == th.float32
