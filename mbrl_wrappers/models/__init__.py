"""Whatever satisfies ``DynamicsModel``: learned, given or true."""

from mbrl_wrappers.models.cloned_env import ClonedEnvModel
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.function import FunctionModel
from mbrl_wrappers.models.gaussian_ensemble import EnsembleOptions
from mbrl_wrappers.models.local_linear import LocalLinearModel
from mbrl_wrappers.models.mujoco import MujocoModel
from mbrl_wrappers.models.tabular import TabularModel
from mbrl_wrappers.models.with_reward import WithReward

__all__ = [
    "ClonedEnvModel",
    "EnsembleDynamics",
    "EnsembleOptions",
    "FunctionModel",
    "LocalLinearModel",
    "MujocoModel",
    "TabularModel",
    "WithReward",
]
