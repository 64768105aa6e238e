from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from controllers import LQR, PlanningProblem
from controllers.trajectory.lqr import infinite_horizon_cost, infinite_horizon_gain
from mbrl_wrappers.models import FunctionModel
from tests.controllers.linear import START, A, B, R, linear_problem
from tests.oracle import DiscreteOracleEnv, oracle_model

OPTIMA = {10: 9.077323, 30: 13.234546}
METHODS = ["autograd", "finite"]


def seeded() -> th.Generator:
    return th.Generator().manual_seed(0)


def dense_optimum(
    a: NDArray[Any],
    b: NDArray[Any],
    q: NDArray[Any],
    r: NDArray[Any],
    start: NDArray[Any],
    horizon: int,
    *,
    discount: float = 1.0,
    last: NDArray[Any] | None = None,
    shift: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], float]:
    """Actions ``(H, A)`` and cost by one large least-squares problem: no recursion, no value function.

    Dynamics ``x' = A x + B u + shift``, cost ``sum_t discount^t (x'Qx + u'Ru) + discount^H x_H' last x_H``.
    """
    size, width = b.shape
    steps = horizon * width
    effect, drift = np.zeros((size, steps)), np.asarray(start, float)
    hessian, slope, constant = np.zeros((steps, steps)), np.zeros(steps), 0.0
    for t in range(horizon + 1):
        weight = discount**t * (q if t < horizon else (np.zeros_like(q) if last is None else last))
        hessian += effect.T @ weight @ effect
        slope += effect.T @ weight @ drift
        constant += drift @ weight @ drift
        if t < horizon:
            here = slice(t * width, (t + 1) * width)
            hessian[here, here] += discount**t * r
            effect, drift = a @ effect, a @ drift + (0 if shift is None else shift)
            effect[:, here] += b
    u = np.linalg.solve(hessian, -slope)
    return u.reshape(horizon, width), float(u @ hessian @ u + 2 * slope @ u + constant)


def quadratic_model(
    a: NDArray[Any], b: NDArray[Any], q: NDArray[Any], r: NDArray[Any], shift: NDArray[Any] | None = None
) -> FunctionModel:
    ta, tb, tq, tr = (th.tensor(part, dtype=th.float64) for part in (a, b, q, r))
    extra = th.zeros(len(a), dtype=th.float64) if shift is None else th.tensor(shift)

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward = -((obs @ tq) * obs).sum(1) - ((action @ tr) * action).sum(1)
        return obs @ ta.T + action @ tb.T + extra, reward, th.zeros(len(obs), dtype=th.bool)

    obs_space = spaces.Box(-np.inf, np.inf, (len(a),), np.float64)
    return FunctionModel(obs_space, spaces.Box(-np.inf, np.inf, (b.shape[1],), np.float32), step)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("horizon", [10, 30])
@pytest.mark.parametrize("about", ["zero", "start", (0.3, -2.0)])
def test_the_double_integrator_is_solved_exactly(horizon: int, method: Any, about: Any) -> None:
    problem = linear_problem(horizon)
    plan = LQR(about, method).plan(problem, generator=seeded())
    assert float(-plan.value) == pytest.approx(OPTIMA[horizon], abs=1e-6)
    actions, cost = dense_optimum(A, B, np.eye(2), np.array([[R]]), START, horizon)
    assert float(-plan.value) == pytest.approx(cost, rel=1e-10)
    np.testing.assert_allclose(plan.actions[0], actions, atol=1e-6)
    if horizon == 30:
        assert float(plan.actions[0, 0, 0]) == pytest.approx(-2.56177, abs=1e-5)
    assert (problem.score(plan.actions[:, None])[:, 0] == plan.value).all()
    assert plan.report.converged is None


def test_problems_of_a_batch_do_not_mix() -> None:
    starts = th.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    one = linear_problem(20)
    plan = LQR().plan(PlanningProblem(one.model, starts, 20), generator=seeded())
    assert float(plan.value[1]) == pytest.approx(4 * float(plan.value[0]), rel=1e-12)
    for row in range(3):
        alone = LQR().plan(PlanningProblem(one.model, starts[row : row + 1], 20), generator=seeded())
        th.testing.assert_close(alone.actions[0], plan.actions[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("discount", [0.0, 0.8, 1.0])
def test_discount_terminal_value_and_a_shift_agree_with_least_squares(discount: float, method: Any) -> None:
    rng = np.random.default_rng(3)
    a, b, shift = rng.normal(size=(3, 3)) * 0.6, rng.normal(size=(3, 2)), rng.normal(size=3)
    q, r, last = np.diag([1.0, 0.0, 2.0]), np.diag([0.3, 0.7]), np.diag([5.0, 1.0, 0.0])
    start, weight = rng.normal(size=3), th.tensor(last)
    problem = PlanningProblem(
        quadratic_model(a, b, q, r, shift),
        th.tensor(start)[None],
        8,
        discount=discount,
        terminal_value=lambda obs: -((obs @ weight) * obs).sum(1),
    )
    plan = LQR(derivatives=method).plan(problem, generator=seeded())
    actions, cost = dense_optimum(a, b, q, r, start, 8 if discount else 1, discount=discount, last=last, shift=shift)
    assert float(-plan.value) == pytest.approx(cost, rel=1e-9)
    np.testing.assert_allclose(plan.actions[0, : len(actions)], actions, atol=1e-6)


def test_the_infinite_horizon_has_the_known_gain_and_cost() -> None:
    gain = infinite_horizon_gain(A, B, np.eye(2), np.array([[R]]))
    np.testing.assert_allclose(gain, [[2.58570, 3.44344]], atol=1e-5)
    cost = infinite_horizon_cost(A, B, np.eye(2), np.array([[R]]))
    assert START @ cost @ START == pytest.approx(13.31722, abs=1e-5)
    # As the value at the horizon, it makes a short plan as good as an endless one.
    weight = th.tensor(cost, dtype=th.float64)
    problem = linear_problem(3, terminal_value=lambda obs: -((obs.double() @ weight) * obs).sum(1))
    plan = LQR().plan(problem, generator=seeded())
    assert float(-plan.value) == pytest.approx(13.31722, abs=1e-5)
    assert float(plan.actions[0, 0, 0]) == pytest.approx(-2.58570, abs=1e-5)


def test_the_discounted_gain_is_the_limit_of_long_plans() -> None:
    gain = infinite_horizon_gain(A, B, np.eye(2), np.array([[R]]), discount=0.9)
    plan = LQR().plan(linear_problem(200, discount=0.9), generator=seeded())
    assert float(plan.actions[0, 0, 0]) == pytest.approx(-gain[0, 0], abs=1e-9)


def test_a_system_that_cannot_be_stabilised_has_no_gain() -> None:
    with pytest.raises(ValueError, match="no finite cost"):
        infinite_horizon_gain(np.diag([2.0, 0.5]), np.array([[0.0], [1.0]]), np.eye(2), np.eye(1))


def test_actions_are_clamped_and_scaled() -> None:
    plan = LQR().plan(linear_problem(30, bound=2.0), generator=seeded())
    free = LQR().plan(linear_problem(30), generator=seeded())
    assert float(plan.actions[0, 0, 0]) == -1.0  # in model actions: the bound
    assert plan.actions.abs().max() <= 1
    assert float(free.value) > float(plan.value) > float(free.value) - 1
    wide = LQR().plan(linear_problem(30, bound=10.0), generator=seeded())
    th.testing.assert_close(10 * wide.actions, free.actions, rtol=0, atol=1e-6)


def test_actions_without_effect_or_cost_stay_in_the_middle() -> None:
    model = quadratic_model(np.eye(2) * 0.9, np.array([[0.0, 1.0], [0.0, 0.0]]), np.eye(2), np.zeros((2, 2)))
    plan = LQR().plan(PlanningProblem(model, th.ones(1, 2).double(), 4), generator=seeded())
    assert not plan.actions[0, :, 0].any()
    th.testing.assert_close(plan.actions[0, :2, 1], th.tensor([-0.9, 0.0]).double(), rtol=0, atol=1e-5)


def test_the_warm_start_is_scored_and_saves_a_plan_that_fails() -> None:
    problem = linear_problem(5)
    warm = th.full((1, 5, 1), 0.5)
    plan = LQR().plan(problem, warm, generator=seeded())
    assert float(plan.report.warm_start_value) == pytest.approx(float(problem.score(warm[:, None])), rel=1e-6)
    assert LQR().plan(problem, generator=seeded()).report.warm_start_value.isnan().all()

    def breaks(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Fails for strong pushes to the left, which is what the regulator wants.
        reward = th.where(action[:, 0] < -0.2, th.nan, -obs.square().sum(1) - action.square().sum(1))
        return obs + action, reward, th.zeros(len(obs), dtype=th.bool)

    space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    broken = PlanningProblem(FunctionModel(space, spaces.Box(-1, 1, (1,), np.float32), breaks), th.ones(1, 1), 5)
    plan = LQR().plan(broken, warm, generator=seeded())
    assert plan.report.num_invalid == 1
    assert (plan.actions == warm).all()
    assert (plan.value == plan.report.warm_start_value).all()


def test_a_model_of_nan_leaves_the_middle() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs * th.nan, obs.sum(1), th.zeros(len(obs), dtype=th.bool)

    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    problem = PlanningProblem(FunctionModel(space, spaces.Box(-1, 1, (1,), np.float32), step), th.ones(2, 2), 4)
    plan = LQR().plan(problem, generator=seeded())
    assert not plan.actions.any()
    assert (plan.value == -th.inf).all()
    plan = LQR().plan(problem, th.full((2, 4, 1), 5.0), generator=seeded())
    assert (plan.actions == 1).all()  # the warm start, inside the bounds


@pytest.mark.parametrize("horizon", [1, 2])
def test_short_horizons_and_boxes_without_width(horizon: int) -> None:
    plan = LQR().plan(linear_problem(horizon), generator=seeded())
    _, cost = dense_optimum(A, B, np.eye(2), np.array([[R]]), START, horizon)
    assert float(-plan.value) == pytest.approx(cost, rel=1e-10)
    plan = LQR().plan(linear_problem(horizon, bound=0.0), generator=seeded())
    assert not plan.actions.any()
    assert plan.value.isfinite().all()


def test_wrong_arguments_say_so() -> None:
    with pytest.raises(ValueError, match="about must be"):
        LQR("here")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="derivatives must be one of"):
        LQR(derivatives="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="about has 3 coordinates and the state of this model has 2"):
        LQR((0.0, 0.0, 0.0)).plan(linear_problem(3), generator=seeded())
    discrete = oracle_model(DiscreteOracleEnv())
    with pytest.raises(TypeError, match="LQR plans continuous actions.*CEM"):
        LQR().plan(PlanningProblem(discrete, th.zeros(1, 3), 3), generator=seeded())
    with pytest.raises(dataclasses.FrozenInstanceError):
        LQR().about = "start"  # type: ignore[misc]
