"""The soft value of an SAC agent, read at an action that its actor draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import SAC
from torch import Generator, Tensor

from sb3_ext.actor_policy import ActorPolicy
from sb3_ext.agent_value import normalized


class DrawnSoftValue:
    r"""One draw of the soft value of SAC's online critics: ``value(obs (B, O), generator=g) -> (B,)``.

    .. math:: V(s) = \min_i Q_i(s, a) - \alpha \ln \pi(a \mid s), \quad a \sim \pi(\cdot \mid s)

    (Haarnoja et al. 2018, "Soft actor-critic", equation 3.) Observations and values are in raw units: the statistics of
    ``VecNormalize`` are applied to the one and undone on the other. Differentiable in the observation and in the actor.

    Args:
        agent: an SAC agent.
        policy: draws its actions.
        entropy_coef: :math:`\alpha`, in the agent's units of reward.
    """

    def __init__(self, agent: SAC, policy: ActorPolicy, entropy_coef: float) -> None:
        self._agent, self._policy, self._entropy_coef = agent, policy, entropy_coef

    def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
        """The values ``(B,)`` of raw observations ``(B, O)``, on their device."""
        action, log_prob = self._policy.sample(obs, generator=generator)
        assert log_prob is not None
        shown, device = obs.to(self._agent.device), self._agent.device
        normalizer = self._agent.get_vec_normalize_env()
        if normalizer is not None and normalizer.norm_obs:
            shown = normalized(shown, normalizer)
        smallest = th.cat(self._agent.critic(shown.float(), action.to(device).float()), 1).amin(1)
        value = reward_scale(self._agent) * (smallest - self._entropy_coef * log_prob.to(device))
        return value.to(obs.device, obs.dtype)


def reward_scale(agent: SAC) -> float:
    """Raw units of reward per unit that the agent's critic learns in: 1 unless ``VecNormalize`` divides rewards."""
    normalizer: Any = agent.get_vec_normalize_env()
    if normalizer is None or not normalizer.norm_reward:
        return 1.0
    return float(np.sqrt(normalizer.ret_rms.var + normalizer.epsilon))
