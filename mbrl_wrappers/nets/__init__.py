"""Pure torch modules: they know tensors, not transitions."""

from mbrl_wrappers.nets.ensemble_linear import EnsembleLinear
from mbrl_wrappers.nets.gaussian import BoundedLogVariance, gaussian_nll
from mbrl_wrappers.nets.mlp import EnsembleMLP
from mbrl_wrappers.nets.normalizer import Normalizer
from mbrl_wrappers.nets.routing import Routing

__all__ = ["BoundedLogVariance", "EnsembleLinear", "EnsembleMLP", "Normalizer", "Routing", "gaussian_nll"]
