"""Tests of path integral control: its weights, its closed form, its noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import MPPI, PlanningProblem
from controllers.shooting.mppi import path_weights, score_scale
from controllers.shooting.noise import knot_matrix
from mbrl_wrappers.models import FunctionModel
from tests.controllers.linear import START, A, B, linear_problem
from tests.controllers.recording import RecordingProblem
from tests.controllers.scripted import SCALAR


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def test_weights_are_a_softmax_of_what_is_finite() -> None:
    scores = th.tensor([[1.0, 3.0, -math.inf, 2.0], [5.0, 5.0, 5.0, 5.0], [-math.inf] * 4])
    e = math.exp
    total = e(0.5) + e(1.5) + e(1.0)
    wanted = th.tensor([[e(0.5) / total, e(1.5) / total, 0, e(1.0) / total], [0.25] * 4, [0.0] * 4])
    th.testing.assert_close(path_weights(scores, 2.0, normalise=False), wanted)
    # The three finite scores have a deviation of sqrt(2 / 3).
    scaled = th.softmax(th.tensor([1.0, 3.0, 2.0]) / math.sqrt(2 / 3) / 2.0, 0)
    got = path_weights(scores, 2.0, normalise=True)
    th.testing.assert_close(got[0, [0, 1, 3]], scaled)
    th.testing.assert_close(got[1:], wanted[1:])


def test_normalised_weights_do_not_depend_on_the_units_of_rewards() -> None:
    scores = th.randn(2, 50, generator=generator())
    wanted = path_weights(scores, 0.3, normalise=True)
    th.testing.assert_close(path_weights(1000 * scores - 7, 0.3, normalise=True), wanted, rtol=1e-3, atol=1e-6)
    assert path_weights(1e6 * scores, 1e-3, normalise=False).isfinite().all()


@pytest.mark.parametrize("penalty", [100.0, 1e4, 1e8])
@pytest.mark.parametrize("hit", [1, 20, 44])
def test_the_weights_do_not_depend_on_what_a_large_penalty_is(hit: int, penalty: float) -> None:
    scores = th.linspace(0, -1, 50)[None].repeat(2, 1)
    scores[0, -hit:] -= penalty
    scores[1, -hit:] = -math.inf
    punished, without = path_weights(scores, 0.1, normalise=True)
    th.testing.assert_close(punished, without)
    assert without.count_nonzero() == 50 - hit


def test_the_scale_is_the_deviation_of_scores_within_ten_times_the_best_tenth() -> None:
    # Ten are worse than the best, so the first of them is the edge: ten edges are on the limit, and count.
    behind = th.tensor([[0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 9.0, 10.0, 10.5], [0.0] * 10 + [th.inf]])
    scale = score_scale(behind, th.zeros(2, 1))
    kept = np.array([0.0, 1, 1, 2, 2, 3, 4, 5, 9, 10])
    np.testing.assert_allclose(scale.numpy(), [[kept.std()], [1.0]], rtol=1e-6)


def test_candidates_that_tie_with_the_best_do_not_set_the_scale() -> None:
    # A sparse reward: most candidates find it, to a rounding error of float32, and share the weight evenly.
    found = 0.001 * (1 + 1e-7 * (th.arange(30) % 2))
    weights = path_weights(th.cat([found, th.zeros(10)])[None], 0.1, normalise=True)[0]
    np.testing.assert_allclose(weights[:30].numpy(), 1 / 30, rtol=1e-3)
    assert weights[30:].max() < 1e-8


def corridor(penalty: float) -> PlanningProblem[Any]:
    """From 1 to the left: the reward is ``-x^2`` of the successor, and beyond 1.12 ``penalty`` less."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = obs + 0.1 * action
        x = following[:, 0]
        return following, -x.square() - penalty * (x > 1.12), x > 99

    model = FunctionModel(SCALAR, spaces.Box(-1, 1, (1,), np.float32), step)
    return PlanningProblem(model, th.ones(1, 1), 5)


@pytest.mark.parametrize("penalty", [0.0, 100.0, 1e4, 1e20])
def test_an_obstacle_beside_the_way_does_not_stop_it(penalty: float) -> None:
    problem = corridor(penalty)
    first = [MPPI(population=256).plan(problem, generator=generator(seed)).actions[0, 0, 0].item() for seed in range(8)]
    assert np.mean(first) == pytest.approx(-0.94, abs=0.03)


def test_in_an_exact_model_the_mean_stays_while_it_lies_between_warm_start_and_best() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs, -action.square().sum(1), obs[:, 0] > 9

    problem = PlanningProblem(FunctionModel(SCALAR, SCALAR, step), th.zeros(1, 1), 1)
    planner = MPPI(population=64, iterations=1, temperature=1e9)  # the mean of all candidates

    def planned(start: float) -> Any:
        return planner.plan(problem, th.full((1, 1, 1), start), generator=generator())

    between, behind = planned(-1.0), planned(0.01)
    mean = between.candidates.mean(1)
    assert between.report.warm_start_value < between.value < between.report.best_value
    th.testing.assert_close(between.actions, mean)
    # From near the optimum the mean of noisy candidates is worse than the start, so the best candidate replaces it.
    assert -behind.candidates.mean().square() < behind.report.warm_start_value
    assert behind.value == behind.report.best_value
    assert behind.actions.square().item() <= 1e-4


@pytest.mark.parametrize("normalise", [True, False])
def test_weights_of_large_scores_keep_their_digits(normalise: bool) -> None:
    scores = 1e6 + th.randn(2, 30, generator=generator())
    wanted = path_weights(scores.double(), 0.1, normalise=normalise)
    th.testing.assert_close(path_weights(scores, 0.1, normalise=normalise).double(), wanted, rtol=1e-4, atol=1e-7)


def closed_form(horizon: int, temperature: float, std: float) -> float:
    """First control of the minimum of ``sum x_t'x_t + temperature / (2 std^2) |U|^2`` over t = 1 ... H."""
    powers = [np.linalg.matrix_power(A, k) for k in range(horizon + 1)]
    free = np.concatenate([powers[t] @ START for t in range(1, horizon + 1)])
    gain = np.zeros((2 * horizon, horizon))
    for t in range(1, horizon + 1):
        for s in range(t):
            gain[2 * t - 2 : 2 * t, s] = (powers[t - 1 - s] @ B)[:, 0]
    penalty = temperature / (2 * std**2) * np.eye(horizon)
    return float(np.linalg.solve(gain.T @ gain + penalty, -gain.T @ free)[0])


def quadratic_problem() -> PlanningProblem[Any]:
    """Reward ``-x'x`` of the successor, without bounds and without cost of control."""
    free = linear_problem(10)

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, _, ended = free.model._step_fn(obs, action)
        return following, -following.square().sum(1), ended

    model = FunctionModel(free.model.observation_space, free.model.action_space, step)
    return PlanningProblem(model, free.start, 10)


@pytest.mark.parametrize(("temperature", "std"), [(1.0, 1.0), (2.0, 0.5)])
def test_one_iteration_tends_to_its_closed_form(temperature: float, std: float) -> None:
    if (temperature, std) == (1.0, 1.0):
        assert closed_form(10, 1.0, 1.0) == pytest.approx(-0.61143, abs=1e-5)
    planner = MPPI(
        population=100_000, iterations=1, temperature=temperature, noise_std=std, normalise=False, returns="mean"
    )
    plan = planner.plan(quadratic_problem(), generator=generator())
    # Weighted by exp(-S) the controls have a deviation below std, over the effective sample size.
    error = 4 * std / math.sqrt(plan.report.effective_sample_size.item())
    assert plan.next_start.actions[0, 0, 0].item() == pytest.approx(closed_form(10, temperature, std), abs=error)
    assert error < 0.03


def test_the_mean_and_the_sample_size_are_those_of_the_weights() -> None:
    problem = RecordingProblem.of(linear_problem(4))
    plan = MPPI(population=30, iterations=1, temperature=0.5).plan(problem, generator=generator())
    scores = problem.scores[0][0].double()
    behind = (scores.max() - scores).sort().values
    near = behind[behind <= 10 * behind[3]]  # 29 are worse than the best, the third of them closes the best tenth
    assert len(near) == 22
    weights = th.softmax((scores - scores.max()) / near.std(correction=0) / 0.5, 0)
    mean = (weights[:, None, None] * problem.candidates[0][0]).sum(0)
    th.testing.assert_close(plan.actions[0].double(), mean, atol=1e-5, rtol=1e-4)
    assert plan.report.effective_sample_size.item() == pytest.approx(1 / weights.square().sum().item(), rel=1e-4)


def test_a_low_temperature_takes_the_best_and_a_high_one_the_average() -> None:
    problem = RecordingProblem.of(linear_problem(4))
    cold = MPPI(population=30, iterations=1, temperature=1e-6).plan(problem, generator=generator())
    best = problem.candidates[0][0, problem.scores[0][0].argmax()]
    th.testing.assert_close(cold.next_start.actions[0], best)
    assert cold.report.effective_sample_size.item() == pytest.approx(1)
    hot = MPPI(population=30, iterations=1, temperature=1e9).plan(problem, generator=generator())
    th.testing.assert_close(hot.next_start.actions[0], problem.candidates[0][0].mean(0), atol=1e-5, rtol=1e-4)
    assert hot.report.effective_sample_size.item() == pytest.approx(30, rel=1e-3)


def test_noise_between_knots_is_a_spline() -> None:
    problem = RecordingProblem.of(linear_problem(12))
    MPPI(population=500, iterations=1, knots=4, noise_std=0.2).plan(problem, generator=generator())
    noise = problem.candidates[0][0, 1:, :, 0].numpy()
    matrix = knot_matrix(12, 4).numpy()
    knots = np.linalg.lstsq(matrix, noise.T, rcond=None)[0]
    np.testing.assert_allclose(matrix @ knots, noise.T, atol=1e-5)
    np.testing.assert_allclose(knots.std(1), 0.2, rtol=0.15)


def test_the_noise_has_the_deviation_that_was_set_in_every_iteration() -> None:
    problem = RecordingProblem.of(linear_problem(6))
    MPPI(population=4000, iterations=3, noise_std=0.7, noise_exponent=1.0).plan(problem, generator=generator())
    for batch in problem.candidates[:3]:
        np.testing.assert_allclose(batch[0, 1:].numpy().std(0), 0.7, rtol=0.05)
        np.testing.assert_allclose(batch[0, 1:].mean(0), batch[0, 0], atol=0.05)  # the nominal one comes first


def test_without_a_finite_candidate_the_sample_size_is_zero() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs, obs[:, 0] * th.nan, obs[:, 0] > 1

    problem = PlanningProblem(FunctionModel(SCALAR, SCALAR, step), th.zeros(2, 1), 3)
    warm = th.ones(2, 3, 1)
    plan = MPPI(population=5).plan(problem, warm, generator=generator())
    assert plan.actions.equal(warm)
    assert plan.report.effective_sample_size.tolist() == [0, 0]


@pytest.mark.parametrize("numbers", [{"temperature": 0.0}, {"noise_std": -1.0}, {"knots": 0}, {"noise_exponent": -1.0}])
def test_impossible_numbers_are_refused(numbers: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        MPPI(**numbers)
