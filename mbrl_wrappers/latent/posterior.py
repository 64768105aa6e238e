r"""Posteriors of the latent state, one interface for all: a summary of the sequence and a Gaussian head.

========================= =============================================== ==================================
name                      :math:`q` of the state at one time              summary
========================= =============================================== ==================================
``"single"``              :math:`q(s_t | o_t)`                            the newest observation
``"factorised filter"``   :math:`q(s_t | o_{1:t}, a_{1:t-1})`             GRU or transformer over the past
``"filter"``              :math:`q(s_t | s_{t-1}, o_{1:t}, a_{1:t-1})`    the same, or the newest observation
``"factorised smoother"`` :math:`q(s_t | o_{1:T}, a_{1:T-1})`             GRUs over the past and the future
``"smoother"``            :math:`q(s_t | s_{t-1}, o_{t:T}, a_{t-1:T-1})`  GRU from the end back to :math:`t`
========================= =============================================== ==================================

With a recurrent part :math:`h_t` in the state, those that see :math:`s_{t-1}` see :math:`h_t` in its place. Only the
last one can equal the exact posterior of a Markov model: given the state before, :math:`s_t` does not depend on what
was observed before it (Krishnan et al. 2017, "Structured inference networks", DKS). A smoother that acts looks back
from the newest observation, where it conditions on the past only.
"""

from __future__ import annotations

import torch as th
from torch import Generator, Tensor, nn

from mbrl_wrappers.latent.options import LatentOptions
from mbrl_wrappers.latent.summaries import (
    AttentionSummary,
    BackwardSummary,
    FrameSummary,
    InputLayout,
    InputWindow,
    RecurrentSummary,
    SequenceSummary,
    TwoWaySummary,
)
from mbrl_wrappers.nets.diagonal_gaussian import DiagonalGaussian, GaussianHead


class Posterior(nn.Module):
    """The posterior that ``options`` name.

    Args:
        layout: of the inputs.
        parent_size: entries of what stands for the state before, ``P``.
        options: its kind and sizes.
        generator: source of the initial weights.

    Attributes:
        autoregressive: whether the head is shown the state before.
        window: of a smoother that has to read its inputs anew for every action; None for all others.
    """

    def __init__(self, layout: InputLayout, parent_size: int, options: LatentOptions, *, generator: Generator) -> None:
        super().__init__()
        self.autoregressive = options.posterior in ("filter", "smoother")
        self.summary: SequenceSummary = _summary(layout, options, generator)
        self.window = InputWindow(layout, options.context) if options.posterior == "smoother" else None
        self.head = GaussianHead(
            self.summary.size + (parent_size if self.autoregressive else 0),
            options.encoder_hidden,
            options.latent_size,
            min_std=options.min_std,
            generator=generator,
        )

    @property
    def keeps_inputs(self) -> bool:
        """Whether the memory is a window of inputs instead of a summary of them."""
        return self.window is not None or isinstance(self.summary, AttentionSummary)

    @property
    def memory_size(self) -> int:
        """Entries of what is kept between two observations, ``M``."""
        return self.summary.memory_size if self.window is None else self.window.memory_size

    def forward(self, summary: Tensor, parent: Tensor) -> DiagonalGaussian:
        """The belief ``(..., Z)`` by the ``summary (..., E)`` and the state before, ``parent (..., P)``."""
        gaussian: DiagonalGaussian = self.head(th.cat([summary, parent], -1) if self.autoregressive else summary)
        return gaussian


def _summary(layout: InputLayout, options: LatentOptions, generator: Generator) -> SequenceSummary:
    width, size = layout.width, options.memory_size
    if options.posterior == "single":
        return FrameSummary(layout.embedding)
    if options.posterior == "smoother":
        return BackwardSummary(width, size, generator=generator)
    if options.posterior == "factorised smoother":
        return TwoWaySummary(width, size, generator=generator)
    if options.summary == "gru":
        return RecurrentSummary(width, size, generator=generator)
    if options.summary == "transformer":
        return AttentionSummary(layout, size, options.context, generator=generator)
    return FrameSummary(layout.embedding + 2)  # the flags say where there is no state before
