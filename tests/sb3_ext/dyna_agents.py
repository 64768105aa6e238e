"""Small agents on the oracle's environment, and a small model for them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium.wrappers import TimeLimit
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from sb3_ext import DynaCallback, DynaConfig, MixedReplayBuffer
from tests.oracle import DiscreteOracleEnv, OracleEnv

SMALL = DynaConfig(model_train_freq=20, rollout_freq=10, rollouts_per_step=3, retain_steps=20, min_real_rows=20)
CONTINUOUS = [SAC, TD3, DDPG, TQC, CrossQ]
DISCRETE = [DQN, QRDQN]


def oracle_env(discrete: bool = False, dtype: Any = np.float32) -> gymnasium.Env[Any, Any]:
    return TimeLimit(DiscreteOracleEnv(dtype) if discrete else OracleEnv(dtype), 12)


def small_callback(env: gymnasium.Env[Any, Any], config: DynaConfig = SMALL, **kwargs: Any) -> DynaCallback:
    dynamics = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(16,), device="cpu"
    )
    trainer = Trainer(dynamics, FitConfig(max_epochs=3, batch_size=16))
    return DynaCallback(dynamics, config, trainer=trainer, **kwargs)


def make_agent(algorithm: type[BaseAlgorithm], env: Any, **kwargs: Any) -> Any:
    defaults: dict[str, Any] = {
        "replay_buffer_class": MixedReplayBuffer,
        "learning_starts": 20,
        "train_freq": 1,
        "batch_size": 32,
        "policy_kwargs": {"net_arch": [16]},  # a new one each time: SB3 writes into it
        "seed": 0,
        "device": "cpu",
        "buffer_size": 1000,
    }
    return algorithm("MlpPolicy", env, **(defaults | kwargs))


def weights(agent: BaseAlgorithm) -> th.Tensor:
    return th.cat([value.flatten().float() for value in agent.policy.state_dict().values()])
