"""Subclasses of known wrappers: recognised where they change nothing, refused where they may change something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import wrappers
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers import ClonedEnvModel, MujocoModel
from mbrl_wrappers.tasks import AngleObservation, ForwardVelocityObservation, task_functions
from mbrl_wrappers.tasks.recognition import is_transparent
from sb3_ext.default_model import known_functions

# Gymnasium's own wrappers round the bounds they are given.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")

BOTH = frozenset({"reward", "termination"})
Env = gymnasium.Env[Any, Any]
Wrap = Callable[[Env], Env]


class AllowedTimeLimit(wrappers.TimeLimit):
    """Steps by itself and truncates as the old Gym did: not when the episode ends anyway (RL Zoo's time limit)."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._elapsed_steps += 1
        if self._elapsed_steps >= self._max_episode_steps:
            info["TimeLimit.truncated"] = not (truncated or terminated)
            truncated = truncated or info["TimeLimit.truncated"]
        return obs, reward, terminated, truncated, info


class OtherName(wrappers.TimeLimit):
    pass


class WithArguments(Monitor):
    def __init__(self, env: Env, colour: str) -> None:
        super().__init__(env)
        self.colour = colour


class Counting(wrappers.RecordEpisodeStatistics):
    taken = 0

    def step(self, action: Any) -> Any:
        self.taken += 1
        return super().step(action)


class Closing(gymnasium.Wrapper):
    def close(self) -> None:
        super().close()


class PayingAtTheLimit(wrappers.TimeLimit):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward + 10.0 * truncated, terminated, truncated, info


class Halving(wrappers.TimeLimit):
    def step(self, action: Any) -> Any:
        return super().step(np.asarray(action) / 2)


class EndingAtTheLimit(wrappers.TimeLimit):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, False, info


class Shifting(Monitor):
    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return (obs + 1, *rest)


class ReadingTheTask(wrappers.TimeLimit):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, float(reward) - self.unwrapped.data.qvel[0] ** 2, *rest


class TakingOtherBounds(wrappers.ClipAction):
    def action(self, action: Any) -> Any:
        return np.clip(action, -0.1, 0.1)


class Clip(wrappers.ClipAction):
    """The same under another name."""


class Velocity(ForwardVelocityObservation):
    pass


class Angle(AngleObservation):
    pass


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: AllowedTimeLimit(env, 7),
        lambda env: OtherName(env, 7),
        lambda env: WithArguments(env, "red"),
        Counting,
        Closing,
        lambda env: Angle(env, [1]),
    ],
)
def test_what_changes_nothing_is_looked_through(wrap: Wrap) -> None:
    functions = task_functions(wrap(gymnasium.make("InvertedPendulum-v5")))
    assert functions.exact == BOTH
    assert functions.notes == ()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: PayingAtTheLimit(env, 500),
        lambda env: Halving(env, 7),
        lambda env: EndingAtTheLimit(env, 500),
        Shifting,
        lambda env: ReadingTheTask(env, 7),
    ],
)
def test_what_changes_something_is_named(wrap: Wrap) -> None:
    env = wrap(gymnasium.make("InvertedPendulum-v5"))
    functions = task_functions(env)
    assert functions.exact == frozenset()
    assert functions.reward_fn is functions.termination_fn is None
    assert type(env).__name__ in functions.notes[-1]


def test_other_bounds_are_not_taken_for_those_of_clip_action() -> None:
    functions = task_functions(TakingOtherBounds(gymnasium.make("Pendulum-v1")))
    assert functions.exact == {"termination"}
    assert "TakingOtherBounds" in functions.notes[-1]


def test_another_name_for_clip_action_is_composed_with() -> None:
    assert task_functions(Clip(gymnasium.make("Pendulum-v1"))).exact == BOTH


def test_a_subclass_of_the_forward_velocity_counts_as_one() -> None:
    assert task_functions(Velocity(gymnasium.make("Hopper-v5"))).exact == BOTH


def test_trying_a_wrapper_leaves_it_and_its_spaces_alone() -> None:
    env = AllowedTimeLimit(gymnasium.make("Pendulum-v1"), 7)
    twin = AllowedTimeLimit(gymnasium.make("Pendulum-v1"), 7)
    for each in (env, twin):
        each.reset(seed=3)
        each.action_space.seed(3)
        each.step(np.zeros(1, np.float32))
    assert is_transparent(env)
    assert env._elapsed_steps == 1
    np.testing.assert_array_equal(env.action_space.sample(), twin.action_space.sample())
    np.testing.assert_array_equal(env.step(np.ones(1, np.float32))[0], twin.step(np.ones(1, np.float32))[0])


def test_the_time_limit_of_rl_zoo_hides_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrappers, "TimeLimit", AllowedTimeLimit)  # as importing rl_zoo3 does
    for task in ("InvertedPendulum-v5", "Pendulum-v1", "CartPole-v1", "Reacher-v5", "MountainCarContinuous-v0"):
        env = gymnasium.make(task)
        assert type(env) is AllowedTimeLimit
        assert task_functions(Monitor(env)).exact == BOTH
    MujocoModel(gymnasium.make("InvertedPendulum-v5"))  # refuses what it does not follow


def test_a_vector_of_such_envs_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrappers, "TimeLimit", AllowedTimeLimit)
    assert known_functions(make_vec_env("InvertedPendulum-v5", n_envs=2)).exact == BOTH


def test_a_copy_goes_without_a_subclass_that_only_watches(tmp_path: Path) -> None:
    class Named(Monitor):
        pass

    env = Named(gymnasium.make("Pendulum-v1"), str(tmp_path / "log"))  # its open file cannot be copied
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    generator = th.Generator()
    state = model.reset(th.as_tensor(obs)[None], generator=generator)
    _, predicted = model.step(state, th.zeros(1, 1), generator=generator)
    following, reward, *_ = env.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(predicted.next_obs[0], following)
    assert float(predicted.reward[0]) == pytest.approx(float(reward))
    env.close()
