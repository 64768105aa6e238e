from __future__ import annotations

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from mbrl_wrappers.envs import ModelEnv, ModelVectorEnv
from tests.envs.paths import ACTIONS, CARDS, SAME_STEP, Deck, NoisyModel, counting_model, drawn_levels
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model

F, T = False, True

# obs, reward, terminated, truncated, invalid per row
NEXT_STEP = [
    ([1, 100, 1500], [1, 992, 0], [F, F, F], [F, F, T], [F, F, T]),
    ([2, 101, 20], [11, 1002, 0], [F, T, F], [F, F, F], [F, F, F]),
    ([3, 30, 21], [21, 0, 203], [F, F, F], [T, F, F], [F, F, F]),
    ([40, 31, 22], [0, 302, 213], [F, F, F], [F, F, F], [F, F, F]),
    ([41, 32, 23], [401, 312, 223], [F, F, F], [F, F, T], [F, F, F]),
    ([42, 33, 50], [411, 322, 0], [F, F, F], [F, T, F], [F, F, F]),
    ([43, 98, 51], [421, 0, 503], [F, F, F], [T, F, F], [F, F, F]),
    ([60, 99, 52], [0, 982, 513], [F, F, F], [F, F, F], [F, F, F]),
]


def uniform(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.5, 0.5, (n, 3))


def test_same_step_follows_the_table() -> None:
    env = ModelVectorEnv(counting_model(np.float64), Deck(CARDS), 3, horizon=3, autoreset_mode=AutoresetMode.SAME_STEP)
    obs, info = env.reset()
    np.testing.assert_array_equal(obs, [[0], [99], [1500]])
    assert info == {}
    for expected_obs, expected_reward, expected_terminated, expected_truncated, final_obs, invalid in SAME_STEP:
        obs, reward, terminated, truncated, info = env.step(ACTIONS)
        np.testing.assert_array_equal(obs, np.array(expected_obs)[:, None])
        np.testing.assert_allclose(reward, expected_reward)
        np.testing.assert_array_equal(terminated, expected_terminated)
        np.testing.assert_array_equal(truncated, expected_truncated)
        assert (obs.dtype, reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.float64, bool, bool)
        over = np.array([final is not None for final in final_obs])
        if not over.any():
            assert info == {}
            continue
        np.testing.assert_array_equal(info["_final_obs"], over)
        np.testing.assert_array_equal(info["_final_info"], over)
        for row, final in enumerate(final_obs):
            np.testing.assert_array_equal(info["final_obs"][row], None if final is None else [final])
        np.testing.assert_array_equal(info["final_info"].get("invalid", np.zeros(3, bool)), invalid)
        np.testing.assert_array_equal(info["final_info"].get("_invalid", np.zeros(3, bool)), invalid)
    assert env.num_invalid == 1


def test_next_step_follows_the_table() -> None:
    env = ModelVectorEnv(counting_model(), Deck(CARDS), 3, horizon=3, autoreset_mode="NextStep")
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs, [[0], [99], [1500]])
    for expected_obs, expected_reward, expected_terminated, expected_truncated, invalid in NEXT_STEP:
        obs, reward, terminated, truncated, info = env.step(ACTIONS)
        np.testing.assert_array_equal(obs, np.array(expected_obs)[:, None])
        np.testing.assert_allclose(reward, expected_reward)
        np.testing.assert_array_equal(terminated, expected_terminated)
        np.testing.assert_array_equal(truncated, expected_truncated)
        assert "final_obs" not in info
        np.testing.assert_array_equal(info.get("invalid", np.zeros(3, bool)), invalid)
    assert env.num_invalid == 1


def test_disabled_waits_for_the_caller() -> None:
    env = ModelVectorEnv(counting_model(), Deck(CARDS), 3, horizon=3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset()
    obs, _, _, truncated, _ = env.step(ACTIONS)
    np.testing.assert_array_equal(obs, [[1], [100], [1500]])
    with pytest.raises(ResetNeeded, match=r"rows \[2\] are over"):
        env.step(ACTIONS)
    options = {"reset_mask": truncated}
    obs, _ = env.reset(options=options)
    np.testing.assert_array_equal(obs, [[1], [100], [20]])
    assert "reset_mask" in options  # the caller's dict stays as it was
    obs, reward, terminated, _, _ = env.step(ACTIONS)
    np.testing.assert_array_equal(obs, [[2], [101], [21]])
    np.testing.assert_allclose(reward, [11, 1002, 203])
    obs, _ = env.reset(options={"reset_mask": terminated, "obs": [[50.0]]})
    np.testing.assert_array_equal(obs, [[2], [50], [21]])


def test_a_row_that_was_not_restarted_is_still_over() -> None:
    env = ModelVectorEnv(counting_model(), Deck(CARDS), 3, horizon=1, autoreset_mode=AutoresetMode.DISABLED)
    env.reset()
    assert env.step(ACTIONS)[3].all()
    env.reset(options={"reset_mask": np.array([False, True, False])})
    with pytest.raises(ResetNeeded, match=r"rows \[0, 2\] are over"):
        env.step(ACTIONS)
    env.reset(options={"reset_mask": np.array([True, False, True])})
    env.step(ACTIONS)


@pytest.mark.parametrize("mode", list(AutoresetMode)[:2])
@pytest.mark.parametrize("make", [OracleEnv, DiscreteOracleEnv])
def test_it_equals_gymnasiums_loop_over_single_environments(make, mode) -> None:
    model = oracle_model(make())
    batched = ModelVectorEnv(model, uniform, 5, horizon=7, autoreset_mode=mode)
    looped = SyncVectorEnv([lambda: ModelEnv(model, uniform, horizon=7)] * 5, autoreset_mode=mode)
    assert batched.observation_space == looped.observation_space
    assert batched.action_space == looped.action_space
    np.testing.assert_array_equal(batched.reset(seed=11)[0], looped.reset(seed=11)[0])
    batched.action_space.seed(0)
    kinds = np.zeros(2, int)
    for _ in range(100):
        actions = batched.action_space.sample()
        mine, theirs = batched.step(actions), looped.step(actions)
        for one, other in zip(mine[:4], theirs[:4], strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        assert mine[4].keys() == theirs[4].keys()
        for row in np.flatnonzero(mine[4].get("_final_obs", [])):
            np.testing.assert_allclose(mine[4]["final_obs"][row], theirs[4]["final_obs"][row], rtol=0, atol=1e-6)
        kinds += [mine[2].sum(), mine[3].sum()]
    assert kinds.min() > 3


def test_a_seed_per_row_and_streams_that_go_on() -> None:
    env = ModelVectorEnv(oracle_model(OracleEnv()), uniform, 3, horizon=5)
    whole, _ = env.reset(seed=4)
    np.testing.assert_array_equal(env.reset(seed=[4, 5, 6])[0], whole)
    onward, _ = env.reset()
    assert (onward != whole).all()
    mixed, _ = env.reset(seed=[4, None, 6])
    np.testing.assert_array_equal(mixed[[0, 2]], whole[[0, 2]])
    assert (mixed[1] != whole[1]).all()
    with pytest.raises(ValueError, match="one seed per row, 3, got 2"):
        env.reset(seed=[1, 2])


def test_zero_is_a_seed_as_any_other() -> None:
    env = ModelVectorEnv(oracle_model(OracleEnv()), uniform, 3, horizon=5)
    first, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)


def test_gymnasiums_vector_wrappers_work() -> None:
    env = RecordEpisodeStatistics(
        ModelVectorEnv(counting_model(), Deck(CARDS), 3, horizon=3, autoreset_mode="NextStep")
    )
    env.reset()
    returns = {}
    for step in range(3):
        info = env.step(ACTIONS)[4]
        for row in np.flatnonzero(info.get("_episode", [])):
            returns[step, int(row)] = info["episode"]["r"][row]
    assert returns == {(0, 2): 0, (1, 1): 1994, (2, 0): 33}


def test_wrong_use_is_refused() -> None:
    model = counting_model()
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1"):
        ModelVectorEnv(model, Deck([]), 0, horizon=3)
    with pytest.raises(ValueError, match="not a valid AutoresetMode"):
        ModelVectorEnv(model, Deck([]), 2, horizon=3, autoreset_mode="never")
    env = ModelVectorEnv(model, Deck(CARDS), 3, horizon=3)
    with pytest.raises(ResetNeeded, match="never started"):
        env.step(ACTIONS)
    with pytest.raises(ResetNeeded, match="Start all rows once"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset()
    with pytest.raises(ValueError, match=r"Expected actions of shape \(3, 1\)"):
        env.step(ACTIONS[:2])
    for mask in (np.zeros(3, bool), np.ones(2, bool), np.ones(3)):
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="Unknown reset options"):
        env.reset(options={"mask": np.ones(3, bool)})


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_episodes_go_on_from_their_state(mode: str) -> None:
    def rest(env: ModelVectorEnv) -> np.ndarray:
        found = []
        for number in range(12):
            actions = np.full((3, 1), 0.1, np.float32)
            actions[number % 3] = 0.9
            obs, reward, *_ = env.step(actions)
            found.append(np.concatenate([obs[:, 0], reward]))
        return np.array(found)

    def build() -> ModelVectorEnv:
        return ModelVectorEnv(NoisyModel(), drawn_levels, 3, 4, autoreset_mode=mode)

    env = build()
    env.reset(seed=3)
    rest(env)
    state = env.state_dict()
    expected = rest(env), env.reset()[0]
    other = build()
    other.load_state_dict(state)
    np.testing.assert_array_equal(rest(other), expected[0])
    np.testing.assert_array_equal(other.reset()[0], expected[1])
