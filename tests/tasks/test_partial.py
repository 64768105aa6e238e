"""Wrappers that hide the state: exact values, spaces and seeds."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mbrl_wrappers.tasks import FrameObservation, MaskedObservation, NoisyObservation, StackedObservation
from mbrl_wrappers.tasks.frames import rod_frame, shrunk


def pendulum() -> gym.Env[Any, Any]:
    return gym.make("Pendulum-v1")


@pytest.mark.filterwarnings("ignore:.*WARN")  # of what is the task's own: its bounds, and that it is wrapped
@pytest.mark.parametrize(
    "env",
    [
        MaskedObservation(pendulum(), [0, 1]),
        NoisyObservation(pendulum(), 0.1),
        StackedObservation(MaskedObservation(pendulum(), [0, 1]), 3),
        StackedObservation(gym.make("CartPole-v1"), 2),
        FrameObservation(pendulum(), 8),
    ],
    ids=lambda env: type(env).__name__,
)
def test_gymnasium_s_checker_accepts_them(env: gym.Env[Any, Any]) -> None:
    check_env(env, skip_render_check=True)


def test_a_mask_shows_the_kept_entries_in_their_order() -> None:
    env, plain = MaskedObservation(pendulum(), [2, 0]), pendulum()
    np.testing.assert_array_equal(env.observation_space.high, [8, 1])  # type: ignore[attr-defined]
    shown, _ = env.reset(seed=3)
    full, _ = plain.reset(seed=3)
    np.testing.assert_array_equal(shown, full[[2, 0]])
    shown, full = env.step(np.array([1.0]))[0], plain.step(np.array([1.0]))[0]
    np.testing.assert_array_equal(shown, full[[2, 0]])


@pytest.mark.parametrize("keep", [[], [0, 0], [3], [-1]])
def test_a_mask_of_impossible_entries_is_refused(keep: list[int]) -> None:
    with pytest.raises(ValueError, match="keep"):
        MaskedObservation(pendulum(), keep)


def test_noise_has_its_size_a_stream_of_its_own_and_follows_the_seed() -> None:
    env, plain = NoisyObservation(pendulum(), [0.0, 0.5, 2.0]), pendulum()
    noise = []
    for episode in range(10):
        shown, full = env.reset(seed=episode)[0], plain.reset(seed=episode)[0]
        noise.append(shown - full)
        for _ in range(199):
            shown, full = env.step(np.array([0.5]))[0], plain.step(np.array([0.5]))[0]
            noise.append(shown - full)
    rows = np.array(noise)
    assert (rows[:, 0] == 0).all()
    np.testing.assert_allclose(rows[:, 1:].std(0), [0.5, 2.0], rtol=0.05)
    np.testing.assert_allclose(rows[:, 1:].mean(0), 0, atol=0.15)
    assert abs(np.corrcoef(rows[:-1, 1], rows[1:, 1])[0, 1]) < 0.1
    np.testing.assert_array_equal(env.reset(seed=4)[0], env.reset(seed=4)[0])


@pytest.mark.parametrize("std", [-0.1, [0.1, 0.1]])
def test_impossible_noise_is_refused(std: Any) -> None:
    with pytest.raises(ValueError, match="std"):
        NoisyObservation(pendulum(), std)


def test_a_stack_shows_old_observations_first_and_then_the_actions_between_them() -> None:
    env, plain = StackedObservation(MaskedObservation(pendulum(), [2]), 3), pendulum()
    seen = [float(plain.reset(seed=0)[0][2])]
    np.testing.assert_allclose(env.reset(seed=0)[0], [seen[0]] * 3 + [0, 0])
    for action in (2.0, -1.0, 0.5):
        seen.append(float(plain.step(np.array([action]))[0][2]))
        shown = env.step(np.array([action]))[0]
    np.testing.assert_allclose(shown, [*seen[-3:], -0.5, 0.25], rtol=1e-6)  # the newest two actions, over 2
    np.testing.assert_allclose(env.reset(seed=0)[0], [seen[0]] * 3 + [0, 0])


def test_frames_of_the_rod_show_where_it_points_and_nothing_else() -> None:
    size = 16
    up, left = rod_frame(0.0, size), rod_frame(np.pi / 2, size)
    assert up[2:8, 7:9].min() > 0.9
    assert up[9:].max() == 0 or up[10:].max() == 0
    np.testing.assert_allclose(left, np.rot90(up), atol=1e-6)  # a quarter turn counter-clockwise
    env: Any = FrameObservation(pendulum(), size)
    shown, _ = env.reset(seed=1)
    angle = env.unwrapped.state[0]
    np.testing.assert_array_equal(shown, rod_frame(angle, size).ravel())
    env.unwrapped.state[1] += 3.0  # another velocity, the same picture
    np.testing.assert_array_equal(env._frame(), shown)


def test_pictures_are_averaged_over_blocks_of_the_middle_square() -> None:
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:2, 2:4] = 255
    picture[2, 4] = [255, 0, 0]
    np.testing.assert_allclose(shrunk(picture, 2), [[1, 0], [0, 1 / 12]])
    with pytest.raises(ValueError, match="draw it larger"):
        shrunk(picture, 5)


def test_a_task_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="rgb_array"):
        FrameObservation(gym.make("CartPole-v1"))
