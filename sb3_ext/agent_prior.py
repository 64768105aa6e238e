"""Any SB3 agent with Discrete actions as the prior of a tree search."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from mbrl_wrappers.checks import within
from sb3_ext.agent_value import evaluating, normalized


class AgentPrior:
    r"""An agent's action probabilities for raw observations: ``prior(obs (B, O)) -> (B, A)``.

    ================ ==============================================================================================
    agent            probabilities
    ================ ==============================================================================================
    DQN              :math:`\mathrm{softmax}(Q(s, \cdot) / \tau)`
    QR-DQN           the same with the mean of the quantiles
    PPO, A2C, TRPO   those of the policy, :math:`\propto \pi(a \mid s)^{1 / \tau}`
    ================ ==============================================================================================

    ``VecNormalize`` statistics are applied. Nothing is drawn and the agent is left as it was, so its random streams are
    too.

    Args:
        agent: looked at anew in every call, so that it may learn on.
        temperature: :math:`\tau > 0`; for a value agent in units of its values, which is why 1 is seldom the best.

    Raises:
        TypeError: for an agent whose actions are not Discrete, or that has neither a policy nor values that can be
            read this way (SBX, recurrent agents).
        ValueError: for an impossible temperature.
    """

    def __init__(self, agent: BaseAlgorithm, *, temperature: float = 1.0) -> None:
        name, policy = type(agent).__name__, agent.policy
        if not isinstance(agent.action_space, spaces.Discrete):
            raise TypeError(f"A prior needs an agent with Discrete actions; {name} acts in {agent.action_space}.")
        recurrent = any("Recurrent" in base.__name__ for base in type(policy).__mro__)
        readable = isinstance(policy, ActorCriticPolicy) or hasattr(policy, "q_net") or hasattr(policy, "quantile_net")
        if recurrent or not readable or not isinstance(policy, th.nn.Module):
            raise TypeError(f"{name} has no probabilities that one observation decides: take DQN, QR-DQN, PPO or A2C.")
        if within("temperature", temperature, 0) == 0:
            raise ValueError("temperature must be above 0.")
        self.agent, self.temperature = agent, temperature

    @th.no_grad()
    def __call__(self, obs: Tensor) -> Tensor:
        """The probabilities ``(B, A)`` at raw observations ``(B, O)``, on their device."""
        policy: Any = self.agent.policy
        shown = obs.to(self.agent.device)
        normalizer = self.agent.get_vec_normalize_env()
        if normalizer is not None and normalizer.norm_obs:
            shown = normalized(shown, normalizer)
        with evaluating(policy):
            logits = _logits(policy, shown.float())
        return (logits / self.temperature).softmax(1).to(obs.device)


def _logits(policy: Any, obs: Tensor) -> Tensor:
    if isinstance(policy, ActorCriticPolicy):
        distribution: Any = policy.get_distribution(obs)
        logits: Tensor = distribution.distribution.logits
    elif hasattr(policy, "quantile_net"):
        logits = policy.quantile_net(obs).mean(1)
    else:
        logits = policy.q_net(obs)
    return logits
