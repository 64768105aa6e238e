"""Wrong use of the callback is told what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import EveryNTimesteps

from sb3_ext import DynaCallback, DynaConfig
from tests.oracle import oracle_model
from tests.sb3_ext.dyna_agents import make_agent, oracle_env, small_callback


def test_a_stock_buffer_is_named() -> None:
    agent = make_agent(SAC, oracle_env(), replay_buffer_class=ReplayBuffer)
    with pytest.raises(TypeError, match="replay_buffer_class=MixedReplayBuffer"):
        agent.learn(10, callback=DynaCallback())


def test_an_on_policy_agent_is_sent_to_imagination() -> None:
    agent = PPO("MlpPolicy", oracle_env(), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(TypeError, match="learn_in_imagination"):
        agent.learn(8, callback=DynaCallback())


def test_n_step_returns_are_refused() -> None:
    with pytest.warns(UserWarning, match="n_steps=3"):
        agent = make_agent(SAC, oracle_env(), n_steps=3)
    with pytest.raises(ValueError, match="n_steps"):
        agent.learn(10, callback=DynaCallback())


def test_a_child_of_an_event_callback_is_refused() -> None:
    agent = make_agent(SAC, oracle_env())
    with pytest.raises(ValueError, match="EveryNTimesteps"):
        agent.learn(10, callback=EveryNTimesteps(5, small_callback(oracle_env())))


def test_a_model_of_another_task_is_refused() -> None:
    agent = make_agent(SAC, "Pendulum-v1")
    with pytest.raises(ValueError, match="build it for this task"):
        agent.learn(10, callback=small_callback(oracle_env()))


def test_a_buffer_of_another_task_is_refused(tmp_path: Path) -> None:
    other = make_agent(SAC, "MountainCarContinuous-v0")
    other.save_replay_buffer(tmp_path / "buffer")
    agent = make_agent(SAC, oracle_env())
    agent.load_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match="recorded in another environment"):
        agent.learn(10, callback=small_callback(oracle_env()))


def test_gsde_is_refused() -> None:
    with pytest.raises(ValueError, match="gSDE"):
        make_agent(SAC, oracle_env(), use_sde=True).learn(10, callback=DynaCallback())


def test_contradictory_arguments_are_refused() -> None:
    env = oracle_env()
    with pytest.raises(ValueError, match="default model"):
        DynaCallback(oracle_model(env), reward_fn=lambda obs, action, next_obs: obs[:, 0])
    with pytest.raises(ValueError, match="another model"):
        DynaCallback(oracle_model(env), trainer=small_callback(env).trainer)
    for kwargs in (
        {"model_train_freq": 0},
        {"model_train_freq": 250.5},
        {"rollouts_per_step": 0},
        {"rollout_length": 0},
        {"rollout_length": 2.0},
        {"first_fit_gradient_steps": -5},
        {"policy_noise_std": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            DynaConfig(**kwargs)  # type: ignore[arg-type]
