"""The actor of an SB3 agent as a policy whose draws carry gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Generator, Tensor

from mbrl_wrappers.checks import within
from mbrl_wrappers.spaces import ActionCodec, has_whole_numbers
from sb3_ext.agent_value import evaluating, normalized

SQUASH_EPSILON = 1e-6
"""Constant that SB3 adds inside the logarithm of the squash correction."""

Draw = Callable[[Any, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
"""``draw(policy, obs, noise, fixed) -> (action, log_prob)`` with normal noise ``(B, A)``.

Where ``fixed``, the draw is a constant: the action has no gradient, and the log-probability that of a score.
"""


class ActorPolicy:
    r"""Draws model actions from an agent's own actor, with gradients to its parameters and to the observations.

    =================== ============================================= ===========================================
    agent               action                                        log-probability
    =================== ============================================= ===========================================
    SAC, TQC, CrossQ    :math:`a = \tanh(\mu + \sigma \epsilon)`      :math:`\ln \mathcal{N}(u; \mu, \sigma) -
                                                                      \sum \ln(1 - a^2 + 10^{-6})`, u before tanh
    PPO, A2C, TRPO      :math:`\mu + \sigma \epsilon`, then clipped   :math:`\ln \mathcal{N}` of it before that
    TD3, DDPG           :math:`\mu` plus noise, clipped               None
    =================== ============================================= ===========================================

    The log-probability is that of the agent's own action, by SB3's own formula: for PPO in environment units. The
    actions returned are model actions, in [-1, 1] for a bounded Box; where an action is clipped, its gradient is zero.
    With gSDE each row draws noise of its own, of the distribution that SB3 calculates log-probabilities with.
    ``VecNormalize`` statistics are applied to the observation and never updated; batch normalisation and dropout act as
    in evaluation. All noise comes from the generator, so the agent and the global streams stay as they were.

    It is a :class:`~mbrl_wrappers.types.DifferentiablePolicy`, a :class:`~mbrl_wrappers.types.ScoredPolicy` where the
    actor has a density, and by calling it a :class:`~mbrl_wrappers.types.RolloutPolicy` without conversion to numpy.

    Args:
        agent: an agent of SB3 or sb3_contrib with a Box action space; looked at anew in every call.
        noise_std: standard deviation of the noise of deterministic actors, in model-action units.

    Raises:
        TypeError: for an agent whose actions are not continuous, or whose actor torch cannot differentiate.
        ValueError: for a negative ``noise_std``.
    """

    def __init__(self, agent: BaseAlgorithm, *, noise_std: float = 0.0) -> None:
        self.agent = agent
        self.noise_std = within("noise_std", noise_std, 0)
        _check_action_space(agent)
        self._draw, self._in_env_units = _reader(agent)
        self.codec = ActionCodec(agent.action_space)
        self._bounds = self.codec.bounds

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """One model action ``(B, A)`` per row of raw observations ``(B, O)``, and its log-probability ``(B,)``.

        Raises:
            ValueError: for observations of another shape than the agent's.
        """
        return self._drawn(obs, generator, fixed=False)

    def sample_scored(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        """The same draws as constants: actions ``(B, A)``, and their log-probabilities ``(B,)`` with the score.

        For PPO, A2C and TRPO this is the density of the action before it is clipped, as these agents learn from it.

        Raises:
            TypeError: for a deterministic actor, which has no density.
            ValueError: for observations of another shape than the agent's.
        """
        action, log_prob = self._drawn(obs, generator, fixed=True)
        if log_prob is None:
            raise TypeError(
                f"{type(self.agent).__name__} acts deterministically, so its actions have no density and the "
                "likelihood-ratio gradient does not exist: take the pathwise one, or a stochastic actor (SAC, PPO)."
            )
        return action, log_prob

    @th.no_grad()
    def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
        """The same model actions without gradients."""
        return self.sample(obs, generator=generator)[0]

    def _drawn(self, obs: Tensor, generator: Generator, *, fixed: bool) -> tuple[Tensor, Tensor | None]:
        if obs.shape[1:] != self.agent.observation_space.shape:
            raise ValueError(
                f"The agent observes {self.agent.observation_space.shape}, and the model predicts "
                f"{tuple(obs.shape[1:])}: is this an agent of another task?"
            )
        policy: Any = self.agent.policy
        noise = th.randn((len(obs), self.codec.size), generator=generator, device=obs.device)
        shown, normalizer = obs.to(self.agent.device), self.agent.get_vec_normalize_env()
        if normalizer is not None and normalizer.norm_obs:
            shown = normalized(shown, normalizer)
        with evaluating(getattr(policy, "actor", None) or policy):
            action, log_prob = self._draw(policy, shown.float(), noise.to(self.agent.device), fixed)
        action = action.to(obs.device)
        if log_prob is None:
            action = action + self.noise_std * noise
        elif self._in_env_units(policy):
            action = self.codec.encode(action)
        low, high = (edge.to(action.device) for edge in self._bounds)
        return action.clamp(low, high), None if log_prob is None else log_prob.to(obs.device)


def _check_action_space(agent: BaseAlgorithm) -> None:
    space = agent.action_space
    if not isinstance(space, spaces.Box) or has_whole_numbers(space):
        raise TypeError(
            f"{type(agent).__name__} acts in {space}, where an action has no derivative: pathwise gradients need a Box "
            "of floats. Estimate the gradient from log-probabilities instead, or train on rollouts (DynaCallback)."
        )


def _reader(agent: BaseAlgorithm) -> tuple[Draw, Callable[[Any], bool]]:
    """How actions are drawn from the agent's policy, and whether they are in environment units."""
    policy: Any = agent.policy
    name = type(agent).__name__
    if any(base.__module__.partition(".")[0] == "sbx" for base in type(agent).__mro__):
        raise TypeError(f"{name} of SBX computes in JAX, where torch has no gradients: take that of stable_baselines3.")
    if any("Recurrent" in base.__name__ for base in type(policy).__mro__):
        raise TypeError(f"{name} is recurrent: its action depends on more than one observation.")
    if isinstance(policy, ActorCriticPolicy):
        return _actor_critic, lambda policy: not policy.squash_output
    actor = getattr(policy, "actor", None)
    if hasattr(actor, "get_action_dist_params"):
        return _squashed, lambda policy: False
    if actor is not None and hasattr(actor, "mu"):
        return lambda policy, obs, noise, fixed: (policy.actor(obs), None), lambda policy: False
    raise TypeError(f"{name} has no actor that draws continuous actions: take SAC, TQC, CrossQ, TD3, DDPG, PPO or A2C.")


def _squashed(policy: Any, obs: Tensor, noise: Tensor, fixed: bool) -> tuple[Tensor, Tensor]:
    mean, log_std, extra = policy.actor.get_action_dist_params(obs)
    std = _std(policy.actor.action_dist, log_std, extra.get("latent_sde"))
    return _gaussian(mean, std, noise, squash=True, fixed=fixed)


def _actor_critic(policy: Any, obs: Tensor, noise: Tensor, fixed: bool) -> tuple[Tensor, Tensor]:
    extractor = policy.pi_features_extractor
    latent = policy.mlp_extractor.forward_actor(super(ActorCriticPolicy, policy).extract_features(obs, extractor))
    mean = policy.action_net(latent)
    std = _std(policy.action_dist, policy.log_std, latent)
    return _gaussian(mean, std, noise, squash=policy.squash_output, fixed=fixed)


def _std(distribution: Any, log_std: Tensor, latent: Tensor | None) -> Tensor:
    """The standard deviation of an action, ``(B, A)`` or ``(A,)``."""
    if not isinstance(distribution, StateDependentNoiseDistribution):
        return log_std.exp()
    assert latent is not None
    features = latent if distribution.learn_features else latent.detach()
    return (features**2 @ distribution.get_std(log_std) ** 2 + distribution.epsilon).sqrt()


def _gaussian(mean: Tensor, std: Tensor, noise: Tensor, *, squash: bool, fixed: bool) -> tuple[Tensor, Tensor]:
    action = mean + std * noise
    if fixed:
        action = action.detach()
        noise = (action - mean) / std
    # The density at the draw: (action - mean) / std is the noise.
    log_prob = (-0.5 * noise**2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(1)
    if not squash:
        return action, log_prob
    action = th.tanh(action)
    return action, log_prob - th.log(1 - action**2 + SQUASH_EPSILON).sum(1)
