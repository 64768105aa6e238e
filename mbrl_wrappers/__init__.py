"""Models of the world as Gymnasium environments, for unmodified Stable-Baselines3 agents and for planners."""

from mbrl_wrappers import tasks
from mbrl_wrappers.branch_gate import BranchGate, GateConfig
from mbrl_wrappers.envs import ModelEnv, ModelVectorEnv, UniformStarts
from mbrl_wrappers.envs.registration import register_envs
from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.latent import LatentOptions, LatentStateSpaceModel
from mbrl_wrappers.models.cloned_env import ClonedEnvModel
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.function import FunctionModel
from mbrl_wrappers.models.gaussian_ensemble import EnsembleOptions
from mbrl_wrappers.models.local_linear import LocalLinearModel
from mbrl_wrappers.models.mujoco import MujocoModel
from mbrl_wrappers.models.tabular import TabularModel
from mbrl_wrappers.models.with_reward import WithReward
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.rollout import branched_rollout
from mbrl_wrappers.schedules import RolloutLength
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.storage.checkpoint import load, save
from mbrl_wrappers.tabular_data import TabularTransitions
from mbrl_wrappers.tasks.mazes import register_mazes
from mbrl_wrappers.training import FitConfig, LocalLinearTrainer, Trainer
from mbrl_wrappers.types import DynamicsModel, LatentModel, Limits, Prediction, RolloutPolicy, Transitions
from mbrl_wrappers.unroll import Unrolled, unroll

__version__ = "0.1.0"

__all__ = [
    "ActionCodec",
    "BranchGate",
    "ClonedEnvModel",
    "DynamicsModel",
    "EnsembleDynamics",
    "EnsembleOptions",
    "FitConfig",
    "FitReport",
    "FunctionModel",
    "GateConfig",
    "LatentModel",
    "LatentOptions",
    "LatentStateSpaceModel",
    "Limits",
    "LocalLinearModel",
    "LocalLinearTrainer",
    "ModelEnv",
    "ModelVectorEnv",
    "MujocoModel",
    "Prediction",
    "RolloutLength",
    "RolloutPolicy",
    "TabularModel",
    "TabularTransitions",
    "Trainer",
    "TransitionStore",
    "Transitions",
    "UniformStarts",
    "Unrolled",
    "WithReward",
    "branched_rollout",
    "load",
    "save",
    "tasks",
    "unroll",
]

register_envs()
register_mazes()
