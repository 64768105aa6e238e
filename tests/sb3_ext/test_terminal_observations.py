"""The last observations of episodes reach the model as the environment gave them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from mbrl_wrappers import FunctionModel
from sb3_ext import DynaCallback
from tests.sb3_ext.dyna_agents import SMALL, make_agent


class Fall(gymnasium.Env[Any, Any]):
    """Small numbers, until the tenth step ends the episode at ``[50, -0.05]``; ``cut`` makes it a time limit."""

    def __init__(self, cut: bool = False, one_array: bool = False) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,))
        self.action_space: spaces.Space[Any] = spaces.Box(-1, 1, (1,))
        self._cut, self._one_array, self._array = cut, one_array, np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._time = 0
        return self._shown(self.np_random.uniform(-0.1, 0.1, 2)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._time += 1
        over = self._time == 10
        place = np.array([50.0, -0.05]) if over else self.np_random.uniform(-0.1, 0.1, 2)
        return self._shown(place), 1.0, over and not self._cut, over and self._cut, {}

    def _shown(self, place: Any) -> Any:
        if not self._one_array:
            return place.astype(np.float32)
        self._array[:] = place
        return self._array


def callback() -> DynaCallback:
    env = Fall()
    model = FunctionModel(env.observation_space, env.action_space, lambda o, a: (o, o[:, 0], o[:, 0] > 9))
    return DynaCallback(model, SMALL)


def ends(agent: Any) -> Any:
    buffer = agent.replay_buffer
    steps = buffer.size()
    return buffer.next_observations[:steps][buffer.dones[:steps].astype(bool)]


def make_fall() -> Fall:
    return Fall()


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("clip", [10.0, 5.0])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_what_vec_normalize_clips_is_stored_as_it_was(n_envs: int, clip: float, cut: bool) -> None:
    """Ten deviations of numbers around 0.1, or fewer, stood for 50."""
    env = VecNormalize(DummyVecEnv([lambda: Fall(cut)] * n_envs), clip_obs=clip)
    agent = make_agent(SAC, VecMonitor(env), gradient_steps=0)
    agent.learn(60, callback=callback())
    agent.learn(40, callback=callback(), reset_num_timesteps=False)
    np.testing.assert_allclose(ends(agent), [[50.0, -0.05]] * (100 // 10), rtol=1e-6)


def test_what_vec_normalize_clips_in_other_processes_is_stored_as_it_was() -> None:
    env = VecNormalize(SubprocVecEnv([make_fall] * 2, start_method="fork"))
    try:
        agent = make_agent(SAC, env, gradient_steps=0)
        agent.learn(60, callback=callback())
    finally:
        env.close()
    np.testing.assert_allclose(ends(agent), [[50.0, -0.05]] * 6, rtol=1e-6)


def test_evaluation_beside_it_still_finds_the_statistics() -> None:
    """It walks through the wrappers of both environments in step."""
    env, evaluated = VecNormalize(DummyVecEnv([Fall])), VecNormalize(DummyVecEnv([Fall]), training=False)
    agent = make_agent(SAC, env, gradient_steps=0)
    evaluation = EvalCallback(evaluated, eval_freq=20, n_eval_episodes=1, verbose=0, warn=False)
    agent.learn(40, callback=[callback(), evaluation])
    np.testing.assert_array_equal(evaluated.obs_rms.mean, env.obs_rms.mean)  # type: ignore[union-attr]


def test_without_the_callback_clipping_is_told() -> None:
    agent = make_agent(SAC, VecNormalize(DummyVecEnv([Fall])), gradient_steps=0)
    with pytest.warns(UserWarning, match="VecNormalize has clipped the last observation") as told:
        agent.learn(40)
    assert len(told) == 1


class Forgets(VecEnvWrapper):
    """A vector environment that keeps no terminal observations."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            info.pop("terminal_observation", None)
        return obs, rewards, dones, infos


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_a_lost_last_observation_is_told(cut: bool, normalize: bool) -> None:
    env: Any = Forgets(DummyVecEnv([lambda: Jumps(cut)] * 2))
    agent = make_agent(SAC, VecNormalize(env) if normalize else env, gradient_steps=0)
    with pytest.warns(UserWarning, match="first observation of the next") as told:
        agent.learn(80)
    assert len(told) == 1


@pytest.mark.parametrize("normalize", [False, True])
def test_an_environment_that_writes_into_one_array_is_told(normalize: bool) -> None:
    env: Any = DummyVecEnv([lambda: Jumps(one_array=True)])
    agent = make_agent(SAC, VecNormalize(env) if normalize else env, gradient_steps=0)
    with pytest.warns(UserWarning, match="first observation of the next"):
        agent.learn(40)


@pytest.mark.parametrize("cut", [False, True])
def test_an_environment_that_keeps_its_last_observations_is_not_warned_of(cut: bool) -> None:
    agent = make_agent(SAC, DummyVecEnv([lambda: Jumps(cut)] * 2), gradient_steps=0)
    agent.learn(80)
    assert len(ends(agent)) == 8


class Jumps(Fall):
    """Walks away from its start by about 0.1 a step; the next episode begins a long way back."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._time += 1
        over = self._time == 10
        place = np.full(2, 0.1 * self._time) + self.np_random.uniform(-0.02, 0.02, 2)
        return self._shown(place), 1.0, over and not self._cut, over and self._cut, {}
