"""Policies with layer normalisation in the critics, for agents of Stable-Baselines3 that make many updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy

    _Base = BasePolicy
else:
    _Base = object


class NormedCritics(_Base):
    """Mix-in for a policy class that normalises each hidden layer of every critic before its activation.

    Critics that make many updates on few data overestimate actions that the data does not hold; normalised features
    bound what they can say there (DroQ, Hiraoka et al. 2022, section 4; Ball et al. 2023, "Efficient online
    reinforcement learning with offline data", section 4.2).
    """

    def make_critic(self, *args: Any, **kwargs: Any) -> Any:
        """The critic, or target critic, that SB3 builds, with its layers normalised."""
        critic: Any = super().make_critic(*args, **kwargs)  # type: ignore[misc]
        for number, network in enumerate(critic.q_networks):
            normed = normalized_layers(network)
            critic.q_networks[number] = normed
            critic.add_module(f"qf{number}", normed)
        return critic


class LayerNormSACPolicy(NormedCritics, SACPolicy):
    """SAC's ``MlpPolicy`` with layer normalisation in the critics: ``SAC(LayerNormSACPolicy, env)``."""


class LayerNormTD3Policy(NormedCritics, TD3Policy):
    """The same for TD3 and DDPG."""


def normalized_layers(network: nn.Sequential) -> nn.Sequential:
    """``network`` with an ``nn.LayerNorm`` after each affine layer but the last, around the same affine layers."""
    *hidden, _ = [layer for layer in network if isinstance(layer, nn.Linear)]
    layers: list[nn.Module] = []
    for layer in network:
        layers.append(layer)
        if any(layer is each for each in hidden):
            layers.append(nn.LayerNorm(layer.out_features))
    return nn.Sequential(*layers)
