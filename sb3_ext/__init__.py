"""Stable-Baselines3 agents on learned models: the only package of this project that imports SB3."""

from sb3_ext.actor_policy import ActorPolicy
from sb3_ext.agent_policy import AgentPolicy
from sb3_ext.agent_prior import AgentPrior
from sb3_ext.agent_value import AgentValue
from sb3_ext.averaged_actor import AveragedActor
from sb3_ext.averaged_callbacks import ActWithAverage, WithAveragedActor
from sb3_ext.buffers import MixedReplayBuffer
from sb3_ext.callbacks import DynaCallback
from sb3_ext.dyna_config import DynaConfig
from sb3_ext.imagination import ImaginationConfig, learn_in_imagination
from sb3_ext.run_checkpoint import RunCheckpoint
from sb3_ext.vec_env import ModelVecEnv

__all__ = [
    "ActWithAverage",
    "ActorPolicy",
    "AgentPolicy",
    "AgentPrior",
    "AgentValue",
    "AveragedActor",
    "DynaCallback",
    "DynaConfig",
    "ImaginationConfig",
    "MixedReplayBuffer",
    "ModelVecEnv",
    "RunCheckpoint",
    "WithAveragedActor",
    "learn_in_imagination",
]
