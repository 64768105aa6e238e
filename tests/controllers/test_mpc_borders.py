"""Tests of what the controller refuses, and of what it gives to an environment."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from torch import Tensor

from controllers import CEM, ICEM, MPPI, MPCPolicy, Proposals, RandomShooting
from mbrl_wrappers.models import EnsembleDynamics, FunctionModel
from tests.controllers.linear import linear_model
from tests.controllers.scripted import SCALAR
from tests.controllers.shooting.test_distributions import ODD_BOX
from tests.controllers.test_mpc import OBS, policy_of
from tests.oracle import HIGH, LOW, DiscreteOracleEnv, oracle_model


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(4), "another environment"),
        (np.zeros((2, 4)), "another environment"),
        (np.zeros((1, 2, 3)), "another environment"),
        (np.float32(0), "another environment"),
        ({"a": np.zeros(3)}, "another environment"),
        (np.array([0.0, np.nan, 0.0]), "NaN"),
        (np.array([[0.0, np.inf, 0.0]]), "NaN"),
    ],
)
def test_observations_of_another_environment_or_not_finite_are_refused(observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_of().predict(observation)


def test_float64_observations_plan_like_float32() -> None:
    policy = policy_of()
    np.testing.assert_array_equal(policy.predict(OBS.astype(np.float64))[0], policy.predict(OBS)[0])


@pytest.mark.parametrize("state", [(), "state", (np.zeros(3),), 3])
def test_states_of_something_else_are_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="state must be"):
        policy_of().predict(OBS, state)


def test_states_of_another_batch_or_horizon_are_refused() -> None:
    _, state = policy_of().predict(OBS)
    with pytest.raises(ValueError, match="for 2 environments"):
        policy_of().predict(OBS[:2], state)
    with pytest.raises(ValueError, match="policy like this one"):
        policy_of(horizon=7).predict(OBS, state)
    with pytest.raises(ValueError, match="episode_start has 2 rows"):
        policy_of().predict(OBS, state, np.zeros(2, bool))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon"),
        ({"execute": 0}, "execute"),
        ({"execute": 7}, "Cannot execute 7 actions of a plan of 6"),
        ({"episode_steps": 0}, "episode_steps"),
        ({"discount": 2.0}, "discount"),
        ({"particles": 0}, "particles"),
    ],
)
def test_impossible_numbers_are_refused_at_construction(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_of(**options)


@pytest.mark.parametrize("planner", [CEM, linear_model(1.0), "cem"])
def test_what_is_no_planner_is_refused_at_construction(planner: Any) -> None:
    with pytest.raises(TypeError, match=r"such as CEM\(\)"):
        MPCPolicy(linear_model(1.0), planner)


def test_a_planner_whose_actions_are_not_finite_never_reaches_an_environment() -> None:
    class Careless(RandomShooting):
        def plan(self, *args: Any, **kwargs: Any) -> Any:
            plan = super().plan(*args, **kwargs)
            return plan._replace(actions=plan.actions / 0 * 0)

    with pytest.raises(ValueError, match="Careless returned actions that are not finite"):
        MPCPolicy(linear_model(1.0), Careless(4), 3).predict(np.zeros(2))


def test_a_bare_agent_is_pointed_to_its_wrappers() -> None:
    agent: Any = object()
    with pytest.raises(TypeError, match=r"AgentValue\(agent\)"):
        policy_of(terminal_value=agent)
    with pytest.raises(TypeError, match=r"AgentPolicy\(agent\)"):
        Proposals(agent)


def test_unknown_names_are_refused_at_construction() -> None:
    with pytest.raises(TypeError, match="gamma"):
        policy_of(gamma=0.9)
    with pytest.raises(ValueError, match="count"):
        Proposals(lambda obs, generator: obs, 0)  # type: ignore[arg-type, misc]


# --- what the environment gets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "planner", [CEM(20, 2), ICEM(20, 2), MPPI(20, 2), RandomShooting(20)], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("reward", [1.0, math.nan])
def test_actions_are_always_in_the_space_and_finite(planner: Any, reward: float) -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs, reward * action.sum(1), obs[:, 0] > 9

    policy = MPCPolicy(FunctionModel(SCALAR, ODD_BOX, step), planner, 3)
    state = None
    for _ in range(3):
        actions, state = policy.predict(np.zeros((4, 1)), state)
        assert all(action in ODD_BOX for action in actions)
        assert np.isfinite(actions).all()
    if math.isnan(reward):
        np.testing.assert_allclose(actions, [[1.0, 0.25, 3.0, 0.0, 5.0]] * 4)


def test_discrete_and_multidiscrete_actions_come_in_their_own_numbers() -> None:
    env = DiscreteOracleEnv(start=5)
    actions, _ = MPCPolicy(oracle_model(env), CEM(20, 2), 3).predict(OBS)
    assert (actions.shape, actions.dtype) == ((3,), np.int64)
    assert all(action in env.action_space for action in actions)

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs, action.sum(1).float(), obs[:, 0] > 9

    space = spaces.MultiDiscrete([2, 3], start=[4, -1])
    policy = MPCPolicy(FunctionModel(SCALAR, space, step), CEM(50, 4), 3, execute=2)
    state = None
    for _ in range(3):
        actions, state = policy.predict(np.zeros((2, 1)), state)
        assert actions.tolist() == [[5, 1], [5, 1]]
        assert all(action in space for action in actions)


def test_bounds_are_those_of_the_environment() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs, action[:, 0] - action[:, 1], obs[:, 0] > 9

    space = spaces.Box(LOW, HIGH)
    action, _ = MPCPolicy(FunctionModel(SCALAR, space, step), CEM(200, 8), 1).predict(np.zeros(1))
    np.testing.assert_allclose(action, [HIGH[0], LOW[1]], rtol=1e-6)
    assert linear_model().action_space.shape == (1,)


def test_a_learned_model_takes_float64_observations() -> None:
    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    model = EnsembleDynamics(space, ODD_BOX, num_members=2, num_elites=2, hidden=(4,), device="cpu")
    policy = MPCPolicy(model, CEM(20, 2), 3, particles=4)
    actions, state = policy.predict(np.array([[0.1], [0.2]]))
    assert all(action in ODD_BOX for action in actions)
    assert policy.last_plan is not None
    assert policy.last_plan.actions.equal(policy.last_plan.next_start.actions), "a learned model gets the mean"
    assert policy.predict(np.array([[0.1], [0.2]]), state)[0].shape == (2, 5)
