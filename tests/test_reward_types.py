"""Rewards that are no Python float: tasks of MuJoCo return integers, others scalars and arrays without dimensions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC

from mbrl_wrappers import TransitionStore
from tests.sb3_ext.dyna_agents import make_agent, small_callback

BOX = spaces.Box(-1, 1, (2,), np.float32)


class Paying(gym.Env[Any, Any]):
    """Pays the same reward at each step, in whatever type it is given."""

    observation_space = BOX
    action_space = BOX

    def __init__(self, reward: Any) -> None:
        self.reward, self.steps = reward, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.full(2, self.steps / 20, np.float32), self.reward, False, self.steps >= 10, {}


@pytest.mark.parametrize("reward", [2, True, np.float64(2), np.int32(2), np.array(2.0), np.array(2)])
def test_a_reward_of_any_scalar_type_is_a_float(reward: Any) -> None:
    expected = float(reward)
    store = TransitionStore(4, BOX, BOX)
    store.add(np.zeros(2, np.float32), np.zeros(2), reward, np.ones(2, np.float32), False, False)
    rows = store.transitions().reward
    assert (rows.dtype.itemsize, rows.tolist()) == (4, [expected])
    agent = make_agent(SAC, Paying(reward))
    agent.learn(25, callback=small_callback(Paying(reward)))
    assert agent.replay_buffer.rewards[:25].tolist() == [[expected]] * 25
    predicted = agent.replay_buffer.synthetic
    assert len(predicted) > 0
