"""Unmodified SB3 agents that see the beliefs of a latent model."""

from sb3_ext.latent.belief_buffer import BeliefReplayBuffer
from sb3_ext.latent.belief_vec_env import BeliefVecEnv
from sb3_ext.latent.callback import LatentDynaCallback

__all__ = ["BeliefReplayBuffer", "BeliefVecEnv", "LatentDynaCallback"]
