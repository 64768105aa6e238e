"""How good a fitted latent state-space model is on held-out sequences, and what is wrong with it in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.latent.elbo import elbo_terms
from mbrl_wrappers.latent.network import StateSpaceNetwork
from mbrl_wrappers.latent.sequences import SequenceBatch
from mbrl_wrappers.states import StateDict

ACTIVE_VARIANCE = 0.01
"""A latent unit is active if the mean of its posterior varies by more than this over the data (Burda et al. 2016)."""

LITTLE_KL = 0.05
"""A posterior that is nearer to its prior than so many nats per observation carries no information."""

AT_FLOOR = 1.05
"""A learned standard deviation below this multiple of its floor counts as being at it."""


@dataclass(frozen=True)
class SequenceQuality:
    """What held-out sequences say of a latent model; nats are per observation and not shaped in any way.

    Attributes:
        bound: evidence lower bound.
        obs_log_prob: log-density of the sensor readings.
        reward_log_prob: of a learned reward.
        termination_log_prob: log-probability of a learned termination.
        kl: divergence of the posterior from the prior.
        active_units: latent units whose posterior mean varies over the data.
        closed_loop_r2: share of the variance that is reconstructed from the posterior, per dimension.
        open_loop_r2: the same at the same times, when the second half of each sequence is predicted from the first half
            and the actions; a posterior that carries information is better than that where there is noise to know of.
        decoder_std: per dimension, in standardised units.
        at_floor: names of the dimensions whose learned standard deviation is at its floor.
    """

    bound: float
    obs_log_prob: float
    reward_log_prob: float
    termination_log_prob: float
    kl: float
    active_units: int
    closed_loop_r2: tuple[float, ...]
    open_loop_r2: tuple[float, ...]
    decoder_std: tuple[float, ...]
    at_floor: tuple[str, ...]


@dataclass(frozen=True)
class SequenceFitReport:
    """The outcome of one fit of a latent state-space model.

    Attributes:
        gradient_steps: optimiser steps.
        windows_seen: training windows consumed.
        train_episodes: runs trained on.
        holdout_episodes: runs held out.
        train_rows: transitions in the first.
        holdout_rows: transitions in the second.
        initial_bound: evidence lower bound of the holdout before the first step, nats per observation.
        best_step: gradient step whose weights were kept.
        skipped_steps: steps whose loss or gradient was not finite, which changed nothing.
        dimensions: names of the predicted dimensions: ``obs0``, ``obs1`` ... and ``reward`` where it is learned.
        constant: names of those that never vary in the training rows.
        quality: of the kept weights on the holdout.
        problems: what is wrong, in sentences that say what to try; empty if nothing is.
        seconds: wall time.
    """

    gradient_steps: int
    windows_seen: int
    train_episodes: int
    holdout_episodes: int
    train_rows: int
    holdout_rows: int
    initial_bound: float
    best_step: int
    skipped_steps: int
    dimensions: tuple[str, ...]
    constant: tuple[str, ...]
    quality: SequenceQuality
    problems: tuple[str, ...]
    seconds: float

    def state_dict(self) -> StateDict:
        """The report as plain values."""
        return {**_with_lists(asdict(self)), "quality": _with_lists(asdict(self.quality))}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SequenceFitReport:
        """The report whose :meth:`state_dict` ``state`` is."""
        quality = SequenceQuality(**_with_tuples(state["quality"]))
        return cls(**{**_with_tuples(state), "quality": quality})


def _with_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def dimensions(network: StateSpaceNetwork) -> tuple[str, ...]:
    """Names of the predicted dimensions."""
    return (*(f"obs{index}" for index in range(network.obs_size)), *(["reward"] * network.learn_reward))


def constant_dimensions(network: StateSpaceNetwork) -> tuple[str, ...]:
    """Names of the predicted dimensions that never vary in the training rows."""
    flags = _with_reward(network, network.obs_normalizer.constant, network.reward_normalizer.constant)
    return tuple(name for name, flag in zip(dimensions(network), flags.tolist(), strict=True) if flag)


@th.no_grad()
def sequence_quality(network: StateSpaceNetwork, batch: SequenceBatch, *, generator: Generator) -> SequenceQuality:
    """Judge ``network`` on sequences that it was not trained on.

    Args:
        network: on the device of the batch.
        batch: sequences.
        generator: source of the draws, on the CPU.
    """
    noise = _noise(network, batch, generator)
    inferred = network.infer(batch, noise)
    terms = elbo_terms(network, batch, inferred)
    count = int(batch.valid.sum())
    half = int(batch.length.max()) // 2  # windows may all be shorter than they could be
    long_enough = batch.length > half
    closed, opened = (math.nan,) * len(dimensions(network)), (math.nan,) * len(dimensions(network))
    if half and bool(long_enough.any()):
        pieces = SequenceBatch(*(column[long_enough] for column in batch))
        drawn = noise[long_enough]
        closed = _r2(network, pieces, inferred.latent[long_enough][:, half - 1 :], half)
        begin = network.infer(pieces.cut(half), drawn[:, :half])
        rest = network.imagine(
            begin.recurrent[:, -1], begin.sample[:, -1], pieces.action[:, half - 1 :], drawn[:, half:]
        )
        opened = _r2(network, pieces, th.cat([begin.latent[:, -1:], rest], 1), half)
    # The mean of a deterministic model has a scale only once it is its draw.
    units = inferred.sample if network.options.deterministic else inferred.posterior.mean
    varying = units[batch.valid].var(0, correction=0) > ACTIVE_VARIANCE
    std = network.decoder_std()
    std = _with_reward(network, std, network.reward_std() if network.learn_reward else std[:0])
    low = network.options.learn_decoder_std * AT_FLOOR * network.options.min_decoder_std
    constant = constant_dimensions(network)
    named = zip(dimensions(network), std.tolist(), strict=True)
    return SequenceQuality(
        bound=float(terms.bound.sum()) / count,
        obs_log_prob=float(terms.obs.sum()) / count,
        reward_log_prob=float(terms.reward.sum()) / count,
        termination_log_prob=float(terms.termination.sum()) / count,
        kl=float(terms.kl.sum()) / count,
        active_units=int(varying.sum()),
        closed_loop_r2=closed,
        open_loop_r2=opened,
        decoder_std=tuple(std.tolist()),
        at_floor=tuple(name for name, value in named if value < low and name not in constant),
    )


def _noise(network: StateSpaceNetwork, batch: SequenceBatch, generator: Generator) -> Tensor:
    shape = (*batch.obs.shape[:2], network.options.latent_size)
    return th.randn(shape, generator=generator).to(batch.obs.device)


def _r2(network: StateSpaceNetwork, batch: SequenceBatch, latent: Tensor, half: int) -> tuple[float, ...]:
    """R² per dimension at the observations from number ``half`` on, of ``latent``, which begins one before it."""
    seen = batch.valid[:, half:]
    obs = network.decoded(latent[:, 1:]).mean[seen]
    wanted = network.standardised(batch.obs[:, half:])[seen]
    if network.learn_reward:
        reward = network.rewarded(latent[:, :-1], batch.action[:, half - 1 :], latent[:, 1:]).mean[seen]
        paid = network.reward_normalizer.normalize(batch.reward[:, half - 1 :][seen][:, None])
        obs, wanted = th.cat([obs, reward[:, None]], 1), th.cat([wanted, paid], 1)
    total = (wanted - wanted.mean(0)).square().mean(0)
    r2 = 1 - (wanted - obs).square().mean(0) / total.clamp(min=1e-3)  # of the training rows' variance at the least
    constant = _with_reward(network, network.obs_normalizer.constant, network.reward_normalizer.constant)
    return tuple(r2.masked_fill(constant, math.nan).tolist())


def _with_reward(network: StateSpaceNetwork, obs: Tensor, reward: Tensor) -> Tensor:
    return th.cat([obs, reward]) if network.learn_reward else obs


def sequence_problems(network: StateSpaceNetwork, quality: SequenceQuality, skipped: int) -> tuple[str, ...]:
    """What is wrong with a fitted model, in sentences that say what to try."""
    found = []
    size = network.options.latent_size
    if network.options.deterministic:
        if not quality.active_units:
            found.append(
                f"The latent state has collapsed: none of its {size} units varies with the data. Try a smaller "
                "decoder_std, and more gradient steps."
            )
    elif quality.kl < LITTLE_KL or not quality.active_units:
        found.append(
            f"The posterior has collapsed: it differs from the prior by {quality.kl:.3f} nats per observation, and "
            f"{quality.active_units} of {size} latent units vary with the data, so the latent state says nothing "
            "of the observations. Try a smaller decoder_std, ElboOptions(kl_warmup=...) or ElboOptions(free_nats=1.0), "
            "and more gradient steps."
        )
    if quality.at_floor:
        found.append(
            f"The learned decoder_std of {', '.join(quality.at_floor)} is at its floor "
            f"{network.options.min_decoder_std:g}: the decoder takes the sensor for exact and the dynamics for noisy. "
            "A posterior that cannot represent the true one does that (single, factorised); where the sensor is noisy, "
            "take posterior='smoother' or a fixed decoder_std."
        )
    if skipped:
        found.append(
            f"{skipped} gradient steps had a loss or gradient that was not finite and were skipped. Look for outliers "
            "in the data, or lower the learning rate."
        )
    return tuple(found)
