"""Tests of iLQR: known optima, bounds, nonlinear problems."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import ILQR, PlanningProblem, WarmStart
from mbrl_wrappers import FunctionModel
from tests.controllers.linear import START, linear_model, linear_problem
from tests.controllers.trajectory.smooth_tasks import (
    METHODS,
    OPTIMA,
    pendulum,
    problem_of,
    scalar_model,
    seeded,
    upright,
)

# --- linear-quadratic -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("horizon", [10, 30])
@pytest.mark.parametrize("bound", [np.inf, 20.0])
def test_a_linear_quadratic_problem_takes_at_most_two_iterations(horizon: int, bound: float, method: Any) -> None:
    problem = PlanningProblem(linear_model(bound), th.tensor(np.stack([START, -2 * START])), horizon)
    for warm in (None, th.randn(2, horizon, 1, generator=seeded()).clamp(-1, 1)):
        plan = ILQR(derivatives=method).plan(problem, warm, generator=seeded())
        assert float(-plan.value[0]) == pytest.approx(OPTIMA[horizon], abs=1e-6)
        exact = ILQR(iterations=50, tolerance=0.0).plan(problem, plan.actions, generator=seeded())
        th.testing.assert_close(plan.value, exact.value, rtol=1e-8, atol=0)
        assert plan.report.converged is not None
        assert plan.report.converged.all()
        assert plan.report.iterations <= 2
        if horizon == 30:
            scale = 1 if bound == np.inf else bound
            assert scale * float(plan.actions[0, 0, 0]) == pytest.approx(-2.56177, abs=1e-5)


def test_the_value_is_the_score_of_the_actions() -> None:
    for options in ({}, {"discount": 0.9}, {"terminal_value": lambda obs: -3 * obs[:, 0] ** 2}):
        problem = linear_problem(15, bound=1.0, **options)
        plan = ILQR().plan(problem, generator=seeded())
        th.testing.assert_close(plan.value, problem.score(plan.actions[:, None])[:, 0], rtol=1e-12, atol=0)
        th.testing.assert_close(plan.scores, problem.score(plan.candidates), rtol=1e-12, atol=0)
        assert plan.candidates.shape == (1, 10, 15, 1)


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_bounded_actions_are_optimal_in_the_box() -> None:
    problem = linear_problem(30, bound=1.0)
    plan = ILQR().plan(problem, generator=seeded())
    assert plan.actions.abs().max() <= 1
    assert float(plan.actions[0, 0, 0]) == -1.0
    assert plan.report.converged is not None
    assert plan.report.converged.all()
    # First-order conditions of the whole sequence, by the model's own gradient.
    actions = plan.actions.clone().requires_grad_()
    problem.score(actions[:, None]).sum().backward()
    gradient = actions.grad
    assert gradient is not None
    inside = plan.actions.abs() < 1
    assert inside.sum() > 20
    assert gradient[inside].abs().max() < 1e-6
    assert (gradient[~inside] * plan.actions[~inside] >= 0).all()


def test_clamping_stays_in_the_bounds_too() -> None:
    problem = linear_problem(30, bound=1.0)
    solved = ILQR().plan(problem, generator=seeded())
    clamped = ILQR(limits="clamp").plan(problem, generator=seeded())
    assert clamped.actions.abs().max() <= 1
    assert float(clamped.value) == pytest.approx(float(solved.value), rel=1e-6)
    assert clamped.report.converged is not None
    assert not clamped.report.converged.any()


def test_bounds_may_be_one_sided_or_without_width() -> None:
    def quadratic(x: Tensor, u: Tensor, following: Tensor) -> Tensor:
        return -following.square().sum(1) - 0.1 * u.square().sum(1)

    model = scalar_model(quadratic, size=2)
    edges = np.array([0.0, -np.inf], np.float32), np.array([0.0, 0.25], np.float32)
    limited = FunctionModel(model.observation_space, spaces.Box(*edges, dtype=np.float32), model._step_fn)
    plan = ILQR().plan(problem_of(limited, 4, [[1.0, -1.0], [1.0, 1.0]]), generator=seeded())
    assert not plan.actions[:, :, 0].any()
    assert float(plan.actions[0, 0, 1]) == 0.25
    assert float(plan.actions[1, 0, 1]) < -0.5
    assert plan.report.converged is not None
    assert plan.report.converged.all()
    plan = ILQR().plan(linear_problem(4, bound=0.0), generator=seeded())
    assert not plan.actions.any()
    assert plan.value.isfinite().all()


# --- nonlinear --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [None, th.zeros(1, 300, 1)])
def test_a_pendulum_swings_up_from_hanging_still(warm: Tensor | None) -> None:
    model = pendulum(20.0)
    problem = problem_of(model, 300, [[0.0, 0.0]], terminal_value=upright)
    plan = ILQR().plan(problem, warm, generator=seeded())
    state = model.reset(th.zeros(1, 2, dtype=th.float64), generator=seeded())
    for t in range(300):
        state, _ = model.step(state, plan.actions[:, t], generator=seeded())
    angle, rate = state.obs[0].tolist()
    assert abs(abs(angle) - math.pi) <= 0.1
    assert abs(rate) <= 0.1
    assert plan.actions.abs().max() <= 1
    assert plan.report.converged is not None
    assert plan.report.converged.all()


def test_a_weak_pendulum_stays_inside_its_bounds_and_says_when_it_has_not_converged() -> None:
    problem = problem_of(pendulum(1.0), 300, [[0.0, 0.0]], terminal_value=upright)
    rest = problem.score(th.zeros(1, 1, 300, 1))
    plan = ILQR(iterations=2).plan(problem, generator=seeded())
    assert plan.actions.abs().max() == 1
    assert float(plan.value) > float(rest)
    assert plan.report.converged is not None
    assert not plan.report.converged.any()
    assert plan.report.iterations <= 2


def test_the_plan_is_never_worse_than_the_warm_start_nor_than_other_sequences_given() -> None:
    problem = problem_of(pendulum(5.0), 40, [[2.0, 0.0], [0.5, -1.0]])
    draws = th.rand(2, 9, 40, 1, generator=seeded()) * 2 - 1
    scores = problem.score(draws.double())
    plan = ILQR(iterations=1).plan(problem, draws[:, 0], generator=seeded())
    assert (plan.value >= scores[:, 0]).all()
    th.testing.assert_close(plan.report.warm_start_value, scores[:, 0], rtol=1e-12, atol=0)
    warm = WarmStart(draws[:, 0], th.tensor([True, False]), draws[:, 1:5], draws[:, 5:])
    plan = ILQR(iterations=1).plan(problem, warm, generator=seeded())
    assert (plan.value[0] >= scores[0]).all()
    assert (plan.value[1] >= scores[1, 5:]).all()
    assert plan.report.warm_start_value.isnan().tolist() == [False, True]


def test_problems_of_a_batch_converge_on_their_own() -> None:
    model, starts = pendulum(5.0), [[3.0, 0.0], [2.0, 1.0], [0.5, 0.0]]
    plan = ILQR().plan(problem_of(model, 40, starts), generator=seeded())
    assert plan.report.converged is not None
    assert plan.report.converged.all()
    for row, start in enumerate(starts):
        alone = ILQR().plan(problem_of(model, 40, [start]), generator=seeded())
        th.testing.assert_close(plan.value[row], alone.value[0], rtol=1e-6, atol=0)


def test_finite_differences_find_the_same_optimum() -> None:
    problem = problem_of(pendulum(5.0), 40, [[2.0, 1.0]])
    by_graph, by_difference = (ILQR(derivatives=method).plan(problem, generator=seeded()) for method in METHODS)  # type: ignore[arg-type]
    th.testing.assert_close(by_graph.value, by_difference.value, rtol=1e-7, atol=0)


def test_float32_models_converge_to_their_own_precision() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = obs @ th.tensor([[1.0, 0.0], [0.1, 1.0]]) + action @ th.tensor([[0.005, 0.1]])
        return following, -obs.square().sum(1) - 0.1 * action.square().sum(1), th.zeros(len(obs), dtype=th.bool)

    unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-np.inf, np.inf, (1,), np.float32)
    for method in METHODS:
        problem = PlanningProblem(FunctionModel(*unbounded, step), th.tensor([[1.0, 0.0]]), 30)
        plan = ILQR(derivatives=method).plan(problem, generator=seeded())  # type: ignore[arg-type]
        assert plan.actions.dtype == th.float32
        assert float(-plan.value) == pytest.approx(OPTIMA[30], rel=1e-4)
        assert plan.report.converged is not None
        assert plan.report.converged.all()
