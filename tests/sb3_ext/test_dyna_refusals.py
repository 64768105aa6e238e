"""Wrong use of the callback is told what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit, TransformAction
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext import DynaCallback, DynaConfig, MixedReplayBuffer
from tests.oracle import DiscreteOracleEnv, oracle_model
from tests.sb3_ext.dyna_agents import DISCRETE, SMALL, make_agent, oracle_env, small_callback


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
        {"model_train_freq": -1},
        {"model_train_freq": 250.5},
        {"rollouts_per_step": 0},
        {"rollout_length": 0},
        {"rollout_length": 2.0},
        {"first_fit_gradient_steps": -5},
        {"policy_noise_std": float("nan")},
        {"min_real_rows": 9},
        {"rollout_freq": 300, "retain_steps": 299},
    ):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            DynaConfig(**kwargs)  # type: ignore[arg-type]
    assert DynaConfig(min_real_rows=10, rollout_freq=300, retain_steps=300).min_real_rows == 10


@pytest.mark.parametrize("config", [{"model_train_freq": 10}, 250, SMALL.length])
def test_what_is_no_config_is_refused_at_construction(config: Any) -> None:
    with pytest.raises(TypeError, match="config must be a DynaConfig"):
        DynaCallback(config=config)


@pytest.mark.parametrize("name", ["reward_fn", "termination_fn"])
def test_what_is_no_function_is_refused_at_construction(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a function"):
        DynaCallback(**{name: 3.0})  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [1, -2])
@pytest.mark.parametrize("algorithm", DISCRETE)
def test_discrete_actions_that_do_not_begin_at_zero_are_refused(algorithm: type[BaseAlgorithm], start: int) -> None:
    env = TimeLimit(DiscreteOracleEnv(start=start), 12)
    agent = make_agent(algorithm, env)
    with pytest.raises(ValueError, match=f"begin at start={start}, and agents"):
        agent.learn(40, callback=small_callback(env))
    assert agent.num_timesteps == 0
    counted = TransformAction(env, lambda action: action + start, spaces.Discrete(3))  # as the sentence says
    agent = make_agent(algorithm, counted)
    agent.learn(40, callback=small_callback(counted))
    assert agent.replay_buffer.num_real == 40


def test_a_buffer_of_another_number_of_environments_is_refused(tmp_path: Path) -> None:
    make_agent(SAC, DummyVecEnv([oracle_env] * 2)).save_replay_buffer(tmp_path / "buffer")
    for count in (1, 4):
        agent = make_agent(SAC, DummyVecEnv([oracle_env] * count))
        agent.load_replay_buffer(tmp_path / "buffer")
        with pytest.raises(ValueError, match=f"n_envs=2 environments side by side, and the agent has n_envs={count}"):
            agent.learn(10, callback=small_callback(oracle_env()))


@pytest.mark.parametrize("n_envs", [1, 2])
def test_a_buffer_that_never_holds_what_the_first_fit_waits_for_is_refused(n_envs: int) -> None:
    env = DummyVecEnv([oracle_env] * n_envs)
    config = replace(SMALL, min_real_rows=101)
    with pytest.raises(ValueError, match=r"min_real_rows=101 real transitions, and the replay buffer keeps 100"):
        make_agent(SAC, env, buffer_size=100).learn(10, callback=small_callback(oracle_env(), config))
    make_agent(SAC, env, buffer_size=102, gradient_steps=0).learn(20, callback=small_callback(oracle_env()))


def test_fewer_imagined_rows_than_a_batch_ever_takes_are_refused() -> None:
    agent = make_agent(SAC, oracle_env(), batch_size=64)  # 61 of them imagined
    with pytest.raises(ValueError, match="until 61 are stored, and there are never more than 60"):
        agent.learn(10, callback=small_callback(oracle_env()))


def test_a_table_of_states_is_sent_to_its_own_agent_and_an_image_to_an_encoder() -> None:
    for buffer_class in (ReplayBuffer, MixedReplayBuffer):
        with pytest.raises(TypeError, match="DynaQ"):
            make_agent(DQN, "FrozenLake-v1", replay_buffer_class=buffer_class).learn(10, callback=DynaCallback())
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    for space in (image, spaces.Box(0, 1, (64, 64, 3)), spaces.Dict({"camera": image}), spaces.Tuple([image])):
        with pytest.raises(TypeError, match="looks like an image") as error:
            MixedReplayBuffer(10, space, spaces.Discrete(2))
        assert "Flatten" not in str(error.value)
    with pytest.raises(TypeError, match="FlattenObservation"):  # a few numbers in two dimensions are no image
        MixedReplayBuffer(10, spaces.Box(0, 1, (4, 3)), spaces.Discrete(2))
