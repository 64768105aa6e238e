from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import ILQR, LQR, PlanningProblem
from controllers.trajectory.coordinates import Trajectory, VectorProblem, open_loop
from controllers.trajectory.derivatives import Expansion, choose_method, expand, nearest_positive
from controllers.trajectory.riccati import backward
from mbrl_wrappers.models import EnsembleDynamics, FunctionModel
from tests.controllers.linear import linear_problem
from tests.controllers.scripted import Members

SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float64)


def bent(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``x' = (sin x0 + u0 x1, x1 + u1^2)``, ``r = -(x0^2 + 3 x0 u0 + 5 u0^2 + u1^4)``; ends where ``x0' > 0.9``."""
    (x0, x1), (u0, u1) = obs.unbind(1), action.unbind(1)
    following = th.stack([th.sin(x0) + u0 * x1, x1 + u1 * u1], 1)
    return following, -(x0 * x0 + 3 * x0 * u0 + 5 * u0 * u0 + u1**4), following[:, 0] > 0.9


def bent_model(bound: float = 1.0) -> FunctionModel:
    return FunctionModel(SPACE, spaces.Box(-bound, bound, (2,), np.float32), bent)


def task_of(problem: PlanningProblem[Any]) -> VectorProblem:
    return VectorProblem(problem, ILQR(), th.Generator().manual_seed(0))


def expanded(problem: PlanningProblem[Any], actions: Tensor, method: Any) -> tuple[Trajectory, Expansion]:
    """Along ``actions (N, H, A)``."""
    task = task_of(problem)
    trajectory = open_loop(task, actions[:, None])
    return trajectory, expand(task, trajectory, method)


@pytest.mark.parametrize("method", ["finite", "autograd"])
def test_derivatives_are_those_of_the_formula(method: str) -> None:
    start = th.tensor([[0.3, -0.5], [-0.2, 0.7]], dtype=th.float64)
    actions = th.tensor([[[0.1, 0.4], [0.3, -0.2]], [[-0.6, 0.5], [0.2, 0.3]]], dtype=th.float64)
    trajectory, expansion = expanded(PlanningProblem(bent_model(), start, 2), actions, method)
    for t in range(2):
        for n in range(2):
            (x0, x1), (u0, u1) = trajectory.vectors[t, n].tolist(), actions[n, t].tolist()
            jacobian = [[math.cos(x0), u0, x1, 0], [0, 1, 0, 2 * u1]]
            gradient = [2 * x0 + 3 * u0, 0, 3 * x0 + 10 * u0, 4 * u1**3]
            hessian = th.zeros(4, 4, dtype=th.float64)
            hessian[0, 0], hessian[2, 2], hessian[0, 2], hessian[2, 0], hessian[3, 3] = 2, 10, 3, 3, 12 * u1 * u1
            th.testing.assert_close(expansion.jacobian[t, n], th.tensor(jacobian).double(), rtol=0, atol=1e-6)
            th.testing.assert_close(expansion.gradient[t, n], th.tensor(gradient).double(), rtol=0, atol=1e-6)
            th.testing.assert_close(expansion.hessian[t, n], hessian, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["finite", "autograd"])
def test_derivatives_at_a_bound_are_not_halved_by_the_clamp(method: str) -> None:
    start, actions = th.zeros(1, 2, dtype=th.float64) + 0.5, th.tensor([[[1.0, -1.0]]], dtype=th.float64)
    _, expansion = expanded(PlanningProblem(bent_model(0.3), start, 1), actions, method)
    # In model actions: u = 0.3 a.
    wanted = [[math.cos(0.5), 0.3, 0.5 * 0.3, 0], [0, 1, 0, 2 * -0.3 * 0.3]]
    th.testing.assert_close(expansion.jacobian[0, 0], th.tensor(wanted).double(), rtol=0, atol=1e-4)
    # The gradient is brought back to the bound itself.
    wanted = [1 + 3 * 0.3, 0, 0.3 * (1.5 + 3), 0.3 * 4 * -(0.3**3)]
    th.testing.assert_close(expansion.gradient[0, 0], th.tensor(wanted).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["finite", "autograd"])
def test_the_value_at_the_horizon_is_part_of_the_last_reward(method: str) -> None:
    start, actions = th.tensor([[0.3, -0.5]], dtype=th.float64), th.zeros(1, 2, 2, dtype=th.float64) + 0.1
    problem = PlanningProblem(bent_model(), start, 2, discount=0.5, terminal_value=lambda obs: -4 * obs[:, 1] ** 2)
    _, with_value = expanded(problem, actions, method)
    trajectory, without = expanded(PlanningProblem(bent_model(), start, 2), actions, method)
    assert (with_value.gradient[0] == without.gradient[0]).all()
    # minus 0.5 * -4 (x1 + u1^2)^2 differentiated by x1
    after = trajectory.vectors[1, 0, 1] + 0.01
    added = (with_value.gradient - without.gradient)[1, 0]
    th.testing.assert_close(added, th.stack([0 * after, 4 * after, 0 * after, 4 * after * 0.2]), rtol=0, atol=1e-6)


def test_nothing_counts_after_a_termination() -> None:
    start, actions = th.tensor([[0.5, 0.8]], dtype=th.float64), th.full((1, 4, 2), 0.6, dtype=th.float64)
    trajectory, expansion = expanded(PlanningProblem(bent_model(), start, 4), actions, "autograd")
    assert trajectory.counts[:, 0].tolist() == [True, False, False, False]  # 0.48 + 0.6 * 0.8 > 0.9
    for part in expansion:
        assert part[0].any()
        assert not part[1:].any()


def test_an_infinite_derivative_becomes_a_finite_difference() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # The root has an infinite derivative at zero.
        return obs + action, -obs.abs().sqrt().sum(1) - action.square().sum(1), th.zeros(len(obs), dtype=th.bool)

    model = FunctionModel(SPACE, spaces.Box(-1, 1, (2,), np.float32), step)
    problem = PlanningProblem(model, th.zeros(1, 2, dtype=th.float64), 2)
    _, expansion = expanded(problem, th.full((1, 2, 2), 0.5, dtype=th.float64), "autograd")
    assert all(part.isfinite().all() for part in expansion)
    assert expansion.known.all()
    th.testing.assert_close(expansion.jacobian[0, 0], th.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]).double())
    assert expansion.jacobian[1].any()


def test_differences_are_one_call_of_the_model_and_repeat() -> None:
    rows: list[int] = []

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows.append(len(obs))
        return bent(obs, action)

    model = FunctionModel(SPACE, spaces.Box(-1, 1, (2,), np.float32), step)
    task = task_of(PlanningProblem(model, th.zeros(3, 2, dtype=th.float64), 5))
    trajectory = open_loop(task, th.zeros(3, 1, 5, 2, dtype=th.float64))
    rows.clear()
    expand(task, trajectory, "finite")
    assert rows == [(4 * 4 + 3 * 4 + 1) * 3 * 5]


def test_the_nearest_positive_matrix_loses_its_negative_eigenvalues_only() -> None:
    turn = th.linalg.qr(th.randn(3, 3, generator=th.Generator().manual_seed(0), dtype=th.float64))[0]
    indefinite = turn @ th.diag(th.tensor([2.0, -1.0, 0.5], dtype=th.float64)) @ turn.T
    wanted = turn @ th.diag(th.tensor([2.0, 0.0, 0.5], dtype=th.float64)) @ turn.T
    fine = th.diag(th.tensor([1.0, 2.0, 0.0], dtype=th.float64))
    projected = nearest_positive(th.stack([indefinite, fine]))
    th.testing.assert_close(projected[0], wanted)
    assert (projected[1] == fine).all()


def method_of(model: Any, derivatives: Any = "auto") -> str:
    return choose_method(task_of(PlanningProblem(model, th.zeros(2, 2), 3)), derivatives)


def test_auto_differentiates_where_gradients_flow() -> None:
    space = spaces.Box(-1, 1, (2,), np.float32)

    def through_numpy(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return bent(th.from_numpy(obs.numpy()), action)

    def cut(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return bent(obs.detach(), action.detach())

    def same_reward(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return bent(obs, action)[0], th.ones(len(obs)), th.zeros(len(obs), dtype=th.bool)

    assert method_of(bent_model()) == "autograd"
    assert method_of(bent_model(), "finite") == "finite"
    for step in (through_numpy, cut, same_reward):
        model = FunctionModel(SPACE, space, step)
        assert method_of(model) == "finite"
        with pytest.raises(TypeError, match="No gradient flows through FunctionModel .*use derivatives='finite'"):
            method_of(model, "autograd")


def test_precision_is_float64_where_the_model_takes_it() -> None:
    weights = th.eye(2)  # float32

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs @ weights, obs.sum(1), th.zeros(len(obs), dtype=th.bool)

    space = spaces.Box(-1, 1, (2,), np.float32)
    assert task_of(PlanningProblem(bent_model(), th.zeros(1, 2), 3)).dtype == th.float64
    assert task_of(PlanningProblem(FunctionModel(SPACE, space, step), th.zeros(1, 2), 3)).dtype == th.float32
    float32_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    ensemble = EnsembleDynamics(float32_space, space, num_members=2, num_elites=2, hidden=(8,), device="cpu")
    assert task_of(PlanningProblem(ensemble, th.zeros(1, 2), 3)).precision == th.float32


@pytest.mark.parametrize("method", ["finite", "autograd"])
def test_an_ensemble_has_derivatives(method: str) -> None:
    space = spaces.Box(-1, 1, (2,), np.float32)
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (2,), np.float32),
        space,
        num_members=2,
        num_elites=2,
        hidden=(16,),
        propagation="mean",
        device="cpu",
    )
    problem = PlanningProblem(model, th.tensor([[0.3, -0.2]]), 3)
    _, expansion = expanded(problem, th.full((1, 3, 2), 0.2), method)
    _, reference = expanded(problem, th.full((1, 3, 2), 0.2), "autograd")
    th.testing.assert_close(expansion.jacobian, reference.jacobian, rtol=0, atol=2e-3)
    th.testing.assert_close(expansion.gradient, reference.gradient, rtol=0, atol=2e-3)


def test_a_model_without_coordinates_says_what_to_do() -> None:
    model: Any = Members(0.5)
    with pytest.raises(TypeError, match="Members offers none: give it state_vector"):
        task_of(PlanningProblem(model, th.zeros(1, 1), 3))


# --- derivatives that are not finite ----------------------------------------------------------------------------------

KINKS = {
    "norm": lambda v: v.norm(dim=1),
    "root of a square": lambda v: v.square().sum(1).sqrt(),
    "power": lambda v: v.abs().pow(1.5).sum(1),
}


@pytest.mark.parametrize("kink", KINKS.values(), ids=KINKS.keys())
@pytest.mark.parametrize("of", ["state", "action"])
def test_finite_differences_replace_automatic_derivatives_where_these_are_not_finite(kink: Any, of: str) -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cost = kink(obs if of == "state" else action)
        return obs + action, -obs.square().sum(1) - cost, obs[:, 0] > 99

    model = FunctionModel(SPACE, spaces.Box(-1, 1, (2,), np.float32), step)
    start = th.tensor([[0.0, 0.0], [0.6, -0.3]], dtype=th.float64)
    actions = th.tensor([[[0.0, 0.0], [0.2, 0.1]], [[0.3, 0.2], [0.0, 0.0]]], dtype=th.float64)
    problem = PlanningProblem(model, start, 2)
    _, mixed = expanded(problem, actions, "autograd")
    _, differences = expanded(problem, actions, "finite")
    assert mixed.known.all()
    for automatic, finite in zip(mixed[:3], differences[:3], strict=True):
        th.testing.assert_close(automatic, finite, rtol=1e-3, atol=2e-4)
    assert (mixed.jacobian == th.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]])).all(3).all(2).any(), "the others stay exact"


@pytest.mark.parametrize("planner", [ILQR(), LQR(about="start")], ids=["ILQR", "LQR"])
@pytest.mark.parametrize("kink", KINKS.values(), ids=KINKS.keys())
@pytest.mark.parametrize("derivatives", ["auto", "finite", "autograd"])
def test_a_kink_at_rest_does_not_make_a_plan_do_nothing(planner: Any, kink: Any, derivatives: Any) -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = obs + 0.1 * action
        return following, -(following[:, 0] - 1).square() - 0.01 * kink(action), obs[:, 0] > 99

    space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    model = FunctionModel(space, spaces.Box(-1, 1, (1,), np.float32), step)
    problem = PlanningProblem(model, th.zeros(1, 1), 20)
    plan = replace(planner, derivatives=derivatives).plan(problem, generator=th.Generator().manual_seed(0))
    assert problem.score(th.zeros(1, 1, 20, 1)).item() == pytest.approx(-20)
    if isinstance(planner, ILQR):
        assert plan.value.item() == pytest.approx(-2.95, abs=0.01)  # 0.1 steps to the goal, and there it stays
    else:
        assert plan.value.item() > -20


def test_where_no_derivative_is_finite_nothing_is_said_to_have_converged() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reward = th.where(action[:, 0] == 0, 0 * action[:, 0], th.nan)  # alone finite where it is expanded
        return obs + action, reward, obs[:, 0] > 99

    model = FunctionModel(SPACE, spaces.Box(-1, 1, (2,), np.float32), step)
    for method in ("finite", "autograd"):
        problem = PlanningProblem(model, th.zeros(1, 2), 2)
        plan = ILQR(iterations=5, derivatives=method).plan(problem, generator=th.Generator().manual_seed(0))  # type: ignore[arg-type]
        assert plan.report.converged is not None
        if method == "finite":
            assert plan.report.converged.tolist() == [False]


def test_numbers_after_the_end_change_no_score() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = obs + action
        return th.where(obs > 0.9, th.nan, following), following[:, 0], following[:, 0] > 0.9

    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    model = FunctionModel(space, spaces.Box(-1, 1, (1,), np.float32), step)
    task = task_of(PlanningProblem(model, th.zeros(2, 1), 3, terminal_reward=5))
    actions = th.tensor([[1.0, 0.5, 0.5], [0.5, 0.25, 0.0]], dtype=th.float64)[:, None, :, None]
    trajectory = open_loop(task, actions)
    assert trajectory.scores.tolist() == [1 + 5, 0.5 + 0.75 + 0.75]
    assert trajectory.counts.t().tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.5])
def test_the_promised_improvement_is_the_real_one_for_linear_quadratic_problems(discount: float) -> None:
    problem = linear_problem(6, discount=discount)
    task = task_of(problem)
    trajectory = open_loop(task, th.full((1, 1, 6, 1), 0.3, dtype=th.float64))
    gains = backward(expand(task, trajectory, "autograd"), discount, th.zeros(1))
    best = ILQR().plan(problem, generator=th.Generator().manual_seed(0))
    gained = float(best.value) - float(trajectory.scores)
    assert gained > 0.03
    assert gains.improvement.item() == pytest.approx(gained, rel=1e-8)
