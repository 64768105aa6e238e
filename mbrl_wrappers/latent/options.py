"""Numbers and modes of a latent state-space model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mbrl_wrappers.checks import at_least, within

PosteriorKind = Literal["single", "filter", "factorised filter", "smoother", "factorised smoother"]
"""What the posterior of the state at one time sees; :mod:`mbrl_wrappers.latent.posterior` has the formulas."""

SummaryKind = Literal["none", "gru", "transformer"]
"""How a filter summarises the observations and actions so far."""


@dataclass(frozen=True)
class LatentOptions:
    r"""Numbers and modes of a latent state-space model.

    Attributes:
        latent_size: entries of the sampled state, ``Z``.
        recurrent_size: entries of the deterministic part of the state, ``R``, a GRU over sampled states and actions
            (RSSM, Hafner et al. 2019); 0 for none.
        posterior: ``"single"`` is :math:`q(s_t | o_t)`. ``"filter"`` is :math:`q(s_t | s_{t-1}, o_{1:t}, a_{1:t-1})`
            and ``"factorised filter"`` :math:`q(s_t | o_{1:t}, a_{1:t-1})`. ``"smoother"`` is
            :math:`q(s_t | s_{t-1}, o_{t:T}, a_{t-1:T-1})` and ``"factorised smoother"``
            :math:`q(s_t | o_{1:T}, a_{1:T-1})`.
        summary: of a filter. ``"none"`` shows it the newest observation alone: :math:`q(s_t | s_{t-1}, a_{t-1}, o_t)`.
        memory_size: width of the summary.
        context: observations that a transformer, or a smoother that acts, looks back on.
        hidden: width of the hidden layers of dynamics, decoder and heads.
        encoder_hidden: width of the hidden layers of encoder and posterior.
        decoder_std: standard deviation of :math:`p(o|s)` and of a learned reward, in units of the training rows'
            standard deviation; where ``learn_decoder_std`` only the initial one.
        learn_decoder_std: train it, one number per dimension.
        min_decoder_std: floor of a learned one. At its floor the decoder claims an exact sensor, which a posterior that
            is too narrow does to it (notes of the fit say so).
        min_std: floor of the standard deviations of dynamics and posterior.
        deterministic: no noise and no entropy: an autoencoder whose state has unit root mean square, with
            dynamics and reward heads.
        image_shape: ``(channels, height, width)`` of an image whose pixels the sensors are, row by row: they are then
            encoded and decoded by convolutions, with one scale for all pixels. Height and width are halved until 4 or
            less is left.
    """

    latent_size: int = 8
    recurrent_size: int = 0
    posterior: PosteriorKind = "filter"
    summary: SummaryKind = "gru"
    memory_size: int = 64
    context: int = 32
    hidden: tuple[int, ...] = (64, 64)
    encoder_hidden: tuple[int, ...] = (64,)
    decoder_std: float = 0.1
    learn_decoder_std: bool = False
    min_decoder_std: float = 0.02
    min_std: float = 0.05
    deterministic: bool = False
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("latent_size", "memory_size", "context"):
            at_least(name, getattr(self, name))
        at_least("recurrent_size", self.recurrent_size, 0)
        for name, modes in (("posterior", PosteriorKind), ("summary", SummaryKind)):
            if getattr(self, name) not in get_args(modes):
                raise ValueError(f"{name} must be one of {get_args(modes)}, got {getattr(self, name)!r}.")
        if self.posterior == "factorised filter" and self.summary == "none":
            raise ValueError(
                "A factorised filter without a summary sees one observation only: name it posterior='single', or give "
                "it summary='gru' or 'transformer'."
            )
        for name in ("hidden", "encoder_hidden"):
            for width in getattr(self, name):
                at_least(name, width)
        if self.image_shape is not None:
            if len(self.image_shape) != 3:
                raise ValueError(f"image_shape must be (channels, height, width), got {self.image_shape!r}.")
            for size in self.image_shape:
                at_least("image_shape", size)
        within("min_decoder_std", self.min_decoder_std, 1e-6)
        within("min_std", self.min_std, 1e-6)
        within("decoder_std", self.decoder_std, 1e-6)
        if self.learn_decoder_std and self.decoder_std <= self.min_decoder_std:
            raise ValueError(
                f"decoder_std={self.decoder_std} must lie above min_decoder_std={self.min_decoder_std} to be learned."
            )
        if self.deterministic and self.latent_size < 2:
            raise ValueError(
                "A deterministic state has unit root mean square, so with latent_size=1 it could only be 1 or -1: take "
                "latent_size of at least 2."
            )
