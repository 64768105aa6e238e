"""The exact latent model of a linear system: the Kalman filter, in both forms of a latent state-space model."""

from __future__ import annotations

from typing import NamedTuple, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from mbrl_wrappers.latent.model import Form
from mbrl_wrappers.linear_system import LinearSystem, Matrix
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.types import Prediction


class KalmanState(NamedTuple):
    """A Gaussian belief over the state.

    Attributes:
        state: ``(B, X)`` the state itself, where it is known.
        mean: ``(B, X)``.
        covariance: ``(B, X, X)``.
    """

    state: Tensor
    mean: Tensor
    covariance: Tensor


class LinearGaussianModel:
    """A latent model that is right, against which learned ones are judged.

    In the form ``"state"`` features are the state ``(X,)``; in the form ``"belief"`` the mean ``(X,)`` and the
    covariance ``(X * X,)`` of the Kalman filter, and a step draws a state from it, moves on, draws what the sensors
    would read and filters that.

    Args:
        system: the matrices.
        action_space: of the environment, in units of the control.
        form: what the features show.

    Raises:
        ValueError: for a form that does not exist.
    """

    def __init__(self, system: LinearSystem, action_space: spaces.Box, *, form: Form = "belief") -> None:
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}.")
        self.system, self.form, self.action_space = system, form, action_space
        self.codec = ActionCodec(action_space)
        self.device = th.device("cpu")
        size = len(system.drift)
        width = size if form == "state" else size + size * size
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.sensor_space = spaces.Box(-np.inf, np.inf, (len(system.sensor),), np.float32)

        def tensor(matrix: Matrix) -> Tensor:
            return th.tensor(matrix, dtype=th.float32)

        self._drift, self._control, self._sensor = tensor(system.drift), tensor(system.control), tensor(system.sensor)
        self._process, self._reading = tensor(system.process_noise), tensor(system.sensor_noise)
        self._first = tensor(system.first)
        self._state_cost, self._control_cost = tensor(system.state_cost), tensor(system.control_cost)

    def features(self, state: KalmanState) -> Tensor:
        """``(B, F)``, see the class."""
        if self.form == "state":
            return state.state
        return th.cat([state.mean, state.covariance.flatten(1)], 1)

    def reset(self, obs: Tensor, *, generator: Generator) -> KalmanState:
        """Start one trajectory per row of features ``(B, F)``."""
        size = len(self._drift)
        if self.form == "state":
            return KalmanState(obs, obs, obs.new_zeros(len(obs), size, size))
        mean, covariance = obs[:, :size], obs[:, size:].reshape(-1, size, size)
        return KalmanState(mean, mean, covariance)

    def step(self, state: KalmanState, action: Tensor, *, generator: Generator) -> tuple[KalmanState, Prediction]:
        """Advance every row with model actions ``(B, A)``."""
        control = self.codec.decode(action)
        truth = state.state
        if self.form == "belief":
            truth = _drawn(state.mean, state.covariance, generator)
        cost = _quadratic(truth, self._state_cost) + _quadratic(control, self._control_cost)
        moved = truth @ self._drift.T + control @ self._control.T
        moved = _drawn(moved, self._process[None], generator)
        never = th.zeros(len(moved), dtype=th.bool)
        if self.form == "state":
            return KalmanState(moved, moved, state.covariance), Prediction(moved, -cost, never)
        reading = _drawn(moved @ self._sensor.T, self._reading[None], generator)
        following = self.observe(state, action, reading, never, generator=generator)
        return following, Prediction(self.features(following), -cost, never)

    def initial(self, batch: int) -> KalmanState:
        """The belief before the first reading."""
        nothing = th.zeros(batch, len(self._drift))
        return KalmanState(nothing, nothing, self._first.expand(batch, -1, -1))

    def observe(
        self, state: KalmanState, action: Tensor, obs: Tensor, first: Tensor, *, generator: Generator
    ) -> KalmanState:
        """The Kalman filter: the belief after ``action (B, A)`` and the readings ``obs (B, O)``."""
        control = self.codec.decode(action)
        fresh = self.initial(len(obs))
        mean = th.where(first[:, None], fresh.mean, state.mean @ self._drift.T + control @ self._control.T)
        covariance = self._drift @ state.covariance @ self._drift.T + self._process
        covariance = th.where(first[:, None, None], fresh.covariance, covariance)
        innovation = self._sensor @ covariance @ self._sensor.T + self._reading
        gain = th.linalg.solve(innovation, self._sensor @ covariance).mT
        mean = mean + ((obs - mean @ self._sensor.T)[:, None] @ gain.mT)[:, 0]
        covariance = covariance - gain @ self._sensor @ covariance
        return KalmanState(mean, mean, (covariance + covariance.mT) / 2)


def _quadratic(rows: Tensor, matrix: Tensor) -> Tensor:
    return ((rows @ matrix) * rows).sum(1)


def _drawn(mean: Tensor, covariance: Tensor, generator: Generator) -> Tensor:
    """A draw ``(B, n)`` from each of ``B`` Gaussians; a covariance may be singular, and one may stand for all."""
    if (covariance == covariance[:1]).all():  # mostly so: a filter's covariance follows from the time alone
        covariance = covariance[:1]
    value, vector = th.linalg.eigh(covariance)
    noise = th.randn(mean.shape, generator=generator)
    away: Tensor = (vector @ (value.clamp(min=0).sqrt() * noise)[..., None])[..., 0]
    return mean + away
