"""Observation wrappers: values, spaces, and refusals that say what to do."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import DtypeObservation

from mbrl_wrappers.tasks import AngleObservation, ForwardVelocityObservation

RUNNERS = {"Hopper-v5": 1, "Walker2d-v5": 1, "HalfCheetah-v5": 1, "Swimmer-v5": 2, "Ant-v5": 2, "Humanoid-v5": 2}


@pytest.mark.parametrize("task", RUNNERS)
@pytest.mark.parametrize("shown", [False, True])
def test_velocity_replaces_position(task: str, shown: bool) -> None:
    env = gymnasium.make(task, exclude_current_positions_from_observation=not shown)
    wrapped = ForwardVelocityObservation(env)
    unwrapped: Any = env.unwrapped
    obs, _ = wrapped.reset(seed=0)
    assert obs[-1] == 0
    for _ in range(3):
        obs, _, terminated, _, info = wrapped.step(wrapped.action_space.sample())
        hidden = RUNNERS[task] if shown else 0
        np.testing.assert_array_equal(obs[:-1], unwrapped._get_obs()[hidden:])
        assert obs[-1] == info["x_velocity"]
        assert wrapped.observation_space.contains(obs)
        assert not terminated
    obs, _ = wrapped.reset()
    assert obs[-1] == 0


def test_both_layouts_are_the_same() -> None:
    envs = [gymnasium.make("Ant-v5", exclude_current_positions_from_observation=excluded) for excluded in (True, False)]
    first, second = (ForwardVelocityObservation(env) for env in envs)
    assert first.observation_space == second.observation_space
    np.testing.assert_array_equal(first.reset(seed=3)[0], second.reset(seed=3)[0])
    action = first.action_space.sample()
    np.testing.assert_array_equal(first.step(action)[0], second.step(action)[0])


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")
def test_velocity_keeps_the_dtype_and_options_reach_the_environment() -> None:
    wrapped = ForwardVelocityObservation(DtypeObservation(gymnasium.make("Hopper-v5"), np.float32))
    obs, info = wrapped.reset(seed=0, options={})
    assert obs.dtype == wrapped.observation_space.dtype == np.float32
    assert wrapped.step(wrapped.action_space.sample())[0].dtype == np.float32
    assert "x_position" in info


@pytest.mark.parametrize("task", ["Pendulum-v1", "HumanoidStandup-v5", "Reacher-v5"])
def test_velocity_refuses_other_tasks(task: str) -> None:
    with pytest.raises(
        TypeError, match="knows the v5 tasks Hopper, Walker2d, HalfCheetah, Swimmer, Ant, Humanoid, not"
    ):
        ForwardVelocityObservation(gymnasium.make(task))


def test_velocity_refuses_an_observation_that_was_changed_already() -> None:
    with pytest.raises(ValueError, match="directly around the task"):
        ForwardVelocityObservation(AngleObservation(gymnasium.make("Hopper-v5"), [1]))


def test_angles_become_sines_and_cosines() -> None:
    env = gymnasium.make("InvertedPendulum-v5")
    wrapped = AngleObservation(env, [1])
    assert wrapped.observation_space.shape == (5,)
    assert isinstance(wrapped.observation_space, gymnasium.spaces.Box)
    np.testing.assert_array_equal(wrapped.observation_space.high, [np.inf, np.inf, np.inf, 1, 1])
    row = np.array([0.5, 7.0, -1.0, 2.0])
    np.testing.assert_array_equal(wrapped.observation(row), [0.5, -1.0, 2.0, np.sin(7.0), np.cos(7.0)])
    several = AngleObservation(gymnasium.make("HalfCheetah-v5"), [3, 1])
    row = np.arange(17.0)
    expected = [0, 2, *range(4, 17), np.sin(3), np.sin(1), np.cos(3), np.cos(1)]
    np.testing.assert_allclose(several.observation(row), expected, rtol=1e-15)


@pytest.mark.parametrize("indices", [[4], [-1], [1, 1]])
def test_angles_must_exist_once(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="each once, from 0 to 3"):
        AngleObservation(gymnasium.make("InvertedPendulum-v5"), indices)


@pytest.mark.filterwarnings("ignore:.*WARN.*:UserWarning")
def test_wrapped_environments_pass_the_checker_and_are_rebuilt_from_their_spec() -> None:
    env = AngleObservation(ForwardVelocityObservation(gymnasium.make("Hopper-v5")), [1])
    check_env(env, skip_render_check=True)
    assert env.spec is not None
    again = gymnasium.make(env.spec)
    assert again.observation_space == env.observation_space
    np.testing.assert_array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])
