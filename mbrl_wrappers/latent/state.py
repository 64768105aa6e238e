"""The belief of a latent state-space model."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mbrl_wrappers.nets.diagonal_gaussian import DiagonalGaussian


class LatentState(NamedTuple):
    """A belief over the latent state, one row per trajectory.

    Attributes:
        recurrent: ``(B, R)`` the deterministic part.
        sample: ``(B, Z)`` one draw of the sampled part; the recurrent part goes on from it.
        mean: ``(B, Z)`` mean of the belief over the sampled part; equals ``sample`` where that is known.
        std: ``(B, Z)`` its standard deviation; 0 where the sampled part is known.
        memory: ``(B, M)`` what the posterior keeps of observations and actions.
    """

    recurrent: Tensor
    sample: Tensor
    mean: Tensor
    std: Tensor
    memory: Tensor

    @property
    def belief(self) -> DiagonalGaussian:
        """The Gaussian over the sampled part."""
        return DiagonalGaussian(self.mean, self.std)
