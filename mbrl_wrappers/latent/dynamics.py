r"""The prior over latent states: :math:`p(s_1)` and :math:`p(s_{t+1} | s_t, a_t)`, with an optional recurrent part."""

from __future__ import annotations

import torch as th
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from mbrl_wrappers.latent.options import LatentOptions
from mbrl_wrappers.nets.diagonal_gaussian import DiagonalGaussian, GaussianHead, inverse_softplus
from mbrl_wrappers.nets.seeded_layers import seeded_gru


class LatentDynamics(nn.Module):
    r"""Gaussian dynamics of the latent state.

    Without a recurrent part, :math:`s' \sim \mathcal{N}(s + \mu(s, a), \sigma(s, a))`. With one (RSSM, Hafner et al.
    2019, equation 4),

    .. math:: h' = \mathrm{GRU}(h, s, a), \quad s' \sim \mathcal{N}(\mu(h'), \sigma(h')).

    The first state has one Gaussian where an episode begins and another where a known history begins in the middle of
    one. The recurrent part begins as zeros.

    Args:
        action_size: ``A``.
        options: sizes.
        generator: source of the initial weights.

    Attributes:
        first_mean: ``(2, Z)``, of the middle of an episode and of its beginning.
        first_raw_std: ``(2, Z)``, before softplus and floor.
    """

    def __init__(self, action_size: int, options: LatentOptions, *, generator: Generator) -> None:
        super().__init__()
        size, self.recurrent_size = options.latent_size, options.recurrent_size
        self.min_std = options.min_std
        self.gru: nn.GRU | None = None
        if self.recurrent_size:
            self.gru = seeded_gru(size + action_size, self.recurrent_size, generator=generator)
        self.parent_size = self.recurrent_size or size + action_size
        self.head = GaussianHead(self.parent_size, options.hidden, size, min_std=self.min_std, generator=generator)
        self.first_mean = nn.Parameter(th.zeros(2, size))
        self.first_raw_std = nn.Parameter(th.full((2, size), inverse_softplus(1.0)))

    def first(self, first: Tensor) -> DiagonalGaussian:
        """The Gaussian ``(B, Z)`` of the first state; ``first (B,)`` bool says whether an episode begins there."""
        index = first.long()
        return DiagonalGaussian(self.first_mean[index], self.min_std + softplus(self.first_raw_std)[index])

    def advance(self, recurrent: Tensor, sample: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The next recurrent part ``(B, R)``, and the parent ``(B, P)`` of the next sampled part."""
        both = th.cat([sample, action], -1)
        if self.gru is None:
            return recurrent, both
        state = self.gru(both[:, None], recurrent[None].contiguous())[1][0]
        return state, state

    def advance_all(self, sample: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Recurrent parts ``(B, T, R)`` and parents ``(B, T, P)`` of whole sequences.

        Args:
            sample: ``(B, T, Z)``; the last one has no successor.
            action: ``(B, T - 1, A)``.
        """
        both = th.cat([sample[:, :-1], action], -1)
        if self.gru is None:
            return sample.new_zeros(*sample.shape[:2], 0), _after_nothing(both)
        states = (
            _after_nothing(self.gru(both)[0]) if both.shape[1] else sample.new_zeros(len(sample), 1, self.parent_size)
        )
        return states, states

    def following(self, parent: Tensor, sample: Tensor) -> DiagonalGaussian:
        """The Gaussian ``(..., Z)`` of the state after ``sample (..., Z)``, by its ``parent (..., P)``."""
        gaussian: DiagonalGaussian = self.head(parent)
        return gaussian if self.gru is not None else gaussian._replace(mean=sample + gaussian.mean)


def _after_nothing(rows: Tensor) -> Tensor:
    """``rows (B, T - 1, P)`` with zeros before the first."""
    return th.cat([rows.new_zeros(len(rows), 1, rows.shape[-1]), rows], 1)
