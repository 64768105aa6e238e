"""The scalar linear-Gaussian system: every family of posteriors has a bound that is known exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from torch import Tensor, nn

from mbrl_wrappers.latent import ElboOptions, LatentStateSpaceModel
from mbrl_wrappers.latent.elbo import elbo_terms, sequence_loss
from mbrl_wrappers.nets.diagonal_gaussian import DiagonalGaussian
from mbrl_wrappers.seeding import torch_generator
from tests.latent.linear_gaussian import LinearGaussian, as_batch, true_model

SYSTEM = LinearGaussian()
LOG_LIKELIHOOD = -19.2446
"""Expected, of 10 observations."""

LOWER = np.tri(10, dtype=bool)
KNOWN: dict[str, tuple[Any, float]] = {
    "smoother": (SYSTEM.exact(), -19.2446),
    "factorised smoother": (SYSTEM.factors(np.ones((10, 10), bool)), -19.8456),
    "exact marginals as factors": (SYSTEM.exact_marginals(), -20.0290),
    "filter that sees one observation, by Bayes' rule": (SYSTEM.bayes_step(), -20.6195),
    "factorised filter": (SYSTEM.factors(LOWER), -21.0308),
    "Kalman filter's marginals as factors": (SYSTEM.exact_filter(), -21.9765),
    "single": (SYSTEM.factors(np.eye(10, dtype=bool)), -24.1309),
    "single that does not know the time": (SYSTEM.timeless_factors(), -24.1944),
}


class LinearPosterior(nn.Module):
    """A posterior whose mean is linear in the observations and the state before."""

    def __init__(self, weights: np.ndarray, variances: np.ndarray, parent: np.ndarray) -> None:
        super().__init__()
        self.autoregressive = bool(parent.any())
        self.weights, self.std, self.parent = (
            th.as_tensor(values).float() for values in (weights, np.sqrt(variances), parent)
        )

    def summary(self, inputs: Tensor, length: Tensor) -> Tensor:
        mean = inputs[..., 0] @ self.weights.T
        return th.stack([mean, self.std.expand_as(mean), self.parent.expand_as(mean)], -1)

    def forward(self, summary: Tensor, parent: Tensor) -> DiagonalGaussian:
        mean, std, weight = summary.split(1, -1)
        return DiagonalGaussian(mean + weight * parent[..., :1] if self.autoregressive else mean, std)


def gaps(model: LatentStateSpaceModel, obs: Tensor, seed: int = 0) -> Tensor:
    """The log-likelihood minus the bound of each row ``(B,)``, the latter from one draw of the posterior."""
    batch = as_batch(obs)
    noise = th.randn(*obs.shape, 1, generator=torch_generator(seed))
    with th.no_grad():
        bound = elbo_terms(model, batch, model.infer(batch, noise)).bound
    return SYSTEM.log_likelihood(obs) - bound.double()


def identity_encoder(model: LatentStateSpaceModel) -> None:
    with th.no_grad():
        model.encoder.layers[0].weight.fill_(1)
        model.encoder.layers[0].bias.zero_()


@pytest.mark.parametrize(("posterior", "expected"), KNOWN.values(), ids=KNOWN)
def test_the_bound_of_a_posterior_written_by_hand_is_its_exact_value(posterior: Any, expected: float) -> None:
    model = true_model(SYSTEM, encoder_hidden=())
    identity_encoder(model)
    model.posterior = LinearPosterior(*posterior)
    gap = gaps(model, SYSTEM.sample(100_000, seed=1))
    error = 4 * float(gap.std()) / math.sqrt(len(gap))
    assert error < 0.1
    assert float(gap.mean()) == pytest.approx(LOG_LIKELIHOOD - expected, abs=max(error, 2e-4))


def test_the_log_likelihood_is_its_exact_value() -> None:
    covariance = SYSTEM.obs_covariance
    entropy = 0.5 * (10 * math.log(2 * math.pi * math.e) + np.linalg.slogdet(covariance)[1])
    assert -entropy == pytest.approx(LOG_LIKELIHOOD, abs=1e-4)


def test_a_posterior_tied_to_the_prior_has_no_divergence_at_any_time() -> None:
    model = true_model(SYSTEM, encoder_hidden=())
    prior = np.eye(10, k=-1) * 0, np.array([1 / 0.19, *[1.0] * 9]), np.array([0.0, *[0.9] * 9])
    model.posterior = LinearPosterior(*prior)
    obs = SYSTEM.sample(20_000, seed=1)
    batch = as_batch(obs)
    noise = th.randn(*obs.shape, 1, generator=torch_generator(0))
    with th.no_grad():
        terms = elbo_terms(model, batch, model.infer(batch, noise))
    # A prior that is chained on its own draws would differ from the second observation on.
    th.testing.assert_close(terms.kl, th.zeros(20_000, 10), rtol=0, atol=1e-4)
    error = 4 * float(terms.bound.std()) / math.sqrt(20_000)
    assert float(terms.bound.mean()) == pytest.approx(-66.8210, abs=error)


def fit(
    model: LatentStateSpaceModel,
    parameters: Any,
    system: LinearGaussian,
    steps: int,
    rate: float = 5e-3,
    rows: int = 256,
) -> None:
    """Adam on fresh sequences, with a rate that falls to zero."""
    optimizer = th.optim.Adam(parameters, lr=rate)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    g = torch_generator(0)
    for step in range(steps):
        obs = system.sample(rows, seed=1000 + step)
        loss, _ = sequence_loss(model, as_batch(obs), th.randn(*obs.shape, 1, generator=g), ElboOptions())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(posterior="smoother"), -19.2446),
        (dict(posterior="factorised smoother"), -19.8456),
        (dict(posterior="filter", summary="gru"), -20.4298),
        (dict(posterior="filter", summary="none"), -20.4494),
        (dict(posterior="factorised filter"), -21.0308),
        (dict(posterior="factorised filter", summary="transformer"), -21.0308),
        (dict(posterior="single"), -24.1944),  # of one network for all times
    ],
    ids=lambda value: "" if isinstance(value, float) else " ".join(value.values()),
)
def test_a_learned_posterior_reaches_the_exact_bound_of_its_family(options: Any, expected: float) -> None:
    model = true_model(SYSTEM, **options)
    learned = [*model.encoder.parameters(), *model.posterior.parameters()]
    fit(model, learned, SYSTEM, 2000)
    gap = gaps(model, SYSTEM.sample(100_000, seed=1))
    print(options, "bound", LOG_LIKELIHOOD - float(gap.mean()), "exact", expected, "se", float(gap.std()) / 316)
    assert LOG_LIKELIHOOD - float(gap.mean()) == pytest.approx(expected, abs=0.05)
    assert float(gap.mean()) > -3 * float(gap.std()) / math.sqrt(len(gap)), "no bound exceeds the log-likelihood"


def learned_system(posterior: str, steps: int, rows: int, **options: Any) -> tuple[float, float, float]:
    """What a, q and r become when they are learned along with the posterior, on 30 observations."""
    system = LinearGaussian(30)
    floors: dict[str, Any] = dict(learn_decoder_std=True, min_decoder_std=0.05, decoder_std=1.0)
    model = true_model(system, posterior=posterior, **floors, **options)
    layer = model.dynamics.head.net.layers[0]
    only = th.zeros_like(layer.weight)
    only[0, 0] = 1  # the state before moves the mean and nothing else
    layer.weight.register_hook(lambda gradient: gradient * only)
    learned = [*model.encoder.parameters(), *model.posterior.parameters(), *model.dynamics.parameters()]
    fit(model, [*learned, *model.decoder_std.parameters()], system, steps, rate=1e-2, rows=rows)
    with th.no_grad():
        std = 1e-3 + th.nn.functional.softplus(layer.bias[1])
        found = 1 + float(layer.weight[0, 0]), float(std) ** 2, float(model.decoder_std()[0]) ** 2
    print(posterior, "a, q, r =", found)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_single_observation_makes_the_sensor_exact_and_the_dynamics_noisy() -> None:
    # The observation becomes the state: a is its autocorrelation, 0.9 * 5.2632 / 6.2632, and q is 6.2632 (1 - a^2).
    a, q, r = learned_system("single", 3000, 512, encoder_hidden=())
    assert a == pytest.approx(0.7563, rel=0.03)
    assert q == pytest.approx(2.6807, rel=0.03)
    assert r < 0.1, "and falls on: nothing holds it but its floor"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_structured_smoother_recovers_the_system() -> None:
    a, q, r = learned_system("smoother", 1500, 128)
    assert a == pytest.approx(0.9, rel=0.03)
    assert q == pytest.approx(1.0, rel=0.05)
    assert r == pytest.approx(1.0, rel=0.05)
