from __future__ import annotations

import pickle
import warnings

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from mbrl_wrappers.envs import ModelEnv
from mbrl_wrappers.models.function import FunctionModel, FunctionState
from mbrl_wrappers.types import Limits, Prediction
from tests.envs.paths import Deck, NoisyModel, counting_model, drawn_levels
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model


def uniform(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.5, 0.5, (n, 3))


def uniform_one(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(size=(n, 1))


ENVS = {
    "box": OracleEnv,
    "box float64": lambda: OracleEnv(np.float64),
    "discrete": DiscreteOracleEnv,
    "discrete from 2": lambda: DiscreteOracleEnv(start=2),
}


@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_the_exact_model_reproduces_the_real_environment(make) -> None:
    real = TimeLimit(make(), 12)
    imagined = ModelEnv(oracle_model(real), uniform, horizon=12)
    real.action_space.seed(0)
    ends = {"terminated": 0, "truncated": 0}
    for episode in range(40):
        start, _ = real.reset(seed=episode)
        obs, info = imagined.reset(options={"obs": start})
        np.testing.assert_array_equal(obs, start)
        assert info == {}
        over = False
        while not over:
            action = real.action_space.sample()
            expected, expected_reward, expected_terminated, expected_truncated, _ = real.step(action)
            obs, reward, terminated, truncated, info = imagined.step(action)
            np.testing.assert_allclose(obs, expected, rtol=0, atol=1e-6)
            assert reward == pytest.approx(expected_reward, abs=1e-6)
            # The wrapper may say both; here an episode that fails on its last step has only failed.
            assert (terminated, truncated) == (expected_terminated, expected_truncated and not expected_terminated)
            assert obs.dtype == real.observation_space.dtype
            assert info == {}
            over = terminated or truncated
        ends["terminated"] += terminated
        ends["truncated"] += truncated
    assert min(ends.values()) > 3


@pytest.mark.parametrize("make", [ENVS["box"], ENVS["box float64"], ENVS["discrete"]])
def test_both_checkers_pass(make) -> None:
    env = ModelEnv(oracle_model(make()), uniform, horizon=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they advise on the bounds, which are the real environment's
        check_env(env, skip_render_check=True)
        sb3_check_env(env)


def test_a_horizon_of_one_truncates_at_once() -> None:
    env = ModelEnv(counting_model(), Deck([0.0]), horizon=1)
    env.reset()
    obs, reward, terminated, truncated, _ = env.step(np.array([4.0]))
    assert (obs, reward, terminated, truncated) == (1, 4, False, True)


def test_seeded_resets_repeat_and_unseeded_ones_go_on() -> None:
    env = ModelEnv(oracle_model(OracleEnv()), uniform, horizon=5)
    first = [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]
    again = [env.reset(seed=3)[0], env.reset()[0], env.reset()[0]]
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first)) == 9


def test_a_stream_set_by_hand_is_used() -> None:
    env = ModelEnv(oracle_model(OracleEnv()), uniform, horizon=5)
    starts = []
    for _ in range(2):
        env.np_random = np.random.default_rng(5)
        starts.append(env.reset()[0])
    np.testing.assert_array_equal(*starts)


def test_reset_to_a_model_state() -> None:
    model = counting_model()
    env = ModelEnv(model, Deck([]), horizon=5)
    state = model.reset(th.tensor([[7.0]]), generator=th.Generator())
    np.testing.assert_array_equal(env.reset(options={"state": state})[0], [7])
    np.testing.assert_array_equal(env.step(np.zeros(1))[0], [8])


def test_a_nan_prediction_truncates_with_the_last_valid_observation() -> None:
    env = ModelEnv(counting_model(), Deck([1500.0, 3.0]), horizon=5)
    env.reset()
    obs, reward, terminated, truncated, info = env.step(np.array([2.0]))
    assert (obs, reward, terminated, truncated, info) == (1500, 0, False, True, {"invalid": True})
    assert env.num_invalid == 1
    env.reset()
    obs, reward, terminated, truncated, info = env.step(np.array([2.0]))
    assert (obs, reward, terminated, truncated, info) == (4, 32, False, False, {})
    assert env.num_invalid == 1


def test_a_prediction_outside_the_limits_truncates() -> None:
    limits = Limits(th.tensor([0.0]), th.tensor([10.0]), th.tensor(-1e3), th.tensor(60.0))
    env = ModelEnv(counting_model(), Deck([9.5, 5.0]), horizon=5, limits=limits)
    env.reset()
    assert env.step(np.zeros(1))[4] == {"invalid": True}  # 10.5 is past the observation's limit
    env.reset()
    assert env.step(np.zeros(1))[1] == 50
    assert env.step(np.array([1.0]))[4] == {"invalid": True}  # a reward of 61 is past the reward's limit
    assert env.num_invalid == 2


def test_returned_observations_are_the_callers_own() -> None:
    env = ModelEnv(counting_model(), Deck([0.0]), horizon=5)
    start, _ = env.reset()
    start[:] = 50
    first = env.step(np.zeros(1))[0]
    first[:] = 70
    np.testing.assert_array_equal(env.step(np.zeros(1))[0], [2])


def test_the_horizon_can_be_changed_under_way() -> None:
    env = ModelEnv(counting_model(), Deck([0.0]), horizon=2)
    env.reset()
    env.horizon = 3
    assert [env.step(np.zeros(1))[3] for _ in range(3)] == [False, False, True]


def test_stepping_without_an_episode_asks_for_a_reset() -> None:
    env = ModelEnv(counting_model(), Deck([0.0, 0.0]), horizon=1)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(np.zeros(1))
    env.reset()
    env.step(np.zeros(1))
    with pytest.raises(ResetNeeded, match="over"):
        env.step(np.zeros(1))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([np.nan]), "not finite"),
        (np.array([0.0, 1.0]), r"shape \(1, 1\)"),
        (0.0, r"shape \(1, 1\)"),
    ],
)
def test_unusable_box_actions_are_refused(action, message) -> None:
    env = ModelEnv(counting_model(), Deck([0.0]), horizon=5)
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(action)


@pytest.mark.parametrize("action", [1, 5, 2.0, np.array([2])])
def test_unusable_discrete_actions_are_refused(action) -> None:
    env = ModelEnv(oracle_model(DiscreteOracleEnv(start=2)), uniform, horizon=5)
    env.reset()
    with pytest.raises(ValueError, match="Expected"):
        env.step(action)


def test_actions_out_of_bounds_are_clipped_with_one_warning() -> None:
    env = ModelEnv(counting_model(), Deck([0.0]), horizon=5)
    env.reset()
    with pytest.warns(UserWarning, match="clipped"):
        assert env.step(np.array([9.0]))[1] == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert env.step(np.array([-9.0]))[1] == 8


@pytest.mark.parametrize(("action", "executed"), [(246, 246), (2.6, 3), (-0.4, 0), (255.4, 255)])
def test_actions_of_an_integer_box_are_rounded(action, executed) -> None:
    """Scaled to [-1, 1] and back in float32, 246 becomes 245.99998."""

    def step(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        return obs, action[:, 0], action[:, 0] > 1e9

    model = FunctionModel(spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(0, 255, (1,), np.uint8), step)
    env = ModelEnv(model, np.zeros((1, 1)), horizon=9)
    env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert env.step(np.array([action]))[1] == executed


def test_flags_are_actions() -> None:
    model = Echo()
    model.action_space = spaces.Box(0, 1, (1,), np.bool_)
    env = ModelEnv(model, np.zeros((1, 1)), horizon=9)
    env.reset()
    assert [env.step(np.array([flag]))[1] for flag in (False, True)] == [-1, 1]


@pytest.mark.parametrize("action", [-2.1, 6.1])
def test_each_bound_is_watched(action) -> None:
    env = ModelEnv(counting_model(), Deck([0.0]), horizon=5)
    env.reset()
    with pytest.warns(UserWarning, match="clipped"):
        env.step(np.array([action]))


class Echo:
    """A model that takes any action as it comes, and rewards with it."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(-2.0, 6.0, (1,))
    device = th.device("cpu")

    def reset(self, obs: th.Tensor, *, generator: th.Generator) -> FunctionState:
        return FunctionState(obs)

    def step(self, state: FunctionState, action: th.Tensor, *, generator: th.Generator):
        return state, Prediction(state.obs, action[:, 0], action[:, 0] > 1e9)


def test_the_gate_clips_for_models_that_do_not() -> None:
    env = ModelEnv(Echo(), np.zeros((1, 1)), horizon=9)
    env.reset()
    with pytest.warns(UserWarning, match="clipped"):
        rewards = [env.step(np.array([action]))[1] for action in (-50.0, -2.0, 2.0, 6.0, 50.0)]
    assert rewards == [-1, -1, 0, 1, 1]


def test_it_is_pickled_under_way() -> None:
    model = Echo()
    for starts in (np.arange(5.0)[:, None], th.arange(5.0)[:, None], uniform_one):
        env = ModelEnv(model, starts, horizon=4)
        env.reset(seed=1)
        env.step(np.zeros(1))
        twin = pickle.loads(pickle.dumps(env))
        for one, other in zip(env.step(np.ones(1)), twin.step(np.ones(1)), strict=True):
            assert one == other
        assert env.reset()[0] == twin.reset()[0]


def test_wrong_use_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot be rendered"):
        ModelEnv(counting_model(), Deck([]), horizon=5, render_mode="human")
    env = ModelEnv(counting_model(), Deck([0.0]), horizon=5)
    with pytest.raises(ValueError, match=r"Unknown reset options \['observation'\]"):
        env.reset(options={"observation": np.zeros(1)})
    with pytest.raises(ValueError, match=r"obs must give observations of shape \(1, 1\), got \(1, 2\)"):
        env.reset(options={"obs": np.zeros(2)})


def test_it_says_that_it_is_a_model() -> None:
    env = ModelEnv(counting_model(), Deck([]), horizon=5)
    assert TimeLimit(env, 3).metadata["is_model"] is True
    assert "is_model" not in gymnasium.Env.metadata


def test_an_episode_goes_on_from_its_state() -> None:
    def rest(env: ModelEnv) -> list[float]:
        found = []
        for _ in range(9):
            obs, reward, terminated, truncated, _ = env.step(np.array([0.1], np.float32))
            found += [float(obs[0]), reward]
            if terminated or truncated:
                found.append(float(env.reset()[0][0]))
        return found

    def build() -> ModelEnv:
        return ModelEnv(NoisyModel(), drawn_levels, 4)

    env = build()
    env.reset(seed=3)
    env.step(np.array([0.1], np.float32))
    state = env.state_dict()
    expected = rest(env)
    other = build()
    other.load_state_dict(state)
    assert rest(other) == expected
    assert other.np_random_seed == 3
    unstarted = build()
    unstarted.load_state_dict(build().state_dict())
    with pytest.raises(ResetNeeded):
        unstarted.step(np.array([0.1], np.float32))
