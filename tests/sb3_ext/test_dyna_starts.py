"""Where the callback's branches begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers import UniformStarts
from sb3_ext import DynaCallback
from tests.oracle import oracle_model
from tests.sb3_ext.dyna_agents import SMALL, make_agent, oracle_env, small_callback


def imagined_starts(callback: DynaCallback, algorithm: type[BaseAlgorithm] = SAC) -> Any:
    agent = make_agent(algorithm, oracle_env(discrete=algorithm is DQN))
    agent.learn(60, callback=callback)
    synthetic = agent.replay_buffer.synthetic
    return synthetic.take(np.arange(len(synthetic))).obs if len(synthetic) else np.zeros((0, 3), np.float32)


def test_branches_begin_in_the_box() -> None:
    box = UniformStarts([-0.2, 0.1, 0.3], [-0.1, 0.2, 0.3])
    drawn = imagined_starts(DynaCallback(oracle_model(oracle_env()), SMALL, starts=box))
    assert len(drawn) == 60
    assert (drawn >= np.float32(box.low)).all()
    assert (drawn <= np.float32(box.high)).all()
    assert drawn[:, :2].std(0).min() > 0.02


def test_starts_that_the_model_knows_nothing_of_are_left_out() -> None:
    """The limits of an ensemble are the range of its data, widened by its width on both sides."""
    callback = small_callback(oracle_env(), starts=UniformStarts([-50, -50, -50], [50, 50, 50]))
    with pytest.warns(UserWarning, match="None of the starts is near the real data"):
        assert len(imagined_starts(callback)) == 0
    callback = small_callback(oracle_env(), starts=lambda n, rng: np.stack([np.full(3, 1e3), *np.zeros((n - 1, 3))]))
    drawn = imagined_starts(callback)
    assert len(drawn) > 0
    assert not drawn.any()


def test_what_was_left_out_is_drawn_anew() -> None:
    """Half of the starts are far off: rounds are as large as asked for, and so rows live as long as they should."""
    calls = []

    def half(n: int, rng: np.random.Generator) -> Any:
        calls.append(n)
        return np.where(np.arange(n)[:, None] % 2, 0.1, 1e3) * np.ones((1, 3))

    callback = small_callback(oracle_env(), starts=half)
    drawn = imagined_starts(callback)
    assert len(drawn) == SMALL.rollouts_per_step * SMALL.retain_steps
    np.testing.assert_array_equal(drawn, np.float32(0.1))
    assert len(calls) == 2 * 5  # two draws in each of the rounds at 20, 30 ... 60
    assert set(calls) == {SMALL.rollouts_per_step * SMALL.rollout_freq}


def test_agents_with_discrete_actions_take_them_too() -> None:
    callback = small_callback(oracle_env(discrete=True), starts=UniformStarts([0, 0, 0], [0, 0, 0]))
    drawn = imagined_starts(callback, DQN)
    assert len(drawn) > 0
    assert not drawn.any()


def test_a_box_of_another_size_is_refused_before_the_first_step() -> None:
    agent = make_agent(SAC, oracle_env())
    with pytest.raises(ValueError, match="2 dimensions and an observation 3"):
        agent.learn(10, callback=DynaCallback(starts=UniformStarts([0, 0], [1, 1])))
    assert agent.num_timesteps == 0
