"""Learning in imagination that is killed and resumed ends bit for bit as learning that was not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from sb3_ext import ImaginationConfig, RunCheckpoint, learn_in_imagination
from sb3_ext.agent_state import agent_state
from sb3_ext.imagination import ImaginationResult
from sb3_ext.vec_env_state import vec_env_state
from tests.sb3_ext.resumed_runs import Kill, KillAt, Rows, differences

STEPS = 130
CYCLES = ImaginationConfig(
    initial_steps=40, cycle_steps=30, imagined_steps=64, num_envs=4, horizon=8, eval_freq=50, eval_episodes=1
)


def learn(folder: Path, kill: float, rows: Rows, *, normalized: bool, **agent: Any) -> ImaginationResult:
    env = gymnasium.make("Pendulum-v1", max_episode_steps=25)

    def build(model_env: VecEnv) -> PPO:
        whole = VecNormalize(model_env) if normalized else model_env
        policy = {"net_arch": [8]}
        ppo = PPO("MlpPolicy", whole, n_steps=8, batch_size=16, n_epochs=2, policy_kwargs=policy, seed=0, **agent)
        ppo.set_logger(Logger(None, [rows]))
        return ppo

    model = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(8,), device="cpu"
    )
    checkpoint = RunCheckpoint(folder, every=1)
    try:
        return learn_in_imagination(
            build,
            env,
            STEPS,
            config=CYCLES,
            dynamics=model,
            trainer=Trainer(model, FitConfig(max_gradient_steps=8)),
            callback=[checkpoint, KillAt(kill)],
            eval_env=gymnasium.make("Pendulum-v1", max_episode_steps=25),
            seed=3,
        )
    finally:
        checkpoint.release()


def outcome(result: ImaginationResult) -> dict[str, Any]:
    env = result.agent.get_env()
    assert env is not None
    return {
        "agent": agent_state(result.agent),
        "env": vec_env_state(env),
        "store": result.store.state_dict(),
        "model": dict(result.dynamics.state_dict()),  # type: ignore[attr-defined]
        "log": [{**record._asdict(), "fit": vars(record.fit)} for record in result.log],
    }


@pytest.mark.parametrize(
    "settings",
    [pytest.param({"normalized": True}, marks=pytest.mark.slow), {"normalized": False, "use_sde": True}],
    ids=str,
)
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole, rows = Rows(), Rows()
    expected = outcome(learn(tmp_path / "whole", math.inf, whole, **settings))
    for kill in (55, 111):
        with pytest.raises(Kill):
            learn(tmp_path / "killed", kill, rows, **settings)
        saved = [path.name for path in (tmp_path / "killed").glob("*step*")]
        step = max(int(name.rpartition("-")[2]) for name in saved)
        rows.rows = [row for row in rows.rows if row[0] <= step]
    result = learn(tmp_path / "killed", math.inf, rows, **settings)
    assert result.real_steps == STEPS
    assert list(differences(expected, outcome(result))) == []
    assert list(differences([row for _, row in whole.rows], [row for _, row in rows.rows])) == []
    assert [step for step, _ in rows.rows] == [40, 70, 100, 130]
