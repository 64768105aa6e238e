"""Whatever satisfies ``DynamicsModel``: learned, given or true."""

from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.function import FunctionModel
from mbrl_wrappers.models.gaussian_ensemble import EnsembleOptions

__all__ = ["EnsembleDynamics", "EnsembleOptions", "FunctionModel"]
