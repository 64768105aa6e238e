"""DQN and QR-DQN with a learned model on Gymnasium's own tasks with Discrete actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.error import DependencyNotInstalled
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers import FitConfig, Trainer
from mbrl_wrappers.tasks import task_functions
from sb3_ext import DynaCallback, DynaConfig
from sb3_ext.default_model import build_default_dynamics
from tests.sb3_ext.dyna_agents import make_agent, weights

CONFIG = DynaConfig(model_train_freq=200, rollout_freq=100, rollouts_per_step=5, retain_steps=400, min_real_rows=200)


@pytest.mark.parametrize("algorithm", [DQN, QRDQN])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "LunarLander-v3"])
def test_agents_train_on_what_the_model_imagines(algorithm: type[BaseAlgorithm], env_id: str) -> None:
    try:
        env = gymnasium.make(env_id)
    except DependencyNotInstalled:
        pytest.skip("needs pip install 'mbrl-wrappers[box2d]'")
    few: dict[str, Any] = {"n_quantiles": 10} if algorithm is QRDQN else {}
    agent = make_agent(algorithm, env, learning_starts=200, train_freq=8, policy_kwargs={"net_arch": [16], **few})
    built = build_default_dynamics(agent.env, num_members=2, num_elites=1, hidden=(32, 32), device="cpu")
    trainer = Trainer(built.dynamics, FitConfig(max_epochs=40, max_gradient_steps=300))
    callback = DynaCallback(built.dynamics, CONFIG, trainer=trainer)
    agent.learn(600, callback=callback)
    assert callback.report is not None
    assert np.mean(callback.report.holdout_r2) > 0.3
    assert th.isfinite(weights(agent)).all()
    synthetic = agent.replay_buffer.synthetic
    assert len(synthetic) > 1000
    rows = synthetic.take(np.arange(len(synthetic)))
    known = task_functions(env)
    if known.reward_fn is None:  # LunarLander: reward and end are learned
        assert env_id == "LunarLander-v3"
        assert rows.reward.std() > 0.1
        return
    obs, action, next_obs = th.as_tensor(rows.obs), th.as_tensor(rows.action[:, 0]).long(), th.as_tensor(rows.next_obs)
    np.testing.assert_array_equal(known.reward_fn(obs, action, next_obs).numpy(), rows.reward[:, 0])
    assert known.termination_fn is not None
    np.testing.assert_array_equal(known.termination_fn(obs, action, next_obs).numpy(), rows.terminated[:, 0] > 0)
