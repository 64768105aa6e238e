r"""The evidence lower bound of sequences, and the loss that training descends.

.. math:: \mathcal{L} = E_q\Big[\sum_{t=1}^{T} \ln p(o_t | s_t)
              + \sum_{t=1}^{T-1} \ln p(r_t | s_t, a_t, s_{t+1}) + \ln p(c_t | s_{t+1})\Big]
              - \sum_{t=1}^{T} E_q\big[\mathrm{KL}(q(s_t | \cdot) \,\|\, p(s_t | s_{t-1}, a_{t-1}))\big]

with the prior at the same drawn :math:`s_{t-1}` that the posterior went on from. All terms are sums over time and
dimensions, in nats, for observations and rewards in standardised units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch as th
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.latent.network import Inferred, StateSpaceNetwork
from mbrl_wrappers.latent.sequences import SequenceBatch

FreeNatsPer = Literal["entry", "mean"]


@dataclass(frozen=True)
class ElboOptions:
    r"""How the divergence from the prior enters the loss; the defaults are the plain bound.

    Attributes:
        kl_weight: weight of the divergence.
        kl_warmup: gradient steps over which the weight rises from 0.
        kl_balance: :math:`\alpha` in :math:`\alpha \mathrm{KL}(\lfloor q \rfloor \| p) + (1 - \alpha)
            \mathrm{KL}(q \| \lfloor p \rfloor)`, where brackets stop gradients (Hafner et al. 2021, DreamerV2,
            algorithm 2); None for the plain divergence.
        free_nats: a divergence below this many nats per step costs no more than it.
        free_nats_per: ``"entry"`` compares each row and time, and a step below gets no gradient; ``"mean"`` compares
            the mean over rows and times, so that hard steps may use what easy ones leave.
    """

    kl_weight: float = 1.0
    kl_warmup: int = 0
    kl_balance: float | None = None
    free_nats: float = 0.0
    free_nats_per: FreeNatsPer = "entry"

    def __post_init__(self) -> None:
        within("kl_weight", self.kl_weight, 0)
        at_least("kl_warmup", self.kl_warmup, 0)
        within("free_nats", self.free_nats, 0)
        if self.kl_balance is not None:
            within("kl_balance", self.kl_balance, 0, 1)
        if self.free_nats_per not in get_args(FreeNatsPer):
            raise ValueError(f"free_nats_per must be one of {get_args(FreeNatsPer)}, got {self.free_nats_per!r}.")

    def weight(self, step: int) -> float:
        """The weight of the divergence at gradient step ``step``."""
        return self.kl_weight * min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else self.kl_weight


class ElboTerms(NamedTuple):
    """The terms of the bound at each time, 0 where there is padding.

    Attributes:
        obs: ``(B, T)`` log-density of the sensor readings; dimensions that never vary are left out.
        reward: ``(B, T - 1)`` log-density of the rewards; 0 where the reward is known.
        termination: ``(B, T - 1)`` log-probability of going on or ending; 0 where the termination is known.
        kl: ``(B, T)`` divergence of the posterior from the prior; of a deterministic model minus the log-density of
            the next state under the dynamics.
    """

    obs: Tensor
    reward: Tensor
    termination: Tensor
    kl: Tensor

    @property
    def bound(self) -> Tensor:
        """The evidence lower bound of each row, ``(B,)`` nats."""
        return self.obs.sum(1) + self.reward.sum(1) + self.termination.sum(1) - self.kl.sum(1)


def elbo_terms(network: StateSpaceNetwork, batch: SequenceBatch, inferred: Inferred) -> ElboTerms:
    """The terms of the bound, with gradients."""
    latent, valid, steps = inferred.latent, batch.valid, batch.valid_steps
    varies = (~network.obs_normalizer.constant).float()
    target = network.standardised(batch.obs)
    obs = (network.decoded(latent).log_prob(target) * varies).sum(-1)
    none = obs.new_zeros(batch.reward.shape)
    reward = termination = none
    if network.learn_reward:
        wanted = network.reward_normalizer.normalize(batch.reward[..., None]).squeeze(-1)
        reward = network.rewarded(latent[:, :-1], batch.action, latent[:, 1:]).log_prob(wanted)
    if network.learn_termination:
        logit = network.termination_logit(latent[:, 1:])
        termination = -binary_cross_entropy_with_logits(logit, batch.terminated.to(logit), reduction="none")
    return ElboTerms(
        th.where(valid, obs, 0.0),
        th.where(steps, reward, none),
        th.where(steps, termination, none),
        th.where(valid, divergence(network, inferred), 0.0),
    )


def divergence(network: StateSpaceNetwork, inferred: Inferred, stopped: Literal["none", "q", "p"] = "none") -> Tensor:
    """How far the posterior is from the prior at each time, ``(B, T)`` nats.

    Args:
        network: whose posterior.
        inferred: what it made of sequences.
        stopped: which of the two gets no gradient.
    """
    posterior, prior = inferred.posterior, inferred.prior
    if network.options.deterministic:
        # The target gets no gradient: it would move towards what is easy to predict.
        return -prior.log_prob(inferred.sample.detach()).sum(-1)
    if stopped == "q":
        posterior = posterior.detached()
    elif stopped == "p":
        prior = prior.detached()
    return posterior.kl(prior).sum(-1)


def shaped_divergence(
    network: StateSpaceNetwork, inferred: Inferred, counted: Tensor, objective: ElboOptions
) -> Tensor:
    """The sum of the divergence over the ``counted (B, T)`` entries, with balance and free nats, ``()``."""

    def total(raw: Tensor) -> Tensor:
        if objective.free_nats_per == "mean":
            count = counted.sum().clamp(min=1)
            return (th.where(counted, raw, 0.0).sum() / count).clamp(min=objective.free_nats) * count
        return th.where(counted, raw.clamp(min=objective.free_nats), 0.0).sum()

    if network.options.deterministic:  # minus a log-density, which may be negative
        return th.where(counted, divergence(network, inferred), 0.0).sum()
    if objective.kl_balance is None:
        return total(divergence(network, inferred))
    to_prior = total(divergence(network, inferred, "q"))
    to_posterior = total(divergence(network, inferred, "p"))
    return objective.kl_balance * to_prior + (1 - objective.kl_balance) * to_posterior


def sequence_loss(
    network: StateSpaceNetwork,
    batch: SequenceBatch,
    noise: Tensor,
    objective: ElboOptions,
    *,
    burn_in: int = 0,
    step: int = 0,
) -> tuple[Tensor, ElboTerms]:
    """Minus the shaped bound per observation, ``()``, and the terms it is made of.

    Args:
        network: what is trained.
        batch: sequences on its device.
        noise: ``(B, T, Z)`` standard normal.
        objective: weight and shape of the divergence.
        burn_in: observations at the beginning of a piece that do not count where no episode begins with it: the
            posterior has yet to find out what it would know.
        step: gradient steps so far, for the warm-up.
    """
    inferred = network.infer(batch, noise)
    terms = elbo_terms(network, batch, inferred)
    time = th.arange(batch.obs.shape[1], device=batch.obs.device)
    counted = batch.valid & (batch.first[:, None] | (time >= burn_in))
    gain = (
        th.where(counted, terms.obs, 0.0).sum()
        + th.where(counted[:, 1:], terms.reward + terms.termination, terms.reward.new_zeros(())).sum()
    )
    cost = objective.weight(step) * shaped_divergence(network, inferred, counted, objective)
    return (cost - gain) / counted.sum().clamp(min=1), terms
