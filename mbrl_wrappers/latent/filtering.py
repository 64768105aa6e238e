"""The posterior at work: beliefs that follow sensor readings in environment units, and what they expect to read."""

from __future__ import annotations

import math

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from mbrl_wrappers.latent.draws import SharedDraws
from mbrl_wrappers.latent.network import StateSpaceNetwork
from mbrl_wrappers.latent.options import LatentOptions
from mbrl_wrappers.latent.state import LatentState
from mbrl_wrappers.nets.diagonal_gaussian import DiagonalGaussian
from mbrl_wrappers.nets.normalizer import Normalizer


class SensorFilter(StateSpaceNetwork):
    """Networks that filter what the sensors of ``sensor_space`` show.

    Args:
        sensor_space: what the environment shows, a one-dimensional float Box. Readings of a float64 Box are taken and
            given in float64, since float32 would lose their changes where they lie far from zero.
        action_size: ``A``.
        options: sizes and modes.
        learned: whether the reward and the termination are learned.
        generator: source of the initial weights.

    Raises:
        ValueError: for an ``image_shape`` that has not as many pixels as there are sensors.
    """

    def __init__(
        self,
        sensor_space: spaces.Box,
        action_size: int,
        options: LatentOptions,
        *,
        learned: tuple[bool, bool],
        generator: Generator,
    ) -> None:
        size = sensor_space.shape[0]
        super().__init__(size, action_size, _fitting(options, size), learned=learned, generator=generator)
        self.sensor_space = sensor_space

    @property
    def dtype(self) -> th.dtype:
        """That of weights, sensor readings and features."""
        return self.obs_normalizer.mean.dtype

    def set_scale(self, readings: Tensor) -> None:
        """Take the scale of the sensors from ``readings (B, O)``.

        Raises:
            ValueError: if no sensor ever changes: then nothing can be inferred.
        """
        self.obs_normalizer.set_statistics(readings)
        if self.options.image_shape is not None:
            # One scale for all pixels: those that are seldom lit count no more than others.
            common = Normalizer(1).to(self.device)
            common.set_statistics(readings.reshape(-1, 1))
            for name in ("mean", "mean_rest", "std"):
                getattr(self.obs_normalizer, name).copy_(getattr(common, name).expand(self.obs_size))
        if bool(self.obs_normalizer.constant.all()):
            raise ValueError(
                f"All {self.obs_size} sensor readings stay the same in all training rows, so they tell nothing of a "
                "state: are all of them masked?"
            )

    # --- as a filter ------------------------------------------------------------------------------------------------

    @th.no_grad()
    def initial(self, batch: int) -> LatentState:
        """The belief where an episode begins, before anything was observed, ``batch`` rows."""
        prior = self.dynamics.first(th.ones(batch, dtype=th.bool, device=self.device))
        mean = unit = prior.mean
        none = unit.new_zeros(batch, 0)
        recurrent = none.new_zeros(batch, self.options.recurrent_size)
        memory = none.new_zeros(batch, self.posterior.memory_size)
        return LatentState(recurrent, mean, mean, prior.std, memory)

    @th.no_grad()
    def observe(
        self, state: LatentState, action: Tensor, obs: Tensor, first: Tensor, *, generator: Generator
    ) -> LatentState:
        """Filter: the belief after ``action (B, A)`` and then the sensor readings ``obs (B, O)``.

        Args:
            state: the belief before.
            action: model actions; those of ``first`` rows play no part.
            obs: in environment units.
            first: ``(B,)`` bool, rows in which an episode begins with ``obs``.
            generator: source of the draws.

        Raises:
            ValueError: for sensor readings of another shape.
        """
        if obs.ndim != 2 or obs.shape[1] != self.obs_size:
            raise ValueError(f"obs must be sensor readings (B, {self.obs_size}), got {tuple(obs.shape)}.")
        first = first.to(self.device, th.bool)
        fresh = self.initial(len(obs))
        state = LatentState(*(th.where(first[:, None], a, b) for a, b in zip(fresh, state, strict=True)))
        draws = SharedDraws(generator, 1, self.device)
        obs = obs.to(self.device, th.float64 if obs.dtype == th.float64 else th.float32)
        return self._filtered(state, action.to(self.device, th.float32), obs, first, draws)

    def _filtered(
        self, state: LatentState, action: Tensor, obs: Tensor, first: Tensor, draws: SharedDraws
    ) -> LatentState:
        """The belief of each row one observation later; ``first (B,)`` rows have an initial ``state``."""
        inputs = self.layout.following(self.embed(obs), action, first)
        if self.posterior.window is not None:
            return self._smoothed(self.posterior.window.append(state.memory, inputs), draws)
        memory, summary = self.posterior.summary.advance(state.memory, inputs)
        recurrent, parent = self.dynamics.advance(state.recurrent, state.sample, action)
        # Nothing comes before the first observation: no recurrent part, no state and no action.
        recurrent, parent = (th.where(first[:, None], 0.0, rows) for rows in (recurrent, parent))
        belief = self._settled(self.posterior(summary, parent))
        return LatentState(recurrent, self._drawn_from(belief, draws), belief.mean, belief.std, memory)

    def _smoothed(self, memory: Tensor, draws: SharedDraws) -> LatentState:
        """The smoother's belief in the newest state, from the window of inputs that ends with it."""
        assert self.posterior.window is not None
        inputs, length = self.posterior.window.read(memory)
        flags = inputs[:, 0, self.layout.embedding]
        noise = draws.normal(inputs.new_empty(*inputs.shape[:2], self.options.latent_size))
        inferred = self.infer_inputs(inputs, flags > 0, length, noise)
        each = th.arange(len(inputs), device=self.device), length - 1
        belief = self._settled(inferred.posterior.at(*each))
        return LatentState(inferred.recurrent[each], inferred.sample[each], belief.mean, belief.std, memory)

    def decode(self, state: LatentState) -> Tensor:
        """The sensor readings ``(B, O)`` to expect at the drawn state, in environment units."""
        return self._sensors(th.cat([state.recurrent, state.sample], 1))

    def _sensors(self, latent: Tensor) -> Tensor:
        return self.in_sensor_units(self.decoded(latent).mean)

    def in_sensor_units(self, standardised: Tensor) -> Tensor:
        """Standardised readings ``(..., O)`` as the sensors show them, in float64 where they do."""
        wide = self.sensor_space.dtype == np.float64
        return self.obs_normalizer.denormalize(standardised.double() if wide else standardised)

    # --- draws ------------------------------------------------------------------------------------------------------

    def _settled(self, gaussian: DiagonalGaussian) -> DiagonalGaussian:
        """The belief as it is drawn from: that of a deterministic model is one point."""
        if not self.options.deterministic:
            return gaussian
        return DiagonalGaussian(self.draw(gaussian, gaussian.mean), th.zeros_like(gaussian.std))

    def _drawn_from(self, gaussian: DiagonalGaussian, draws: SharedDraws) -> Tensor:
        return self.draw(gaussian, draws.normal(gaussian.mean))

    def _drawn(self, gaussian: DiagonalGaussian, generator: Generator) -> Tensor:
        return self._drawn_from(gaussian, SharedDraws(generator, 1, self.device))


def _fitting(options: LatentOptions, obs_size: int) -> LatentOptions:
    """``options``, after a check that the sensors are as many as the pixels that these name."""
    if options.image_shape is not None and math.prod(options.image_shape) != obs_size:
        raise ValueError(
            f"image_shape={options.image_shape} has {math.prod(options.image_shape)} pixels and the sensors have "
            f"{obs_size} entries: give (channels, height, width) of the image that the entries are row by row."
        )
    return options
