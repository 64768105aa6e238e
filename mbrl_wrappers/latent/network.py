"""The networks of a latent state-space model, and how a posterior runs through sequences."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch as th
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from mbrl_wrappers.latent.dynamics import LatentDynamics
from mbrl_wrappers.latent.options import LatentOptions
from mbrl_wrappers.latent.posterior import Posterior
from mbrl_wrappers.latent.sequences import SequenceBatch
from mbrl_wrappers.latent.summaries import InputLayout
from mbrl_wrappers.nets.diagonal_gaussian import DiagonalGaussian, PositiveStd
from mbrl_wrappers.nets.image_layers import ImageDecoder, ImageEncoder
from mbrl_wrappers.nets.normalizer import Normalizer
from mbrl_wrappers.nets.seeded_layers import Perceptron


class Inferred(NamedTuple):
    """What a posterior made of sequences.

    Attributes:
        recurrent: ``(B, T, R)``.
        sample: ``(B, T, Z)`` draws from the posterior.
        posterior: of ``(B, T, Z)``.
        prior: of ``(B, T, Z)``: of the first state, then after the *same drawn* state before, :math:`p(s_t | s_{t-1},
            a_{t-1})`.
    """

    recurrent: Tensor
    sample: Tensor
    posterior: DiagonalGaussian
    prior: DiagonalGaussian

    @property
    def latent(self) -> Tensor:
        """Recurrent and sampled part side by side, ``(B, T, R + Z)``."""
        return th.cat([self.recurrent, self.sample], -1)


class StateSpaceNetwork(nn.Module):
    """Encoder, posterior, dynamics, decoder and heads, in standardised units.

    Args:
        obs_size: dimensions of a sensor reading, ``O``.
        action_size: ``A``.
        options: sizes and modes.
        learned: whether the reward and the termination are learned.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        options: LatentOptions,
        *,
        learned: tuple[bool, bool],
        generator: Generator,
    ) -> None:
        super().__init__()
        self.options, self.obs_size, self.action_size = options, obs_size, action_size
        self.learn_reward, self.learn_termination = learned
        latent = options.recurrent_size + options.latent_size
        embedding = options.encoder_hidden[-1] if options.encoder_hidden else obs_size
        self.layout = InputLayout(embedding, action_size)

        def perceptron(inputs: int, outputs: int) -> Perceptron:
            return Perceptron(inputs, options.hidden, outputs, generator=generator)

        self.encoder: nn.Module
        self.decoder: nn.Module
        if options.image_shape is None:
            self.encoder = Perceptron(obs_size, options.encoder_hidden[:-1], embedding, generator=generator)
            self.decoder = perceptron(latent, obs_size)
        else:
            self.encoder = ImageEncoder(options.image_shape, embedding, generator=generator)
            self.decoder = ImageDecoder(latent, options.image_shape, generator=generator)
        self.dynamics = LatentDynamics(action_size, options, generator=generator)
        self.posterior = Posterior(self.layout, self.dynamics.parent_size, options, generator=generator)
        self.decoder_std = self._decoder_std(obs_size)
        if self.learn_reward:
            self.reward_head = perceptron(2 * latent + action_size, 1)
            self.reward_std = self._decoder_std(1)
        if self.learn_termination:
            self.termination_head = perceptron(latent, 1)
        self.obs_normalizer, self.reward_normalizer = Normalizer(obs_size), Normalizer(1)

    def _decoder_std(self, size: int) -> PositiveStd:
        options = self.options
        floor = options.min_decoder_std if options.learn_decoder_std else 0.0
        return PositiveStd(size, options.decoder_std, floor, learned=options.learn_decoder_std)

    @property
    def device(self) -> th.device:
        """Where the weights live."""
        return self.obs_normalizer.mean.device

    # --- inference --------------------------------------------------------------------------------------------------

    def infer(self, batch: SequenceBatch, noise: Tensor) -> Inferred:
        """The posterior along sequences.

        Args:
            batch: on the device of the weights.
            noise: ``(B, T, Z)`` standard normal, for the draws.
        """
        inputs = self.layout.sequence(self.embed(batch.obs), batch.action, batch.first)
        return self.infer_inputs(inputs, batch.first, batch.length, noise)

    def embed(self, obs: Tensor) -> Tensor:
        """Embedded sensor readings: ``(..., O)`` in raw units to ``(..., E)``."""
        embedded: Tensor = self.encoder(self.standardised(obs))
        return embedded

    def standardised(self, obs: Tensor) -> Tensor:
        """Sensor readings ``(..., O)`` in standardised units; of float64 ones the scale is taken off in float64."""
        return self.obs_normalizer.normalize(obs).to(self.obs_normalizer.mean.dtype)

    def infer_inputs(self, inputs: Tensor, first: Tensor, length: Tensor, noise: Tensor) -> Inferred:
        """:meth:`infer` for ``inputs (B, T, I)``, of which each row has ``length (B,)``."""
        summary = self.posterior.summary(inputs, length)
        action = inputs[:, 1:, -self.action_size :]
        if self.posterior.autoregressive:
            recurrent, parent, posterior, sample = self._in_turn(summary, action, noise)
        else:
            posterior = self.posterior(summary, summary)
            sample = self.draw(posterior, noise)
            recurrent, parent = self.dynamics.advance_all(sample, action)
        prior = self.following(parent[:, 1:], sample[:, :-1])
        start = self.dynamics.first(first)
        mean = th.cat([start.mean[:, None], prior.mean], 1)
        std = th.cat([start.std[:, None], prior.std], 1)
        return Inferred(recurrent, sample, posterior, DiagonalGaussian(mean, std))

    def _in_turn(
        self, summary: Tensor, action: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, DiagonalGaussian, Tensor]:
        """State after state, each drawn from a posterior that sees the draw before."""
        batch, steps = summary.shape[:2]
        recurrent = summary.new_zeros(batch, self.options.recurrent_size)
        parent = summary.new_zeros(batch, self.dynamics.parent_size)
        columns: list[tuple[Tensor, ...]] = []
        for time in range(steps):
            if time:
                recurrent, parent = self.dynamics.advance(recurrent, columns[-1][-1], action[:, time - 1])
            posterior = self.posterior(summary[:, time], parent)
            columns.append((recurrent, parent, *posterior, self.draw(posterior, noise[:, time])))
        recurrent, parent, mean, std, sample = (th.stack(column, 1) for column in zip(*columns, strict=True))
        return recurrent, parent, DiagonalGaussian(mean, std), sample

    def imagine(self, recurrent: Tensor, sample: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Latents ``(B, H, R + Z)`` after each of ``action (B, H, A)``, drawn without another observation.

        Args:
            recurrent: ``(B, R)`` where to begin.
            sample: ``(B, Z)``.
            action: model actions.
            noise: ``(B, H, Z)`` standard normal.
        """
        latents = []
        for time in range(action.shape[1]):
            recurrent, parent = self.dynamics.advance(recurrent, sample, action[:, time])
            sample = self.draw(self.following(parent, sample), noise[:, time])
            latents.append(th.cat([recurrent, sample], 1))
        return th.stack(latents, 1)

    # --- Gaussians and what they lead to ----------------------------------------------------------------------------

    def draw(self, gaussian: DiagonalGaussian, noise: Tensor) -> Tensor:
        """A draw ``(..., Z)``; of a deterministic model the mean, scaled to a root mean square of one."""
        return unit_scale(gaussian.mean) if self.options.deterministic else gaussian.draw(noise)

    def following(self, parent: Tensor, sample: Tensor) -> DiagonalGaussian:
        """The prior ``(..., Z)`` of the state after ``sample``; of a deterministic model its mean is scaled as well."""
        prior = self.dynamics.following(parent, sample)
        return prior._replace(mean=unit_scale(prior.mean)) if self.options.deterministic else prior

    def decoded(self, latent: Tensor) -> DiagonalGaussian:
        """The sensor readings ``(..., O)`` that ``latent (..., R + Z)`` leads to, in standardised units."""
        mean = self.decoder(latent)
        return DiagonalGaussian(mean, self.decoder_std().expand_as(mean))

    def rewarded(self, latent: Tensor, action: Tensor, following: Tensor) -> DiagonalGaussian:
        """The learned reward ``(...,)`` of a step from ``latent`` to ``following``, in standardised units."""
        mean = self.reward_head(th.cat([latent, action, following], -1)).squeeze(-1)
        return DiagonalGaussian(mean, self.reward_std().expand_as(mean))

    def termination_logit(self, following: Tensor) -> Tensor:
        """The logit ``(...,)`` of the probability that an episode ended in ``following (..., R + Z)``."""
        logit: Tensor = self.termination_head(following)
        return logit.squeeze(-1)


def unit_scale(rows: Tensor) -> Tensor:
    """``rows (..., Z)`` scaled to a root mean square of one."""
    scaled: Tensor = math.sqrt(rows.shape[-1]) * normalize(rows, dim=-1)
    return scaled
