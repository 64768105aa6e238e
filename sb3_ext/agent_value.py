"""Any SB3 agent's critic as the terminal value of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from sb3_ext.agent_policy import padded


class AgentValue:
    r"""State values from an agent's critic: ``value(obs (B, O)) -> (B,)`` for raw observations, in raw rewards.

    ==================================== ==========================================================================
    agent                                value
    ==================================== ==========================================================================
    SAC, TD3, DDPG, CrossQ               :math:`\min_i Q_i(s, \pi(s))`, the smallest critic at the actor's own action
    TQC                                  the mean of all quantiles of all critics there
    DQN                                  :math:`\max_a Q(s, a)`
    QR-DQN                               the same with the mean of the quantiles
    PPO, A2C, TRPO                       :math:`V(s)`
    ==================================== ==========================================================================

    Values are discounted with the agent's ``gamma``, so use the same discount for the plan. ``VecNormalize``
    statistics are applied to the observation and undone on the reward. The value is differentiable (not that of SBX's
    SAC, TD3 and DDPG, which are read too), draws nothing, and leaves the agent as it was.

    Args:
        agent: looked at anew in every call, so that it may learn on.

    Raises:
        TypeError: for an agent without a critic that can be read this way (recurrent agents, SBX's others).
    """

    def __init__(self, agent: BaseAlgorithm) -> None:
        self.agent = agent
        self._value = _reader(agent)

    @property
    def discount(self) -> float:
        """The agent's own discount."""
        return float(getattr(self.agent, "gamma", 1.0))

    def __call__(self, obs: Tensor) -> Tensor:
        """The values ``(B,)`` of raw observations ``(B, O)``, on their device.

        Raises:
            ValueError: for observations of another shape than the agent's.
        """
        policy: Any = self.agent.policy
        if obs.shape[1:] != self.agent.observation_space.shape:
            raise ValueError(
                f"The agent observes {self.agent.observation_space.shape}, and the plan ends in "
                f"{tuple(obs.shape[1:])}: is this an agent of another task?"
            )
        shown = obs.to(self.agent.device)
        normalizer = self.agent.get_vec_normalize_env()
        if normalizer is not None and normalizer.norm_obs:
            shown = normalized(shown, normalizer)
        with evaluating(policy):
            value = self._value(policy, shown.float())
        if normalizer is not None and normalizer.norm_reward:
            value = value * float(np.sqrt(normalizer.ret_rms.var + normalizer.epsilon))
        return value.to(obs.device)


def _reader(agent: BaseAlgorithm) -> Callable[[Any, Tensor], Tensor]:
    """How the value is read from the agent's policy: a function of it and of normalised observations."""
    policy: Any = agent.policy
    name = type(agent).__name__
    if any(base.__module__.partition(".")[0] == "sbx" for base in type(agent).__mro__):
        if name in ("SAC", "TD3", "DDPG") and not getattr(policy, "dropout_rate", None):
            return _sbx_at_own_action
        raise TypeError(
            f"The critic of this {name} of SBX cannot be read: take SAC, TD3 or DDPG without dropout, or an agent of "
            "stable_baselines3 or sb3_contrib as terminal value."
        )
    if any("Recurrent" in base.__name__ for base in type(policy).__mro__):
        raise TypeError(f"{name} is recurrent: its value depends on more than one observation.")
    if isinstance(policy, ActorCriticPolicy):
        return lambda policy, obs: policy.predict_values(obs).squeeze(1)
    if hasattr(policy, "actor") and hasattr(policy, "critic"):
        return _at_own_action
    if hasattr(policy, "quantile_net"):
        return lambda policy, obs: policy.quantile_net(obs).mean(1).amax(1)
    if hasattr(policy, "q_net"):
        return lambda policy, obs: policy.q_net(obs).amax(1)
    raise TypeError(f"{name} has no critic: take SAC, TD3, TQC, CrossQ, DQN, PPO or their like.")


def _sbx_at_own_action(policy: Any, obs: Tensor) -> Tensor:
    """The pessimistic critic of an SBX agent at its own action; JAX computes it, so no gradient flows."""
    shown = padded(obs.detach().cpu().numpy())
    action = policy.select_action(policy.actor_state, shown)
    critics = np.array(policy.qf_state.apply_fn(policy.qf_state.params, shown, action))  # (critics, B, 1)
    return th.as_tensor(critics.min(0)[: len(obs), 0], device=obs.device)


def _at_own_action(policy: Any, obs: Tensor) -> Tensor:
    """The pessimistic critic, or the mean quantile, at the action that the actor takes without noise."""
    found = policy.critic(obs, policy.actor._predict(obs, deterministic=True))
    if isinstance(found, Tensor):  # (B, critics, quantiles)
        return found.flatten(1).mean(1)
    smallest: Tensor = th.cat(found, 1).amin(1)
    return smallest


def normalized(obs: Tensor, normalizer: VecNormalize) -> Tensor:
    """What ``VecNormalize.normalize_obs`` does, in torch, so that gradients pass."""
    statistics: Any = normalizer.obs_rms
    mean, spread = _like(obs, statistics.mean), _like(obs, np.sqrt(statistics.var + normalizer.epsilon))
    return ((obs - mean) / spread).clamp(-normalizer.clip_obs, normalizer.clip_obs)


def _like(obs: Tensor, values: NDArray[Any]) -> Tensor:
    return th.as_tensor(values, dtype=obs.dtype, device=obs.device)


@contextmanager
def evaluating(policy: nn.Module) -> Iterator[None]:
    """Batch normalisation and dropout as in evaluation inside the block, every module as it was after it."""
    in_training, waiting = [], [policy]
    while waiting:  # policy.modules() without the names that it makes on the way
        module = waiting.pop()
        if module.training:
            in_training.append(module)
        waiting.extend(child for child in module._modules.values() if child is not None)
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True
