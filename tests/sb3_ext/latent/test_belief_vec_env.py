"""Several environments seen through one filter: no row touches another one's belief."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.latent import BeliefObservation, LatentOptions, LatentStateSpaceModel, LinearGaussianModel
from mbrl_wrappers.linear_system import NOISY_POSITION
from mbrl_wrappers.tasks.lqg import NAME
from sb3_ext.latent import BeliefVecEnv
from tests.sb3_ext.latent.counting import ACTIONS, SENSORS, CountEnv, RecordingModel


def counted(*lengths: int) -> tuple[BeliefVecEnv, RecordingModel]:
    model: Any = RecordingModel()
    envs = DummyVecEnv([lambda n=n, i=i: CountEnv(n, 10 * i) for i, n in enumerate(lengths)])  # type: ignore[misc]
    return BeliefVecEnv(envs, model), model


def test_ends_are_filtered_with_the_old_belief_and_other_rows_go_on() -> None:
    env, _ = counted(2, 9)
    np.testing.assert_array_equal(env.reset(), [[100, 100, 1, 0], [1100, 1100, 1, 0]])
    actions = np.array([[1.0], [-1.0]], np.float32)
    np.testing.assert_array_equal(env.step(actions)[0], [[100, 101, 2, 0.5], [1100, 1101, 2, -0.5]])
    obs, _, dones, infos = env.step(actions)
    assert dones.tolist() == [True, False]
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [100, 102, 3, 1.0])
    assert (infos[0]["sensors_before"], infos[0]["sensors"]) == ([101], [102])
    np.testing.assert_array_equal(obs, [[200, 200, 1, 0], [1100, 1102, 3, -1.0]])
    obs, _, _, infos = env.step(actions)
    np.testing.assert_array_equal(obs, [[200, 201, 2, 0.5], [1100, 1103, 4, -1.5]])
    assert (infos[0]["sensors_before"], infos[0]["sensors"]) == ([200], [201])


def test_rows_of_unequal_age_are_inferred_anew_after_a_refit() -> None:
    env, model = counted(2, 9)
    env.reset()
    actions = np.array([[1.0], [-1.0]], np.float32)
    for _ in range(3):
        env.step(actions)
    with th.no_grad():
        model.weight += 5
    np.testing.assert_array_equal(env.current(), [[205, 201, 2, 0.5], [1105, 1103, 4, -1.5]])
    obs = env.step(actions)[0]
    np.testing.assert_array_equal(obs, [[305, 300, 1, 0], [1105, 1104, 5, -2.0]])
    assert env.tracker.times_inferred_anew == 1


def test_draws_of_a_row_do_not_depend_on_when_others_end() -> None:
    options = LatentOptions(latent_size=3, summary="none", hidden=(8,), encoder_hidden=(8,))
    model = LatentStateSpaceModel(SENSORS, ACTIONS, options=options, form="state", device="cpu")

    def second_row(length_of_first: int) -> np.ndarray[Any, Any]:
        envs = DummyVecEnv([lambda: CountEnv(length_of_first), lambda: CountEnv(50, 10)])
        env = BeliefVecEnv(envs, model, seed=4)
        env.reset()
        return np.stack([env.step(np.ones((2, 1), np.float32))[0][1] for _ in range(9)])

    np.testing.assert_array_equal(second_row(2), second_row(3))


def test_draws_of_a_belief_inferred_anew_do_not_depend_on_the_length_of_other_episodes() -> None:
    options = LatentOptions(latent_size=3, summary="none", hidden=(8,), encoder_hidden=(8,))
    model = LatentStateSpaceModel(SENSORS, ACTIONS, options=options, form="state", device="cpu")

    def second_row(length_of_first: int) -> np.ndarray[Any, Any]:
        envs = DummyVecEnv([lambda: CountEnv(length_of_first), lambda: CountEnv(50, 10)])
        env = BeliefVecEnv(envs, model, seed=4)
        env.reset()
        for _ in range(7):
            env.step(np.ones((2, 1), np.float32))
        with th.no_grad():
            next(model.parameters()).add_(0.0)  # counts as a change
        shown: np.ndarray[Any, Any] = env.current()[1]
        assert env.tracker.times_inferred_anew == 1
        return shown

    np.testing.assert_array_equal(second_row(5), second_row(50))


def test_the_vector_form_of_one_row_shows_what_the_single_form_shows() -> None:
    model: Any = RecordingModel()
    env, single = BeliefVecEnv(DummyVecEnv([CountEnv]), model), BeliefObservation(CountEnv(), model)
    np.testing.assert_array_equal(env.reset()[0], single.reset()[0])
    for action in (0.5, -1.0, 2.0):
        shown, _, dones, infos = env.step(np.array([[action]], np.float32))
        obs = single.step(np.array([action], np.float32))[0]
        np.testing.assert_array_equal(infos[0]["terminal_observation"] if dones[0] else shown[0], obs)


def test_the_real_system_behind_the_filter_gives_the_return_of_the_belief_form() -> None:
    count = 100
    exact: Any = LinearGaussianModel(NOISY_POSITION, ACTIONS_OF_SYSTEM)
    env = BeliefVecEnv(DummyVecEnv([lambda: gym.make(NAME)] * count), exact, seed=0)
    env.seed(0)
    obs, total = env.reset(), np.zeros(count)
    for gain in NOISY_POSITION.control_gains():
        obs, reward, dones, _ = env.step(np.clip(-obs[:, :2] @ gain.T, -10, 10).astype(np.float32))
        total += reward
    assert dones.all()
    # 100 episodes with a standard deviation of 16.6.
    assert total.mean() == pytest.approx(NOISY_POSITION.expected_return(observed=False), abs=3 * 1.66)


ACTIONS_OF_SYSTEM: Any = gym.make(NAME).action_space


def test_shared_and_wrong_environments_are_refused() -> None:
    env, model = counted(2)
    with pytest.raises(ValueError, match="would end its episodes"):
        env.for_evaluation(env.venv)
    inner: Any = env.venv
    with pytest.raises(ValueError, match="would end its episodes"):
        env.for_evaluation(DummyVecEnv([lambda: inner.envs[0]]))
    with pytest.raises(ValueError, match="filters the sensors"):
        BeliefVecEnv(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), model)  # type: ignore[arg-type]
    assert env.for_evaluation(DummyVecEnv([CountEnv])).model is model
