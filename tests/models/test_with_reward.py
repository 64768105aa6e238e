from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from mbrl_wrappers import EnsembleDynamics, FunctionModel, Limits, Prediction, WithReward, branched_rollout, save
from mbrl_wrappers.types import BoundModel, SequenceModel, SharedNoiseModel, VectorStateModel
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model, oracle_reward

PROTOCOLS = (SequenceModel, SharedNoiseModel, VectorStateModel, BoundModel)


def seeded() -> Generator:
    return th.Generator().manual_seed(0)


class Hidden(NamedTuple):
    """A state that does not show the observation."""

    half: Tensor


class Counter:
    """The observation goes up by the action; the state holds half of it."""

    observation_space, action_space = spaces.Box(-9, 9, (1,), np.float32), spaces.Box(-2, 2, (1,), np.float32)
    device = th.device("cpu")

    def reset(self, obs: Tensor, *, generator: Generator) -> Hidden:
        return Hidden(obs / 2)

    def step(self, state: Hidden, action: Tensor, *, generator: Generator) -> tuple[Hidden, Prediction]:
        obs = 2 * (state.half + action)
        return Hidden(obs / 2), Prediction(obs, th.zeros(len(obs)), obs[:, 0] > 5)


class Rolls:
    def rollout(self, state: Any, actions: Tensor, *, generator: Generator, groups: int = 1) -> Prediction:
        steps = []
        for t in range(actions.shape[1]):
            state, prediction = self.step(state, actions[:, t], generator=generator)  # type: ignore[attr-defined]
            steps.append(prediction)
        return Prediction(*(th.stack(column, 1) for column in zip(*steps, strict=True)))


class Shares:
    def step_shared(self, state: Any, action: Tensor, *, generator: Generator, groups: int) -> Any:
        noise = th.rand(len(action) // groups, 1, generator=generator).repeat(groups, 1)
        return self.step(state, action + noise, generator=generator)  # type: ignore[attr-defined]


class Coordinates:
    def state_vector(self, state: Any) -> Tensor:
        return state[0]

    def with_state_vector(self, state: Any, vector: Tensor) -> Any:
        return type(state)(vector)


class Bound:
    num_envs = 3
    numbers: Any = None

    def of_envs(self, numbers: Tensor) -> Any:
        chosen = copy.copy(self)
        chosen.numbers = numbers
        return chosen


def sees(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Tells the three apart."""
    return 100 * obs[:, 0] + 10 * action[:, 0] + next_obs[:, 0]


@pytest.mark.parametrize(
    "offers", [c for n in range(5) for c in itertools.combinations((Rolls, Shares, Coordinates, Bound), n)]
)
def test_it_offers_exactly_what_the_inner_model_offers(offers: tuple[type, ...]) -> None:
    inner = type("Inner", (*offers, Counter), {})()
    model = WithReward(inner, sees)
    assert isinstance(model, WithReward)
    assert [isinstance(model, p) for p in PROTOCOLS] == [isinstance(inner, p) for p in PROTOCOLS]
    assert [isinstance(inner, p) for p in PROTOCOLS] == [kind in offers for kind in (Rolls, Shares, Coordinates, Bound)]
    assert [isinstance(copy.deepcopy(model), p) for p in PROTOCOLS] == [isinstance(inner, p) for p in PROTOCOLS]


def test_some_of_the_environments_are_paid_alike() -> None:
    inner = type("Inner", (Bound, Counter), {})()
    model: Any = WithReward(inner, sees)
    assert model.num_envs == 3
    some = model.of_envs(th.tensor([2, 0]))
    assert isinstance(some, WithReward)
    assert (some.inner.numbers.tolist(), some.reward_fn) == ([2, 0], sees)


def test_the_reward_sees_environment_units_and_the_observation_before_the_step() -> None:
    model: Any = WithReward(Counter(), sees)
    obs = th.tensor([[1.0], [2.0]])
    state = model.reset(obs, generator=seeded())
    state, first = model.step(state, th.tensor([[0.5], [-1.0]]), generator=seeded())  # 1 and -2 in the environment
    assert first.next_obs[:, 0].tolist() == [2.0, 0.0]
    assert first.reward.tolist() == [100 + 10 + 2, 200 - 20 + 0]
    _, second = model.step(state, th.tensor([[1.0], [1.0]]), generator=seeded())
    assert second.reward.tolist() == [200 + 20 + 4, 0 + 20 + 2]


def test_all_else_stays() -> None:
    env = OracleEnv()
    inner = oracle_model(env)
    model: Any = WithReward(inner, lambda obs, action, next_obs: 2 * oracle_reward(obs, action, next_obs))
    assert model.exact is True
    assert WithReward(Counter(), sees).exact is False
    assert (model.observation_space, model.action_space) == (inner.observation_space, inner.action_space)
    assert model.device == inner.device
    obs, action = th.rand(5, 3, generator=seeded()), th.rand(5, 2, generator=seeded())
    state, prediction = model.step(model.reset(obs, generator=seeded()), action, generator=seeded())
    wanted_state, wanted = inner.step(inner.reset(obs, generator=seeded()), action, generator=seeded())
    assert type(state) is type(wanted_state)
    assert (state.obs == wanted_state.obs).all()
    assert (prediction.next_obs == wanted.next_obs).all()
    assert (prediction.terminated == wanted.terminated).all()
    th.testing.assert_close(prediction.reward, 2 * wanted.reward)
    moved = model.with_state_vector(state, model.state_vector(state) + 1)
    assert (moved.obs == state.obs + 1).all()


@pytest.mark.parametrize("tracked", [True, False])
def test_a_whole_rollout_equals_its_steps(tracked: bool) -> None:
    inner = oracle_model(OracleEnv())
    kind = type("Rolling", (Rolls, Counter if tracked else FunctionModel), {})
    whole: Any = kind() if tracked else kind(inner.observation_space, inner.action_space, inner._step_fn)
    model: Any = WithReward(whole, sees)
    obs = th.rand(4, model.observation_space.shape[0], generator=seeded())
    actions = 2 * th.rand(4, 6, model.codec.size, generator=seeded()) - 1
    state = model.reset(obs, generator=seeded())
    got = model.rollout(state, actions, generator=seeded())
    for t in range(6):
        state, prediction = model.step(state, actions[:, t], generator=seeded())
        th.testing.assert_close(got.reward[:, t], prediction.reward)
        assert (got.next_obs[:, t] == prediction.next_obs).all()


def test_shared_noise_is_the_inner_models() -> None:
    inner: Any = type("Noisy", (Shares, Counter), {})()
    model: Any = WithReward(inner, sees)
    state, action = model.reset(th.ones(4, 1), generator=seeded()), th.zeros(4, 1)
    _, prediction = model.step_shared(state, action, generator=seeded(), groups=2)
    assert prediction.next_obs[:2].tolist() == prediction.next_obs[2:].tolist()
    assert prediction.next_obs[0] != prediction.next_obs[1]
    assert (prediction.reward == 100 + prediction.next_obs[:, 0]).all()


def test_discrete_actions_reach_the_reward_as_numbers() -> None:
    model = WithReward(oracle_model(DiscreteOracleEnv(start=3)), lambda obs, action, next_obs: action.double())
    state = model.reset(th.zeros(3, 3), generator=seeded())
    _, prediction = model.step(state, th.eye(3), generator=seeded())
    assert prediction.reward.tolist() == [3, 4, 5]


def test_an_ensemble_keeps_its_draws() -> None:
    space = spaces.Box(-1, 1, (2,), np.float32)
    inner = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (3,), np.float32), space, num_members=2, num_elites=2, hidden=(8,), device="cpu"
    )
    model: Any = WithReward(inner, sees)
    assert isinstance(model, SharedNoiseModel)
    obs, action = th.rand(6, 3, generator=seeded()), th.rand(6, 2, generator=seeded())
    _, got = model.step(model.reset(obs, generator=seeded()), action, generator=seeded())
    _, wanted = inner.step(inner.reset(obs, generator=seeded()), action, generator=seeded())
    assert (got.next_obs == wanted.next_obs).all()
    th.testing.assert_close(got.reward, sees(obs, action, got.next_obs))


def test_errors_say_what_to_do(tmp_path: Any) -> None:
    model: Any = WithReward(oracle_model(OracleEnv()), lambda obs, action, next_obs: obs[:, :1])
    with pytest.raises(ValueError, match=r"reward_fn must return shape \(B,\), got \(4, 1\) for 4 rows"):
        model.step(model.reset(th.zeros(4, 3), generator=seeded()), th.zeros(4, 2), generator=seeded())
    with pytest.raises(TypeError, match="WithReward cannot be saved: its reward is a function of the program"):
        save(model, tmp_path / "model")
    hidden: Any = WithReward(type("Hides", (Coordinates, Counter), {})(), sees)
    state = hidden.reset(th.ones(2, 1), generator=seeded())
    assert hidden.state_vector(state).tolist() == [[0.5], [0.5]]
    with pytest.raises(TypeError, match="The state of Hides has no obs"):
        hidden.with_state_vector(state, th.zeros(2, 1))


def test_limits_are_the_inner_models_with_every_reward_inside() -> None:
    inner: Any = oracle_model(OracleEnv())
    model: Any = WithReward(inner, sees)
    assert model.limits is None
    inner.limits = Limits.of(th.zeros(1, 3), th.zeros(1))
    assert th.equal(model.limits.obs_high, th.ones(3))  # of the moment: a refit changes them
    rich = Prediction(th.zeros(2, 3), th.tensor([1e6, -1e6]), th.zeros(2, dtype=th.bool))
    assert model.limits.accepts(rich).all()
    assert not inner.limits.accepts(rich).any()
    out = branched_rollout(model, lambda obs, generator: th.zeros(len(obs), 2), th.zeros(4, 3), 2, generator=seeded())
    assert (out.transitions.num_rows, out.num_dropped) == (8, 0)
    out = branched_rollout(
        model, lambda obs, generator: th.zeros(len(obs), 2), th.full((4, 3), 9.0), 2, generator=seeded()
    )
    assert (out.transitions.num_rows, out.num_dropped) == (0, 4)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_uses_its_own_inner_model(duplicate: Any) -> None:
    model: Any = WithReward(Everything(), sees)
    other = duplicate(model)
    state, actions = model.reset(th.ones(2, 1), generator=seeded()), th.ones(2, 3, 1)
    assert (other.rollout(state, actions, generator=seeded()).reward == 0).sum() == 0
    other.reward_fn = lambda obs, action, next_obs: 0 * obs[:, 0]
    assert (other.rollout(state, actions, generator=seeded()).reward == 0).all()
    assert other.step_shared(state, actions[:, 0], generator=seeded(), groups=1)[1].reward.tolist() == [0, 0]
    assert (model.rollout(state, actions, generator=seeded()).reward != 0).all()
    assert all(isinstance(other, protocol) for protocol in PROTOCOLS)
    assert type(other) is WithReward


class Everything(Rolls, Shares, Coordinates, Bound, Counter):
    """Satisfies all optional protocols."""


class Dealt(Counter):
    """Deals particles out to two members."""

    def reset_particles(self, obs: Tensor, particles: int, *, generator: Generator) -> Hidden:
        return self.reset(obs.repeat_interleave(particles, 0), generator=generator)

    def lasting_members(self, state: Hidden) -> Tensor:
        return th.arange(len(state.half)) % 2


def test_particles_are_dealt_out_by_the_inner_model() -> None:
    model: Any = WithReward(Dealt(), sees)
    state = model.reset_particles(th.tensor([[1.0], [3.0]]), 2, generator=seeded())
    assert state.obs[:, 0].tolist() == [1, 1, 3, 3]
    assert model.lasting_members(state).tolist() == [0, 1, 0, 1]
    _, prediction = model.step(state, th.zeros(4, 1), generator=seeded())
    assert prediction.reward.tolist() == [101, 101, 303, 303]
    assert not hasattr(WithReward(Counter(), sees), "reset_particles")
