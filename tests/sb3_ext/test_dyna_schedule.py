"""When the callback fits and rolls out, and how much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers import EnsembleDynamics, FitConfig, RolloutLength, Trainer
from sb3_ext import DynaCallback, DynaConfig
from tests.sb3_ext.dyna_agents import SMALL, make_agent, oracle_env, small_callback


def test_rollout_length_follows_its_schedule_in_real_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("sb3_ext.callbacks.branched_rollout", _recording(seen))
    config = DynaConfig(
        model_train_freq=20,
        rollout_freq=20,
        rollouts_per_step=2,
        rollout_length=RolloutLength(20, 60, 1, 3),
        min_real_rows=20,
    )
    agent = make_agent(SAC, oracle_env())
    agent.learn(80, callback=small_callback(oracle_env(), config))
    assert seen == [(40, 1), (40, 2), (40, 3), (40, 3)]


def _recording(seen: list[tuple[int, int]]) -> Any:
    from mbrl_wrappers.rollout import branched_rollout

    def record(model: Any, policy: Any, starts: th.Tensor, length: int, **kwargs: Any) -> Any:
        seen.append((len(starts), length))
        return branched_rollout(model, policy, starts, length, **kwargs)

    return record


def test_episode_training_and_two_environments_trigger_on_crossed_thresholds() -> None:
    agent = make_agent(SAC, DummyVecEnv([oracle_env] * 3), train_freq=5, gradient_steps=-1)
    callback = small_callback(
        oracle_env(), DynaConfig(model_train_freq=40, rollout_freq=20, rollouts_per_step=2, min_real_rows=20)
    )
    agent.learn(120, callback=callback)  # rollouts end at 15, 30, 45 ... : fits at 30, 75, 120
    assert callback._fits == 3


def test_a_second_learn_goes_on_with_the_schedule() -> None:
    agent = make_agent(SAC, oracle_env())
    callback = small_callback(oracle_env())
    agent.learn(20, callback=callback)
    for _ in range(15):
        agent.learn(4, callback=callback, reset_num_timesteps=False)
    assert agent.num_timesteps == 80
    assert callback._fits == 4  # at 20, 40, 60 and 80


def test_nothing_is_fitted_before_learning_starts() -> None:
    agent = make_agent(SAC, oracle_env(), learning_starts=50)
    callback = small_callback(oracle_env())
    with pytest.warns(UserWarning, match="learning_starts"):
        agent.learn(49, callback=callback)
    assert callback._fits == 0
    agent.learn(2, callback=callback, reset_num_timesteps=False)
    assert callback._fits == 1


def test_the_first_fit_has_a_cap_of_its_own() -> None:
    caps = []

    class Spy(Trainer):
        def fit(self, *args: Any, **kwargs: Any) -> Any:
            caps.append(kwargs["max_gradient_steps"])
            return super().fit(*args, **kwargs)

    env = oracle_env()
    dynamics = EnsembleDynamics(env.observation_space, env.action_space, hidden=(8,), device="cpu")
    config = replace(SMALL, first_fit_gradient_steps=9)
    callback = DynaCallback(dynamics, config, trainer=Spy(dynamics, FitConfig(max_gradient_steps=2)))
    make_agent(SAC, env).learn(60, callback=callback)
    assert caps == [9, None, None]


def test_a_ring_that_is_too_small_takes_fewer_branches_and_not_only_their_ends() -> None:
    agent = make_agent(SAC, oracle_env(), batch_size=8, replay_buffer_kwargs={"synthetic_size": 12})
    config = replace(SMALL, rollouts_per_step=100, rollout_length=3)
    agent.learn(20, callback=small_callback(oracle_env(), config))
    synthetic = agent.replay_buffer.synthetic
    assert synthetic.capacity == 12
    rows = synthetic.take(np.arange(len(synthetic))).obs
    real = {tuple(row) for row in agent.replay_buffer.real_transitions().obs.tolist()}
    assert sum(tuple(row) in real for row in rows.tolist()) == 4


def test_the_capacity_follows_the_branch_length() -> None:
    agent = make_agent(SAC, oracle_env())
    agent.learn(30, callback=small_callback(oracle_env(), replace(SMALL, rollout_length=4)))
    assert agent.replay_buffer.synthetic.capacity == 3 * 20 * 4
