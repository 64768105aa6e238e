"""Tests of gradient shooting: optima with and without bounds, and gradients that fail."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy.optimize import minimize
from torch import Tensor

from controllers import GradientShooting, PlanningProblem
from mbrl_wrappers.models import FunctionModel
from tests.controllers.linear import cost_of, linear_model, linear_problem, optimal_actions, optimal_cost
from tests.controllers.recording import RecordingProblem
from tests.controllers.scripted import SCALAR, Members, Particle, SequenceMembers, SharedMembers
from tests.oracle import DiscreteOracleEnv, oracle_model

UNIT = spaces.Box(-1, 1, (1,), np.float32)


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def test_the_optimum_of_a_quadratic_is_reached() -> None:
    plan = GradientShooting(population=2, iterations=100, step_size=0.3).plan(linear_problem(10), generator=generator())
    assert -plan.value.item() == pytest.approx(optimal_cost(10), rel=1e-5)
    np.testing.assert_allclose(plan.actions[0], optimal_actions(10), atol=5e-3)


def test_double_precision_is_a_choice() -> None:
    planner = GradientShooting(population=1, iterations=200, step_size=0.2, double=True)
    problem = linear_problem(6)
    plan = planner.plan(problem, generator=generator())
    assert plan.value.dtype == th.float64
    assert -plan.value.item() == pytest.approx(optimal_cost(6), rel=1e-8)
    assert plan.actions.dtype == th.float32


def test_bounds_are_kept_and_used() -> None:
    def cost(flat: Any) -> float:
        return cost_of(flat[:, None])

    bounded = minimize(cost, np.zeros(8), bounds=[(-1, 1)] * 8, method="L-BFGS-B", tol=1e-12)
    planner = GradientShooting(population=2, iterations=100, step_size=0.2)
    plan = planner.plan(linear_problem(8, bound=1.0), generator=generator())
    assert -plan.value.item() == pytest.approx(bounded.fun, rel=1e-5)
    np.testing.assert_allclose(plan.actions[0, :, 0], bounded.x, atol=0.01)
    assert plan.actions.abs().max() <= 1
    assert (plan.actions == -1).any(), "the optimum lies on a bound"


def test_several_starts_find_the_better_of_two_hills() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = action[:, 0]
        reward = th.exp(-50 * (u + 0.2).square()) + 2 * th.exp(-50 * (u - 0.7).square())
        return obs, reward, th.zeros(len(obs), dtype=th.bool)

    problem = PlanningProblem(FunctionModel(SCALAR, UNIT, step), th.zeros(1, 1), 1)
    one = GradientShooting(population=1, iterations=60).plan(problem, generator=generator())
    assert one.actions.item() == pytest.approx(-0.2, abs=0.01)
    many = GradientShooting(population=16, iterations=60).plan(problem, generator=generator())
    assert many.actions.item() == pytest.approx(0.7, abs=0.01)
    assert many.value.item() == pytest.approx(2, abs=1e-3)
    assert many.report.model_calls == 61 * 16


def test_gradients_that_are_not_finite_spoil_nothing() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # NaN below -0.5, and an infinite slope at 0, where the warm start is.
        u = action[:, 0]
        reward = -(u - 0.4).square() - 1e-3 * u.abs().sqrt() + 0 * (u + 0.5).sqrt()
        return obs, reward, th.zeros(len(obs), dtype=th.bool)

    problem = PlanningProblem(FunctionModel(SCALAR, UNIT, step), th.zeros(1, 1), 1)
    plan = GradientShooting(population=12, iterations=60).plan(problem, generator=generator())
    assert plan.actions.item() == pytest.approx(0.4, abs=0.01)
    assert plan.candidates.isfinite().all()
    assert plan.report.num_invalid > 0
    assert GradientShooting(population=1, iterations=3).plan(problem, generator=generator()).actions.item() == 0


def test_one_cliff_does_not_stop_the_climb() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = action[:, 0]
        return obs, -u.square() - 1e6 * (u - 0.9).clamp(min=0), th.zeros(len(obs), dtype=th.bool)

    problem = PlanningProblem(FunctionModel(SCALAR, UNIT, step), th.zeros(1, 1), 1)
    warm = th.full((1, 1, 1), 0.93)
    ends = [
        GradientShooting(population=1, iterations=60, max_grad_norm=norm).plan(problem, warm, generator=generator())
        for norm in (10.0, 1e9)
    ]
    # Unclipped, the cliff stays in Adam's second moment, and later steps are next to nothing.
    assert abs(ends[0].actions.item()) < 0.2
    assert ends[1].actions.item() > 0.4


def test_draws_are_the_same_in_all_iterations() -> None:
    for model in (Members(0.9, noise=1.0), SharedMembers(0.9, noise=1.0)):
        problem = RecordingProblem.of(PlanningProblem(model, th.zeros(1, 1), 3, particles=2))
        GradientShooting(population=3, iterations=3, step_size=0.0).plan(problem, generator=generator())
        assert all(scores.equal(problem.scores[0]) for scores in problem.scores)


def test_rewards_that_no_action_reaches_in_time_are_no_error() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + action, -obs[:, 0].square(), th.zeros(len(obs), dtype=th.bool)

    for horizon in (1, 2):
        problem = PlanningProblem(FunctionModel(SCALAR, UNIT, step), th.ones(1, 1), horizon)
        warm = th.full((1, horizon, 1), 0.25)
        plan = GradientShooting(iterations=80, step_size=0.1).plan(problem, warm, generator=generator())
        if horizon == 1:
            assert plan.actions.equal(warm)
        else:
            assert plan.actions[0, 0].item() == pytest.approx(-1, abs=1e-3)


class _Detached(Members):
    def step(self, state: Particle, action: Tensor, **rest: Any) -> Any:
        return super().step(state, action.detach(), **rest)


def test_models_without_gradients_and_discrete_actions_are_refused() -> None:
    planner = GradientShooting(population=2, iterations=1)
    with pytest.raises(TypeError, match="No gradient flows through _Detached"):
        planner.plan(PlanningProblem(_Detached(1.0), th.zeros(1, 1), 2), generator=generator())
    discrete = PlanningProblem(oracle_model(DiscreteOracleEnv()), th.zeros(1, 3), 2)
    with pytest.raises(TypeError, match="CEM, RandomShooting"):
        planner.plan(discrete, generator=generator())
    planner.plan(PlanningProblem(SequenceMembers(1.0), th.zeros(1, 1), 2), generator=generator())


def test_a_plan_records_no_graph_and_leaves_the_mode_as_it_was() -> None:
    with th.no_grad():
        plan = GradientShooting(population=2, iterations=2).plan(linear_problem(3), generator=generator())
        assert not th.is_grad_enabled()
    tensors = (plan.actions, plan.value, plan.candidates, plan.scores, plan.report.best_value)
    assert not any(tensor.requires_grad for tensor in tensors)
    assert not linear_model().reset(th.zeros(1, 2), generator=generator()).obs.requires_grad


@pytest.mark.parametrize("numbers", [{"population": 0}, {"iterations": 0}, {"step_size": math.inf}, {"init_std": -1.0}])
def test_impossible_numbers_are_refused(numbers: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        GradientShooting(**numbers)
