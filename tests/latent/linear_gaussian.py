r"""The scalar linear-Gaussian system whose bounds are known exactly, in numpy and without the library.

.. math:: s_1 \sim N(0, q / (1 - a^2)), \quad s_{t+1} = a s_t + N(0, q), \quad o_t = s_t + N(0, r)

All posteriors below are Gaussian, so each bound is :math:`\ln p(o)` minus a divergence between Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.latent import LatentOptions, LatentStateSpaceModel, SequenceBatch
from mbrl_wrappers.nets.diagonal_gaussian import inverse_softplus
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.tasks.functions import never_terminates


@dataclass(frozen=True)
class LinearGaussian:
    """The system of ``steps`` observations."""

    steps: int = 10
    a: float = 0.9
    q: float = 1.0
    r: float = 1.0

    @property
    def prior_precision(self) -> np.ndarray:
        """``(T, T)``, tridiagonal."""
        precision = np.diag(np.full(self.steps, (1 + self.a**2) / self.q))
        precision[0, 0] = precision[-1, -1] = 1 / self.q
        if self.steps == 1:
            precision[0, 0] = (1 - self.a**2) / self.q
        for t in range(self.steps - 1):
            precision[t, t + 1] = precision[t + 1, t] = -self.a / self.q
        return precision

    @property
    def precision(self) -> np.ndarray:
        """Of the states given all observations."""
        return self.prior_precision + np.eye(self.steps) / self.r

    @property
    def obs_covariance(self) -> np.ndarray:
        return np.linalg.inv(self.prior_precision) + self.r * np.eye(self.steps)

    def log_likelihood(self, obs: Tensor) -> Tensor:
        """``(B,)`` exact, of ``obs (B, T)``."""
        covariance = th.as_tensor(self.obs_covariance)
        zero = th.zeros(self.steps, dtype=th.float64)
        return th.distributions.MultivariateNormal(zero, covariance).log_prob(obs.double())

    def sample(self, rows: int, seed: int) -> Tensor:
        """Observations ``(B, T)``."""
        g = torch_generator(seed)
        state = th.randn(rows, generator=g) * (self.q / (1 - self.a**2)) ** 0.5
        columns = []
        for _ in range(self.steps):
            columns.append(state + self.r**0.5 * th.randn(rows, generator=g))
            state = self.a * state + self.q**0.5 * th.randn(rows, generator=g)
        return th.stack(columns, 1)

    # --- posteriors: (weights of the observations (T, T), variances (T,), weight of the state before (T,)) -----------

    def factors(self, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""The best factorised posterior whose mean at time ``t`` is linear in the observations that ``seen[t]`` marks.

        With precision :math:`\Lambda` and covariance :math:`C` of the observations its weights :math:`K` solve
        :math:`(\Lambda K C)_{ti} = (C / r)_{ti}` wherever seen; the variances are :math:`1 / \Lambda_{tt}`.
        """
        precision, covariance = self.precision, self.obs_covariance
        where = np.argwhere(seen)
        system = np.array([[precision[t, u] * covariance[v, i] for u, v in where] for t, i in where])
        weights = np.zeros_like(precision)
        weights[tuple(where.T)] = np.linalg.solve(system, [covariance[t, i] / self.r for t, i in where])
        return weights, 1 / np.diag(precision), np.zeros(self.steps)

    def timeless_factors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best factors that see one observation each and do not know the time: one weight and one variance."""
        precision, covariance = self.precision, self.obs_covariance
        weight = np.trace(covariance) / self.r / np.trace(precision @ covariance)
        variance = self.steps / np.trace(precision)
        return weight * np.eye(self.steps), np.full(self.steps, variance), np.zeros(self.steps)

    def exact_filter(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The Kalman filter's marginals as factors."""
        weights, variances = np.zeros((self.steps, self.steps)), np.zeros(self.steps)
        for t in range(self.steps):
            short = LinearGaussian(t + 1, self.a, self.q, self.r)
            covariance = np.linalg.inv(short.precision)
            weights[t, : t + 1], variances[t] = covariance[-1] / self.r, covariance[-1, -1]
        return weights, variances, np.zeros(self.steps)

    def exact_marginals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The RTS smoother's marginals as factors."""
        covariance = np.linalg.inv(self.precision)
        return covariance / self.r, np.diag(covariance), np.zeros(self.steps)

    def bayes_step(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """:math:`p(s_t | s_{t-1}, o_t)` as the posterior."""
        first = self.q / (1 - self.a**2)
        variance = np.full(self.steps, 1 / (1 / self.q + 1 / self.r))
        variance[0] = 1 / (1 / first + 1 / self.r)
        parent = np.full(self.steps, self.a * variance[-1] / self.q)
        parent[0] = 0
        return np.diag(variance / self.r), variance, parent

    def exact(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The exact posterior: each state given the one before and the observations from then on."""
        precision = self.precision
        left, message = np.diag(precision).copy(), np.eye(self.steps) / self.r
        for t in range(self.steps - 2, -1, -1):
            factor = precision[t, t + 1] / left[t + 1]
            left[t] -= factor * precision[t, t + 1]
            message[t] -= factor * message[t + 1]
        parent = np.array([0.0, *(-precision[t - 1, t] / left[t] for t in range(1, self.steps))])
        return message / left[:, None], 1 / left, parent


def true_model(system: LinearGaussian, **options: Any) -> LatentStateSpaceModel:
    """A model whose decoder and dynamics are those of ``system``; only its posterior is left to be found."""
    settings: dict[str, Any] = dict(
        latent_size=1, hidden=(), encoder_hidden=(32,), decoder_std=system.r**0.5, min_std=1e-3, memory_size=32
    )
    model = LatentStateSpaceModel(
        spaces.Box(-np.inf, np.inf, (1,), np.float32),
        spaces.Box(-1.0, 1.0, (1,), np.float32),
        options=LatentOptions(**{**settings, **options}),
        reward_fn=lambda obs, action, next_obs: obs[:, 0],
        termination_fn=never_terminates,
        device="cpu",
    )
    with th.no_grad():
        for module in (model.decoder, model.dynamics.head):
            for parameter in module.parameters():
                parameter.zero_()
        model.decoder.layers[0].weight.fill_(1)
        layer = model.dynamics.head.net.layers[0]
        layer.weight[0, 0] = system.a - 1  # the dynamics add to the state
        layer.bias[1] = inverse_softplus(system.q**0.5 - 1e-3)
        model.dynamics.first_mean.zero_()
        model.dynamics.first_raw_std.fill_(inverse_softplus((system.q / (1 - system.a**2)) ** 0.5 - 1e-3))
    return model


def as_batch(obs: Tensor) -> SequenceBatch:
    """Observations ``(B, T)`` as sequences that begin episodes."""
    rows, steps = obs.shape
    none = th.zeros(rows, steps - 1)
    length = th.full((rows,), steps)
    return SequenceBatch(obs[..., None], none[..., None], none, none.bool(), th.ones(rows, dtype=th.bool), length)
