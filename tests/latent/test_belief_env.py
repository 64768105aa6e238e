"""One environment seen through a filter: what is filtered with what, and which infos tell it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.error import ResetNeeded

from mbrl_wrappers.latent import BeliefObservation
from tests.sb3_ext.latent.counting import CountEnv, RecordingModel


def filtered(**kwargs: Any) -> tuple[BeliefObservation, RecordingModel]:
    model: Any = RecordingModel()
    return BeliefObservation(CountEnv(**kwargs), model), model


def test_the_belief_is_that_of_all_readings_and_actions_of_the_episode() -> None:
    env, _ = filtered()
    obs, info = env.reset()
    np.testing.assert_array_equal(obs, [100, 100, 1, 0])  # first, newest, count, sum of model actions
    assert info["sensors"] == [100]
    obs, _, _, _, info = env.step(np.array([1.0], np.float32))
    np.testing.assert_array_equal(obs, [100, 101, 2, 0.5])
    assert (info["sensors_before"], info["sensors"]) == ([100], [101])
    env.step(np.array([2.0], np.float32))
    obs, _, terminated, _, _ = env.step(np.array([-2.0], np.float32))
    assert terminated
    np.testing.assert_array_equal(obs, [100, 103, 4, 0.5])  # the end is filtered with the episode's own belief
    obs, _ = env.reset()
    np.testing.assert_array_equal(obs, [200, 200, 1, 0])
    assert env.interruptions == 0
    env.reset()
    assert env.interruptions == 1


def test_a_model_that_changes_in_mid_episode_infers_the_belief_anew_from_all_of_it() -> None:
    env, model = filtered(length=9)
    env.reset()
    env.step(np.array([1.0], np.float32))
    with th.no_grad():
        model.weight += 7
    np.testing.assert_array_equal(env.current(), [107, 101, 2, 0.5])
    obs = env.step(np.array([1.0], np.float32))[0]
    np.testing.assert_array_equal(obs, [107, 102, 3, 1.0])
    assert env.tracker.times_inferred_anew == 1
    model.load_state_dict({"weight": th.tensor([-1.0])})
    np.testing.assert_array_equal(env.step(np.array([0.0], np.float32))[0], [99, 103, 4, 1.0])
    assert env.tracker.times_inferred_anew == 2


def test_of_a_long_episode_the_newest_readings_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbrl_wrappers.latent.belief_tracker.MAX_REPLAYED", 3)
    env, model = filtered(length=9)
    env.reset()
    for action in (2.0, 2.0, 1.0, -2.0):
        obs = env.step(np.array([action], np.float32))[0]
    np.testing.assert_array_equal(obs, [100, 104, 5, 1.5])
    with th.no_grad():
        model.weight += 7
    np.testing.assert_array_equal(env.current(), [109, 104, 3, -0.5])  # 102, 103 and 104, and the actions between
    env.reset()
    np.testing.assert_array_equal(env.step(np.array([1.0], np.float32))[0], [207, 201, 2, 0.5])


def test_a_copy_for_evaluation_has_a_belief_of_its_own_and_the_same_model() -> None:
    env, model = filtered()
    obs, _ = env.reset()
    copy = env.for_evaluation(CountEnv(offset=8))
    copy.reset()
    copy.step(np.array([2.0], np.float32))
    np.testing.assert_array_equal(env.current(), obs)
    assert copy.model is model
    with pytest.raises(ValueError, match="would end its episodes"):
        env.for_evaluation(env.env)


def test_wrong_pieces_are_refused() -> None:
    _, model = filtered()
    with pytest.raises(ValueError, match="filters the sensors"):
        BeliefObservation(gym.make("Pendulum-v1"), model)  # type: ignore[arg-type]
    other: Any = CountEnv()
    other.action_space = gym.spaces.Discrete(2)
    with pytest.raises(ValueError, match="takes the actions"):
        BeliefObservation(other, model)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="needs a latent model"):
        BeliefObservation(CountEnv(), object())  # type: ignore[arg-type]
    with pytest.raises(ResetNeeded):
        filtered()[0].step(np.zeros(1, np.float32))
