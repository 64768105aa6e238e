"""Whatever satisfies ``DynamicsModel``: learned, given or true."""

from mbrl_wrappers.models.ensemble import EnsembleDynamics, EnsembleOptions
from mbrl_wrappers.models.function import FunctionModel

__all__ = ["EnsembleDynamics", "EnsembleOptions", "FunctionModel"]
