"""Models as Gymnasium environments, and a small task to try them on."""

from mbrl_wrappers.envs.branches import Branches, BranchStep
from mbrl_wrappers.envs.cart_pole import ContinuousCartPole
from mbrl_wrappers.envs.model_env import ModelEnv
from mbrl_wrappers.envs.model_vector_env import ModelVectorEnv
from mbrl_wrappers.envs.registration import register_envs
from mbrl_wrappers.envs.starts import Starts, StartSampler, UniformStarts, start_sampler

__all__ = [
    "BranchStep",
    "Branches",
    "ContinuousCartPole",
    "ModelEnv",
    "ModelVectorEnv",
    "StartSampler",
    "Starts",
    "UniformStarts",
    "register_envs",
    "start_sampler",
]
