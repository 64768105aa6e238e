"""Executing several actions of a plan: what it costs on the double integrator, exactly, with noise and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from controllers import GradientShooting, MPCPolicy, RandomShooting
from tests.controllers.linear import START, A, Array, B, LinearEnv, R, linear_model, optimal_cost, riccati


@pytest.mark.parametrize("execute", [1, 2, 3, 5, 6])
def test_without_noise_the_executed_cost_is_the_optimum_for_every_chunk_length(execute: int) -> None:
    steps = 6
    plans = 0

    class Counting:
        def plan(self, *arguments: Any, **rest: Any) -> Any:
            nonlocal plans
            plans += 1
            return GradientShooting(population=1, iterations=80, step_size=0.3).plan(*arguments, **rest)

    env, policy = LinearEnv(steps), MPCPolicy(linear_model(), Counting(), steps, execute=execute, episode_steps=steps)
    obs, _ = env.reset()
    state, cost, done = None, 0.0, False
    while not done:
        action, state = policy.predict(obs, state)
        obs, reward, _, done, _ = env.step(action)
        cost -= reward
    assert cost == pytest.approx(optimal_cost(steps), rel=1e-5)
    assert plans == -(-steps // execute)


NOISE = 0.01
"""Variance of each coordinate's noise in each step."""


def expected_cost(horizon: int, execute: int) -> float:
    """Of executing chunks of the optimum: feedback at the first step of a chunk, the noise-free plan within it.

    Noise adds ``W`` to the covariance in each step. Within a chunk the error ``e`` to the plan drifts freely; at its
    end the next plan begins from where the state is, whose cost-to-go is quadratic.
    """
    _, values = riccati(horizon)
    total = float(START @ values[0] @ START)
    for begin in range(0, horizon, execute):
        end = min(begin + execute, horizon)
        error = np.zeros((2, 2))
        for _ in range(begin, end):
            total += float(np.trace(error))
            error = A @ error @ A.T + NOISE * np.eye(2)
        total += float(np.trace(values[end] @ error))
    return total


def simulated_cost(horizon: int, execute: int, episodes: int, seed: int) -> tuple[float, float]:
    """Mean over simulated episodes of the same, by the gains, and its standard error."""
    gains, _ = riccati(horizon)
    rng = np.random.default_rng(seed)
    x: Array = np.tile(START, (episodes, 1))
    cost = np.zeros(episodes)
    for t in range(horizon):
        planned = x if t % execute == 0 else planned  # noqa: F821
        action = -planned @ gains[t].T
        cost += (x**2).sum(1) + R * action[:, 0] ** 2
        x = x @ A.T + action @ B.T + np.sqrt(NOISE) * rng.standard_normal((episodes, 2))
        planned = planned @ A.T + action @ B.T
    return float(cost.mean()), float(cost.std() / np.sqrt(episodes))


@pytest.mark.parametrize(("execute", "published"), [(30, 27.82155), (1, 17.25583), (5, 18.44866)])
def test_the_noisy_expectations_are_the_published_ones(execute: int, published: float) -> None:
    assert expected_cost(30, execute) == pytest.approx(published, abs=1e-5)
    mean, error = simulated_cost(30, execute, 40_000, seed=execute)
    assert mean == pytest.approx(published, abs=4 * error)
    assert error < 0.1


def test_new_information_helps_in_this_order() -> None:
    costs = [expected_cost(30, execute) for execute in (1, 2, 3, 5, 6, 10, 15, 30)]
    assert costs == sorted(costs)


class Exact:
    """The optimum of the deterministic problem from every start: a planner without error."""

    def plan(self, problem: Any, warm_start: Any = None, *, generator: th.Generator) -> Any:
        planner = RandomShooting(population=1)
        horizon = problem.horizon
        x, actions = problem.start.double().numpy(), []
        for gain in riccati(horizon)[0]:
            actions.append(-x @ gain.T)
            x = x @ A.T + actions[-1] @ B.T
        best = th.tensor(np.stack(actions, 1), dtype=th.float32)
        return planner.plan(problem, best, generator=generator)


@pytest.mark.parametrize("execute", [1, 5, 30])
def test_the_controller_pays_what_new_information_is_worth(execute: int) -> None:
    # Episodes as rows of one batch: the controller plans for all of them in one call.
    rng, episodes, horizon = np.random.default_rng(execute), 4000, 30
    policy = MPCPolicy(linear_model(), Exact(), horizon, execute=execute, episode_steps=horizon)
    x, cost, state = np.tile(START, (episodes, 1)), np.zeros(episodes), None
    for _ in range(horizon):
        action, state = policy.predict(x.astype(np.float32), state)
        cost += (x**2).sum(1) + R * action[:, 0] ** 2
        x = x @ A.T + action @ B.T + np.sqrt(NOISE) * rng.standard_normal((episodes, 2))
    assert cost.mean() == pytest.approx(expected_cost(horizon, execute), abs=4 * cost.std() / np.sqrt(episodes))
    assert cost.std() / np.sqrt(episodes) < 0.3
