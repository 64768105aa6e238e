from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize, VecTransposeImage

from mbrl_wrappers.envs import ModelEnv
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from sb3_ext.vec_env import ModelVecEnv
from sb3_ext.vec_env_state import load_vec_env_state, vec_env_state
from tests.envs.paths import ACTIONS, CARDS, SAME_STEP, Deck, NoisyModel, counting_model, drawn_levels
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model


def uniform(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.5, 0.5, (n, 3))


def test_staggered_ends_follow_the_table() -> None:
    env = ModelVecEnv(counting_model(np.float64), Deck(CARDS), 3, horizon=3)
    np.testing.assert_array_equal(env.reset(), [[0], [99], [1500]])
    for expected_obs, expected_reward, terminated, truncated, final_obs, invalid in SAME_STEP:
        obs, reward, dones, infos = env.step(ACTIONS)
        np.testing.assert_array_equal(obs, np.array(expected_obs)[:, None])
        np.testing.assert_allclose(reward, expected_reward)
        np.testing.assert_array_equal(dones, np.logical_or(terminated, truncated))
        assert (obs.dtype, reward.dtype, dones.dtype) == (np.float64, np.float32, bool)
        assert len(infos) == 3
        for info, cut, final, diverged in zip(infos, truncated, final_obs, invalid, strict=True):
            assert info["TimeLimit.truncated"] is cut
            assert info.get("invalid", False) is diverged
            assert ("terminal_observation" in info) == (final is not None)
            if final is not None:
                np.testing.assert_array_equal(info["terminal_observation"], [final])
                assert info["terminal_observation"].dtype == np.float64
    assert env.num_invalid == 1


@pytest.mark.parametrize("make", [OracleEnv, lambda: OracleEnv(np.float64), DiscreteOracleEnv])
def test_it_equals_sb3s_loop_over_single_environments(make) -> None:
    model = oracle_model(make())
    batched = ModelVecEnv(model, uniform, 5, horizon=7)
    looped = DummyVecEnv([lambda: ModelEnv(model, uniform, horizon=7)] * 5)
    for env in (batched, looped):
        env.seed(11)
    np.testing.assert_array_equal(batched.reset(), looped.reset())
    batched.action_space.seed(0)
    ends = 0
    for _ in range(60):
        actions = np.array([batched.action_space.sample() for _ in range(5)])
        mine, theirs = batched.step(actions), looped.step(actions)
        for one, other in zip(mine[:3], theirs[:3], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
            assert one.dtype == other.dtype
        for one, other in zip(mine[3], theirs[3], strict=True):
            assert one.keys() == other.keys()
            assert one["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            if "terminal_observation" in one:
                ends += 1
                np.testing.assert_allclose(
                    one["terminal_observation"], other["terminal_observation"], rtol=0, atol=1e-6
                )
    assert ends > 20


def test_seeds_count_for_the_next_reset_only() -> None:
    env = ModelVecEnv(oracle_model(OracleEnv()), uniform, 3, horizon=5)
    assert env.seed(7) == [7, 8, 9]
    first, onward = env.reset(), env.reset()
    assert (first != onward).all()
    env.seed(7)
    np.testing.assert_array_equal(env.reset(), first)
    np.testing.assert_array_equal(env.reset(), onward)


def test_it_is_pickled_with_an_array_of_starts() -> None:
    model = EnsembleDynamics(OracleEnv().observation_space, OracleEnv().action_space, hidden=(4,), device="cpu")
    env = ModelVecEnv(model, np.arange(30.0).reshape(10, 3) / 30, 3, horizon=2)
    env.seed(5)
    env.reset()
    twin = pickle.loads(pickle.dumps(env))
    for _ in range(4):  # over restarts, with the model's noise
        mine, theirs = (each.step(np.zeros((3, 2))) for each in (env, twin))
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


def test_options_start_rows_at_given_observations_once() -> None:
    model = counting_model()
    env = ModelVecEnv(model, Deck([1.0, 2.0, 3.0]), 2, horizon=5)
    env.set_options([{"obs": np.array([50.0])}, {}])
    np.testing.assert_array_equal(env.reset(), [[50], [1]])
    np.testing.assert_array_equal(env.reset(), [[2], [3]])
    env.set_options({"obs": np.array([60.0])})
    np.testing.assert_array_equal(env.reset(), [[60], [60]])  # draws no start: the deck is empty
    env.set_options(
        [{"obs": np.array([5.0])}, {"obs": np.zeros(1), "state": model.reset(th.ones(1, 1), generator=None)}]
    )
    env.reset()
    np.testing.assert_array_equal(env.step(np.zeros((2, 1)))[0], [[6], [2]])
    env.set_options({"observation": np.zeros(1)})
    with pytest.raises(ValueError, match="Unknown reset options"):
        env.reset()


def test_what_is_returned_is_the_callers_own() -> None:
    env = ModelVecEnv(counting_model(), Deck([0.0, 0.0]), 2, horizon=5)
    kept = [env.reset()]
    for step in range(3):
        kept.append(env.step(np.zeros((2, 1)))[0])
        kept[-1][:] = -1
        np.testing.assert_array_equal(kept[0], [[0], [0]])
        assert (env.get_attr("observation")[0], env.get_attr("elapsed")) == (step + 1, [step + 1] * 2)


def test_attributes_and_methods_of_rows() -> None:
    env = ModelVecEnv(counting_model(), Deck(CARDS), 3, horizon=5)
    env.reset()
    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("index", [2, 0]) == [2, 0]
    assert not env.has_attr("tag")
    env.set_attr("tag", "x", indices=1)
    assert env.get_attr("tag", 1) == ["x"]
    with pytest.raises(AttributeError):
        env.get_attr("tag", 0)
    env.set_attr("horizon", 1, indices=0)
    assert env.horizon == 1
    assert env.step(ACTIONS)[2].all()
    with pytest.raises(ValueError, match="horizon"):
        env.set_attr("horizon", 0)
    assert env.env_is_wrapped(VecMonitor) == [False] * 3
    assert [metadata["is_model"] for metadata in VecNormalize(env).get_attr("metadata")] == [True] * 3
    assert env.env_method("__eq__", 3, indices=[0]) == [NotImplemented]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert env.render() is None
    env.close()


def test_vec_monitor_counts_imagined_returns() -> None:
    env = VecMonitor(ModelVecEnv(counting_model(), Deck(CARDS), 3, horizon=3))
    env.reset()
    seen = {}
    for step in range(3):
        for row, info in enumerate(env.step(ACTIONS)[3]):
            if "episode" in info:
                seen[step, row] = (info["episode"]["r"], info["episode"]["l"])
    assert seen == {(0, 2): (0, 1), (1, 1): (1994, 2), (2, 0): (33, 3)}


@pytest.mark.parametrize("wrapper", [VecMonitor, VecNormalize])
@pytest.mark.parametrize("agent_class", [PPO, A2C, SAC, DQN])
def test_agents_learn_in_it(agent_class, wrapper) -> None:
    real = DiscreteOracleEnv() if agent_class is DQN else OracleEnv(np.float64)
    env = wrapper(ModelVecEnv(oracle_model(real), uniform, 8, horizon=5))
    on_policy = agent_class in (PPO, A2C)
    numbers = {"n_steps": 8} if on_policy else {"learning_starts": 16, "buffer_size": 500}
    agent = agent_class("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, seed=0, **numbers)
    agent.learn(128)
    assert agent.num_timesteps == 128
    if not on_policy:
        # The ends of horizons are cut, not failed: SB3 bootstraps them.
        buffer = agent.replay_buffer
        ended, cut = buffer.dones[: buffer.pos] > 0, buffer.timeouts[: buffer.pos] > 0
        assert ended.sum() >= 20
        assert cut.sum() >= ended.sum() * 0.8
        assert not (cut & ~ended).any()


def test_ppo_bootstraps_the_end_of_the_horizon() -> None:
    """One more step than the horizon: the reward SB3 stores there is the reward plus the value of where it ended."""
    env = ModelVecEnv(oracle_model(OracleEnv()), np.zeros((1, 3)), 2, horizon=1)
    agent = PPO("MlpPolicy", env, n_steps=2, batch_size=4, n_epochs=1, gamma=0.5, learning_rate=0.0, seed=0)
    plain = []
    original = env.step_wait

    def recording():
        result = original()
        plain.append((result[1].copy(), [info["terminal_observation"] for info in result[3]]))
        return result

    env.step_wait = recording
    agent.learn(4)
    for stored, (reward, final) in zip(agent.rollout_buffer.rewards, plain, strict=True):
        with th.no_grad():
            value = agent.policy.predict_values(th.as_tensor(np.array(final))).numpy()[:, 0]
        np.testing.assert_allclose(stored, reward + 0.5 * value, rtol=1e-5)


def test_wrong_use_is_refused() -> None:
    env = ModelVecEnv(counting_model(), Deck(CARDS), 3, horizon=3)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(ACTIONS)
    env.reset()
    with pytest.raises(ValueError, match=r"Expected actions of shape \(3, 1\)"):
        env.step(ACTIONS[0])
    with pytest.raises(ValueError, match="not finite"):
        env.step(ACTIONS * np.nan)
    model = counting_model()
    model.observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    with pytest.raises(TypeError, match="image"):
        VecTransposeImage(ModelVecEnv(model, Deck([]), 3, horizon=3))


def test_a_model_vec_env_goes_on_from_its_state_inside_its_wrappers() -> None:
    """Also what the next reset draws, and a seed that waits for it."""

    def build() -> VecMonitor:
        return VecMonitor(ModelVecEnv(NoisyModel(), drawn_levels, 3, 4))

    def rest(env: VecMonitor) -> np.ndarray:
        found = []
        for number in range(12):
            actions = np.full((3, 1), 0.1, np.float32)
            actions[number % 3] = 0.9
            obs, reward, _, infos = env.step(actions)
            lengths = [info["episode"]["l"] if "episode" in info else 0 for info in infos]
            found.append(np.concatenate([obs[:, 0], reward, lengths]))
        found.append(np.concatenate([env.reset()[:, 0]] * 3))
        return np.array(found)

    env = build()
    env.seed(3)
    fresh = vec_env_state(env)
    env.reset()
    rest(env)
    env.step(np.full((3, 1), 0.1, np.float32))
    state = vec_env_state(env)
    expected = rest(env)
    other = build()
    load_vec_env_state(other, state)
    np.testing.assert_array_equal(rest(other), expected)
    load_vec_env_state(other, fresh)
    first = other.reset()
    again = build()
    again.seed(3)
    np.testing.assert_array_equal(first, again.reset())
