"""Tests of iLQR where it is hard: ends, nothing to climb, noise, other models, wrong uses."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from controllers import CEM, ILQR, MPCPolicy, PlanningProblem, WarmStart
from controllers.trajectory.ilqr import Damping, Ridge
from mbrl_wrappers import EnsembleDynamics, FunctionModel, MujocoModel, Prediction, WithReward
from tests.controllers.linear import linear_model, linear_problem
from tests.controllers.trajectory.smooth_tasks import METHODS, problem_of, scalar_model, seeded
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model

# --- terminations, discount -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal_reward", [0.0, -7.0])
def test_scores_of_the_line_search_are_those_of_the_problem(terminal_reward: float) -> None:
    model = scalar_model(lambda x, u, y: 1 - y[:, 0] ** 2 + u[:, 0], ends=lambda y: y[:, 0].abs() > 2)
    problem = problem_of(model, 6, [[0.0], [1.5], [1.9]], discount=0.9, terminal_reward=terminal_reward)
    plan = ILQR(iterations=1).plan(problem, th.full((3, 6, 1), 0.5), generator=seeded())
    th.testing.assert_close(plan.scores, problem.score(plan.candidates), rtol=1e-12, atol=0)
    th.testing.assert_close(plan.value, problem.score(plan.actions[:, None])[:, 0], rtol=1e-12, atol=0)
    assert (plan.value >= plan.report.warm_start_value).all()


def test_a_termination_may_be_worth_it() -> None:
    model = scalar_model(lambda x, u, y: -(u[:, 0] ** 2) + u[:, 0], ends=lambda y: y[:, 0] > 2)
    problem = problem_of(model, 6, [[1.9]], terminal_reward=10)  # worth more than going on
    plan = ILQR().plan(problem, th.full((1, 6, 1), 0.25), generator=seeded())
    assert float(plan.actions[0, 0, 0]) == pytest.approx(0.5, abs=1e-4)
    assert float(plan.value) == pytest.approx(10.25)
    assert plan.report.converged is not None
    assert plan.report.converged.all()


def test_a_start_that_ends_early_is_held_by_the_regulator() -> None:
    # x' = 1.2 x + u grows out of |x| <= 1 if left alone, and no derivative of its few steps says that it should not.
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = 1.2 * obs + action
        return following, -0.1 * action[:, 0] ** 2, following[:, 0].abs() > 1

    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    model = FunctionModel(space, spaces.Box(-1, 1, (1,), np.float32), step)
    options: Any = {"terminal_value": lambda obs: -(obs[:, 0] ** 2), "terminal_reward": -10}
    problem = problem_of(model, 20, [[0.2], [-0.5]], **options)
    assert (problem.score(th.zeros(2, 1, 20, 1)) == -10).all()
    plan = ILQR().plan(problem, generator=seeded())
    assert (plan.value > -1).all()
    assert plan.report.converged is not None
    assert plan.report.converged.all()


def test_without_a_future_only_the_first_action_counts() -> None:
    model = scalar_model(lambda x, u, y: -((y[:, 0] - 0.3) ** 2))
    plan = ILQR().plan(problem_of(model, 4, [[0.0]], discount=0.0), generator=seeded())
    assert float(plan.actions[0, 0, 0]) == pytest.approx(0.3, abs=1e-5)


# --- nothing to hold on to --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "finite"])
def test_a_constant_reward_leaves_the_warm_start(method: Any) -> None:
    model = scalar_model(lambda x, u, y: th.ones(len(x)))
    plan = ILQR(derivatives=method).plan(problem_of(model, 5, [[0.0]]), th.full((1, 5, 1), 0.5), generator=seeded())
    assert (plan.actions == 0.5).all()
    assert plan.report.iterations == 0
    assert plan.report.converged is not None
    assert plan.report.converged.all()
    plan = ILQR(derivatives=method).plan(problem_of(model, 5, [[0.0]]), generator=seeded())
    assert not plan.actions.any()


@pytest.mark.parametrize("where", ["obs", "reward"])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_nan_leaves_the_warm_start_and_has_not_converged(where: str, method: Any) -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, reward = obs + action, -(obs + action).square().sum(1)
        fails = obs[:, 0] > 5  # the second row, from its start
        if where == "obs":
            following = th.where(fails[:, None], th.nan, following)
        else:
            reward = th.where(fails, th.nan, reward)
        return following, reward, th.zeros(len(obs), dtype=th.bool)

    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    model = FunctionModel(space, spaces.Box(-1, 1, (1,), np.float32), step)
    warm = th.full((2, 4, 1), 0.5)
    plan = ILQR(derivatives=method).plan(problem_of(model, 4, [[0.4], [9.0]]), warm, generator=seeded())
    assert (plan.actions[1] == 0.5).all()
    assert plan.actions.isfinite().all()
    assert plan.value[1] == -th.inf
    assert plan.value[0] > -0.01
    assert plan.report.converged is not None
    assert plan.report.converged.tolist() == [True, False]
    assert plan.report.num_invalid > 0


def test_a_line_search_may_fail_in_places() -> None:
    model = scalar_model(lambda x, u, y: th.where(y[:, 0] > 0.7, th.nan, -((y[:, 0] - 0.8) ** 2)))
    plan = ILQR().plan(problem_of(model, 3, [[0.0]]), generator=seeded())
    assert plan.value.isfinite().all()
    assert plan.value > plan.scores.min()
    assert plan.report.num_invalid > 0
    assert plan.actions.isfinite().all()


@pytest.mark.parametrize("reward", [lambda x, u, y: -(y[:, 0] ** 2), lambda x, u, y: -(x[:, 0] ** 2)])
def test_a_horizon_of_one(reward: Any) -> None:
    plan = ILQR().plan(problem_of(scalar_model(reward), 1, [[0.4], [-3.0]]), generator=seeded())
    assert plan.actions.shape == (2, 1, 1)
    assert plan.actions.abs().max() <= 1
    assert (plan.value >= problem_of(scalar_model(reward), 1, [[0.4], [-3.0]]).score(th.zeros(2, 1, 1, 1))[:, 0]).all()


def test_sequences_that_are_not_finite_are_no_start() -> None:
    warm = WarmStart(th.zeros(1, 5, 1), th.tensor([True]), None, th.full((1, 2, 5, 1), th.nan))
    plan = ILQR().plan(linear_problem(5, bound=1.0), warm, generator=seeded())
    assert plan.actions.isfinite().all()


# --- other models, errors ---------------------------------------------------------------------------------------------


class Noisy(NamedTuple):
    obs: Tensor


class NoisyModel:
    """``x' = x + u + noise``, the noise shared between candidates."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    device = th.device("cpu")

    def reset(self, obs: Tensor, *, generator: Generator) -> Noisy:
        return Noisy(obs)

    def step(self, state: Noisy, action: Tensor, *, generator: Generator) -> tuple[Noisy, Prediction]:
        return self.step_shared(state, action, generator=generator, groups=1)

    def step_shared(
        self, state: Noisy, action: Tensor, *, generator: Generator, groups: int
    ) -> tuple[Noisy, Prediction]:
        noise = th.randn(len(action) // groups, 1, generator=generator).repeat(groups, 1)
        obs = state.obs + action + 0.1 * noise
        return Noisy(obs), Prediction(obs, -(obs[:, 0] ** 2), th.zeros(len(obs), dtype=th.bool))

    def state_vector(self, state: Noisy) -> Tensor:
        return state.obs

    def with_state_vector(self, state: Noisy, vector: Tensor) -> Noisy:
        return Noisy(vector)


@pytest.mark.parametrize("method", METHODS)
def test_a_noisy_model_is_planned_in_with_one_and_the_same_noise(method: Any) -> None:
    problem = problem_of(NoisyModel(), 5, [[0.5], [-0.4]])
    plan = ILQR(derivatives=method).plan(problem, generator=seeded())
    assert (plan.value > -1e-6).all()  # every step's noise is cancelled
    again = ILQR(derivatives=method).plan(problem, generator=seeded())
    assert (plan.actions == again.actions).all()


def test_an_ensemble_can_be_planned_in() -> None:
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (3,), np.float32),
        spaces.Box(-1, 1, (2,), np.float32),
        num_members=2,
        num_elites=2,
        hidden=(16,),
        propagation="mean",
        reward_fn=lambda obs, action, next_obs: -next_obs.square().sum(1) - 0.01 * action.square().sum(1),
        device="cpu",
    )
    problem = PlanningProblem(model, th.rand(2, 3, generator=seeded()), 8)
    plan = ILQR(iterations=5).plan(problem, generator=seeded())
    assert (plan.value > problem.score(th.zeros(2, 1, 8, 2))[:, 0]).all()
    assert plan.actions.abs().max() <= 1


def test_what_cannot_be_planned_says_so() -> None:
    discrete = oracle_model(DiscreteOracleEnv())
    with pytest.raises(TypeError, match="ILQR plans continuous actions.*use CEM, RandomShooting or MCTS"):
        ILQR().plan(PlanningProblem(discrete, th.zeros(1, 3), 3), generator=seeded())
    with pytest.raises(ValueError, match="warm start must have shape"):
        ILQR().plan(linear_problem(3), th.zeros(1, 4, 1), generator=seeded())
    with pytest.raises(ValueError, match="terminal_value must return shape"):
        ILQR().plan(linear_problem(3, terminal_value=lambda obs: obs), generator=seeded())
    for arguments, message in (
        ({"iterations": 0}, "iterations must be an integer"),
        ({"step_sizes": 0}, "step_sizes must be an integer"),
        ({"tolerance": -1.0}, "tolerance must be a finite number"),
        ({"jitter": -1.0}, "jitter must be a finite number"),
        ({"limits": "none"}, "limits must be one of"),
        ({"derivatives": "none"}, "derivatives must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            ILQR(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="factor"):
        Damping(factor=1.0)


def test_the_damping_follows_its_schedule() -> None:
    ridge, all_of_it = Ridge(th.zeros(2), th.ones(2)), th.tensor([True, True])
    values = []
    for _ in range(4):
        ridge = ridge.raised(th.tensor([True, False]), Damping())
        values.append(ridge.value[0].item())
    np.testing.assert_allclose(values, [1e-6, 4e-6, 32e-6, 512e-6], rtol=1e-5)
    assert ridge.value[1] == 0
    values = []
    for _ in range(5):
        ridge = ridge.lowered(all_of_it, Damping())
        values.append(ridge.value[0].item())
    np.testing.assert_allclose(values, [256e-6, 64e-6, 8e-6, 0, 0], rtol=1e-5)


def test_costs_are_booked() -> None:
    calls: list[int] = []
    model = linear_model()
    inner = model._step_fn

    def counted(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        calls.append(len(obs))
        return inner(obs, action)

    model._step_fn = counted
    report = ILQR().plan(PlanningProblem(model, th.tensor([[1.0, 0.0]]), 10), generator=seeded()).report
    assert report.model_calls == sum(calls)
    assert 0 < report.model_seconds < report.seconds


# --- MuJoCo -----------------------------------------------------------------------------------------------------------


def test_an_inverted_pendulum_is_held_by_replanning() -> None:
    env = gymnasium.make("InvertedPendulum-v5")

    def balanced(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return -(next_obs.square() @ th.tensor([1.0, 10.0, 0.1, 0.1], dtype=next_obs.dtype)) - 0.01 * action[:, 0] ** 2

    policy = MPCPolicy(WithReward(MujocoModel(env), balanced), ILQR(iterations=5), horizon=20, terminal_reward=-100)
    obs, _ = env.reset(seed=0)
    env.unwrapped.set_state(np.array([0.05, 0.15]), np.array([0.0, 0.3]))  # falls over within 10 steps if left alone
    obs = env.unwrapped._get_obs()
    state: Any = None
    for _ in range(60):
        action, state = policy.predict(obs, state)
        obs, _, terminated, _, _ = env.step(action)
        assert not terminated
    assert abs(obs[1]) < 0.02
    assert policy.last_plan is not None
    assert policy.last_plan.report.converged is not None
    env.close()


def test_the_oracle_is_planned_as_well_as_by_sampling() -> None:
    model = oracle_model(OracleEnv())
    problem = PlanningProblem(model, th.tensor([[0.3, -0.2, 0.4], [0.1, 0.4, -0.3]]), 12)
    plan = ILQR().plan(problem, generator=seeded())
    sampled = CEM(population=200, iterations=8).plan(problem, generator=seeded())
    assert (plan.value >= sampled.value).all()
