"""Tests of the controller in whole episodes: through Stable-Baselines3's own loop, and with beliefs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import Generator, Tensor

from controllers import CEM, ICEM, MPPI, MPCPolicy, RandomShooting
from mbrl_wrappers.models import ClonedEnvModel, FunctionModel
from mbrl_wrappers.types import Prediction
from tests.controllers.linear import LinearEnv, linear_model, optimal_cost
from tests.controllers.scripted import SCALAR
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model


def vec_env_of(make: Callable[[], gymnasium.Env[Any, Any]], count: int = 3) -> VecEnv:
    """Environments whose starts are the same in every run, so that two policies meet the same tasks."""
    envs = DummyVecEnv([lambda: Monitor(make()) for _ in range(count)])
    envs.seed(0)
    return envs


@pytest.mark.parametrize(("planner", "limit"), [(CEM(150, 6), 1.03), (MPPI(100, 4), 1.1), (ICEM(60, 4), 1.1)])
def test_evaluate_policy_drives_a_vector_environment_of_three(planner: Any, limit: float) -> None:
    policy: Any = MPCPolicy(linear_model(3.0), planner, 20, episode_steps=20)
    venv = vec_env_of(lambda: LinearEnv(20, bound=3.0))
    returns, lengths = evaluate_policy(policy, venv, n_eval_episodes=5, return_episode_rewards=True)
    assert lengths == [20] * 5
    for cost in -np.array(returns):
        assert optimal_cost(20) * 0.999 < cost < optimal_cost(20) * limit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_end_at_different_times_are_started_anew(dtype: Any) -> None:
    # Failures of the oracle end episodes whenever; SB3's loop resets that row alone.
    make = lambda: gymnasium.wrappers.TimeLimit(OracleEnv(dtype), 9)  # noqa: E731
    policy: Any = MPCPolicy(oracle_model(OracleEnv(dtype)), ICEM(20, 2), 5, execute=2)
    planned, _ = evaluate_policy(policy, vec_env_of(make), n_eval_episodes=9)

    class Still:
        def predict(self, observation: Any, state: Any = None, **rest: Any) -> Any:
            return np.zeros((len(observation), 2), np.float32), None

    still, _ = evaluate_policy(Still(), vec_env_of(make), n_eval_episodes=9)  # type: ignore[arg-type]
    assert planned > still


def test_discrete_environments_are_driven_too() -> None:
    make = lambda: gymnasium.wrappers.TimeLimit(DiscreteOracleEnv(start=2), 8)  # noqa: E731
    policy: Any = MPCPolicy(oracle_model(make()), CEM(60, 4), 6)
    planned, _ = evaluate_policy(policy, vec_env_of(make), n_eval_episodes=6)
    random: Any = MPCPolicy(oracle_model(make()), RandomShooting(1), 6)
    assert planned > evaluate_policy(random, vec_env_of(make), n_eval_episodes=6)[0]


class Unreadable(gymnasium.Env[Any, Any]):
    """Nothing in it is its observation; the same action is right in one copy and wrong in the other."""

    observation_space, action_space = spaces.Box(-99, 99, (1,)), spaces.Box(-1, 1, (1,))

    def __init__(self, sign: float, length: int) -> None:
        self.sign, self.length = sign, length

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.array([-1], np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.array([self.time], np.float32), self.sign * float(action[0]), self.time >= self.length, False, {}


@pytest.mark.parametrize("particles", [1, 2])
def test_environments_that_only_their_order_tells_apart_plan_for_themselves(particles: int) -> None:
    venv = DummyVecEnv([lambda: Unreadable(1.0, 3), lambda: Unreadable(-1.0, 5)])  # their plans fall due apart
    model = ClonedEnvModel(venv)
    assert not model.checks_observations
    policy: Any = MPCPolicy(model, RandomShooting(30), 2, execute=2, particles=particles)
    obs, state, start = venv.reset(), None, np.array([True, True])
    for _ in range(12):
        action, state = policy.predict(obs, state, start)
        assert action[0] > 0 > action[1]
        obs, _, start, _ = venv.step(action)


def test_numbers_of_states_are_encoded_by_the_model() -> None:
    make = lambda: gymnasium.make("FrozenLake-v1", is_slippery=False)  # noqa: E731
    venv = DummyVecEnv([make, make])
    policy: Any = MPCPolicy(ClonedEnvModel(venv), CEM(60, 4), 8, discount=0.95)
    mean, deviation = evaluate_policy(policy, venv, n_eval_episodes=2, warn=False)
    assert (mean, deviation) == (1, 0)
    single = make()
    observation, _ = single.reset(seed=0)
    action, _ = MPCPolicy(ClonedEnvModel(single), CEM(20, 2), 4).predict(observation)
    assert action in single.action_space
    assert action.shape == ()


class Cart(gymnasium.Env[Any, Any]):
    """Position and velocity pushed by ``|u| <= 1``, of which only the position is shown; ends past ``|x| > 1``."""

    observation_space = SCALAR
    action_space: Any = spaces.Box(-0.5, 0.5, (1,), np.float32)

    def __init__(self, push: float = 1.0) -> None:
        self.push, self.x, self.v = push, 0.0, 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.v = float(self.np_random.uniform(-0.5, 0.5)), 0.0
        return np.float32([self.x]), {}

    def step(self, action: Any) -> Any:
        self.x, self.v = self.x + self.v, self.v + self.push * float(action[0])
        return np.float32([self.x]), -abs(self.x), abs(self.x) > 1, False, {}


class Belief(NamedTuple):
    """``obs (B, 1)`` and the velocity ``(B, 1)`` that follows from the actions taken."""

    obs: Tensor
    velocity: Tensor


class CartBelief:
    """The exact filter of :class:`Cart`: the velocity begins at zero and adds up the actions."""

    observation_space, action_space, device = SCALAR, Cart.action_space, th.device("cpu")
    sensor_space = SCALAR
    exact = True

    def __init__(self) -> None:
        self.observed: list[tuple[Tensor, Tensor]] = []

    def reset(self, obs: Tensor, *, generator: Generator) -> Belief:
        raise AssertionError("plans begin from the belief")

    def step(self, state: Belief, action: Tensor, *, generator: Generator) -> tuple[Belief, Prediction]:
        obs = state.obs + state.velocity
        following = Belief(obs, state.velocity + 0.5 * action)
        return following, Prediction(obs, -obs[:, 0].abs(), obs[:, 0].abs() > 1)

    def features(self, state: Belief) -> Tensor:
        return th.cat([state.obs, state.velocity], 1)

    def decode(self, state: Belief) -> Tensor:
        return state.obs

    def initial(self, batch: int) -> Belief:
        return Belief(th.zeros(batch, 1), th.zeros(batch, 1))

    def observe(self, state: Belief, action: Tensor, obs: Tensor, first: Tensor, *, generator: Generator) -> Belief:
        self.observed.append((action, first))
        moved = state.velocity + 0.5 * action
        return Belief(obs, th.where(first[:, None], th.zeros_like(moved), moved))


@pytest.mark.parametrize("execute", [1, 3])
def test_a_belief_travels_and_is_filtered_with_the_action_taken(execute: int) -> None:
    model, envs = CartBelief(), [Cart() for _ in range(3)]
    policy = MPCPolicy(model, CEM(30, 2), 6, execute=execute, terminal_reward=-50.0)
    obs = np.stack([env.reset(seed=seed)[0] for seed, env in enumerate(envs)])
    state, first, taken = None, np.ones(3, bool), np.zeros((3, 1), np.float32)
    for step in range(12):
        actions, state = policy.predict(obs, state, first)
        seen_action, seen_first = model.observed[-1]
        assert seen_first.tolist() == first.tolist()
        np.testing.assert_allclose(0.5 * seen_action[~th.tensor(first)], taken[~first], atol=1e-6)
        belief = state.belief[0]
        assert belief.velocity[:, 0].tolist() == pytest.approx([env.v for env in envs], abs=1e-5)
        assert belief.obs[:, 0].tolist() == pytest.approx([env.x for env in envs], abs=1e-5)
        results = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        obs, taken, first = np.stack([result[0] for result in results]), actions, np.zeros(3, bool)
        if step == 4:  # one environment begins anew, in the middle of a chunk of three
            obs[1], first[1] = envs[1].reset(seed=7)[0], True
    assert len(model.observed) == 12, "also in the steps without a plan"


def test_a_belief_knows_what_an_observation_does_not() -> None:
    def memoryless(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + 0.5 * action, -obs[:, 0].abs(), obs[:, 0].abs() > 1

    make = lambda: gymnasium.wrappers.TimeLimit(Cart(), 15)  # noqa: E731
    options: Any = dict(horizon=6, terminal_reward=-50.0)
    filtering: Any = MPCPolicy(CartBelief(), CEM(60, 3), **options)
    blind: Any = MPCPolicy(FunctionModel(SCALAR, Cart.action_space, memoryless), CEM(60, 3), **options)
    got, length = evaluate_policy(filtering, vec_env_of(make), n_eval_episodes=3, return_episode_rewards=True)
    other, _ = evaluate_policy(blind, vec_env_of(make), n_eval_episodes=3, return_episode_rewards=True)
    assert length == [15] * 3
    assert np.mean(got) > -1.0 > np.mean(other)


def test_a_belief_draws_anew_at_each_call_and_for_each_seed() -> None:
    class Noisy(CartBelief):
        def observe(self, *args: Any, generator: Generator) -> Belief:
            drawn.append(float(th.rand(1, generator=generator)))
            return super().observe(*args, generator=generator)

    drawn: list[float] = []
    for seed in (0, 0, 1):
        policy, state = MPCPolicy(Noisy(), CEM(4, 1), 2, seed=seed), None
        for _ in range(2):
            _, state = policy.predict(np.zeros((1, 1), np.float32), state)
    assert drawn[:2] == drawn[2:4]
    assert len(set(drawn)) == 4
