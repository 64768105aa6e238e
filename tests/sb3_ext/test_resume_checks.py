"""What a run could not be resumed from is named when it starts."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_ext import RunCheckpoint
from tests.sb3_ext.dyna_agents import make_agent, oracle_env, small_callback

pytestmark = pytest.mark.filterwarnings("ignore:The learned termination", "ignore:The model was never fitted")


def test_a_checkpoint_callback_without_the_model_is_named_at_once(tmp_path: Path) -> None:
    env = oracle_env()
    agent, sb3 = make_agent(SAC, env), CheckpointCallback(30, str(tmp_path / "sb3"), save_replay_buffer=True)
    with pytest.warns(UserWarning, match="neither the dynamics model nor the imagined rows"):
        agent.learn(1, callback=[small_callback(env), sb3])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "CheckpointCallback")
        agent.learn(40, callback=[small_callback(env), sb3, RunCheckpoint(tmp_path / "run", every=20)])
    assert list((tmp_path / "sb3").glob("*.zip"))


def test_an_agent_without_its_rows_is_named_when_training_starts(tmp_path: Path) -> None:
    env = oracle_env()
    agent = make_agent(SAC, env)
    agent.learn(30, callback=small_callback(env))
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "rows")
    loaded = SAC.load(tmp_path / "agent", env=env)
    for reset in (False, True):
        with pytest.warns(UserWarning, match="has made 10 updates and its replay buffer is empty"):
            loaded.learn(0, callback=small_callback(env), reset_num_timesteps=reset)
    loaded.load_replay_buffer(tmp_path / "rows")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The agent has made")
        loaded.learn(5, callback=small_callback(env), reset_num_timesteps=False)
