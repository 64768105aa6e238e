"""Latent state-space models: learned states for environments whose observations do not show the state."""

from mbrl_wrappers.latent.belief_env import BeliefObservation
from mbrl_wrappers.latent.belief_tracker import BeliefTracker
from mbrl_wrappers.latent.elbo import ElboOptions
from mbrl_wrappers.latent.linear_gaussian import LinearGaussianModel
from mbrl_wrappers.latent.model import LatentStateSpaceModel
from mbrl_wrappers.latent.options import LatentOptions
from mbrl_wrappers.latent.sequences import SequenceBatch
from mbrl_wrappers.latent.state import LatentState

__all__ = [
    "BeliefObservation",
    "BeliefTracker",
    "ElboOptions",
    "LatentOptions",
    "LatentState",
    "LatentStateSpaceModel",
    "LinearGaussianModel",
    "SequenceBatch",
]
