"""Networks of the double-horizon agent: SAC's actor and an ensemble of critics, which standardise what they see."""

from __future__ import annotations

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from mbrl_wrappers.nets import EnsembleMLP, Normalizer
from sb3_ext.agents.value_bounds import ValueBounds


class StandardizingExtractor(BaseFeaturesExtractor):
    """Standardises observations with statistics that are set from outside and part of the agent's file.

    Args:
        observation_space: one-dimensional Box.
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, observation_space.shape[0])
        self.normalizer = Normalizer(observation_space.shape[0])

    def forward(self, observations: Tensor) -> Tensor:
        """``(B, O)`` raw to standardised."""
        return self.normalizer.normalize(observations)


class CriticEnsemble(BaseModel):
    r"""``E`` critics with SiLU between layers, evaluated as one batched product.

    .. math:: Q_e(s, a) = f_e(s, a) \, (q_{high} - q_{low}) / 2 + (q_{high} + q_{low}) / 2

    The last layer of :math:`f_e` starts at zero, so every critic begins in the middle of the bounds.

    Args:
        observation_space: of the agent.
        action_space: of the agent.
        features_extractor: what standardises observations.
        net_arch: width of each hidden layer.
        n_critics: ``E``.
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        *,
        features_extractor: BaseFeaturesExtractor,
        net_arch: list[int],
        n_critics: int,
    ) -> None:
        super().__init__(observation_space, action_space, features_extractor=features_extractor)
        self.n_critics = n_critics
        inputs = features_extractor.features_dim + math.prod(action_space.shape)
        # SB3 seeds the global stream before it builds networks; its seed is read here, nothing is drawn.
        generator = th.Generator().manual_seed(th.initial_seed())
        self.net = EnsembleMLP(n_critics, inputs, net_arch, 1, generator=generator)
        *hidden, last = self.net.linear_layers()
        with th.no_grad():
            for layer in hidden:  # from the ensemble's standard deviation to He's, sqrt(2 / inputs)
                layer.weight.mul_(2 * math.sqrt(2))
            last.weight.zero_()
        self.bounds = ValueBounds()

    def values(self, obs: PyTorchObs, actions: Tensor) -> Tensor:
        """The values of every critic, ``(E, B)``, for raw observations and model actions ``(B, A)``."""
        features = th.cat([self.extract_features(obs, self.features_extractor), actions], 1)
        outputs = self.net(features.expand(self.n_critics, *features.shape))
        return self.bounds.scaled(outputs.squeeze(2))

    def forward(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """As in SB3: one ``(B, 1)`` per critic."""
        return tuple(self.values(obs, actions)[:, :, None].unbind())


class DoubleHorizonPolicy(SACPolicy):
    """SAC's policy with standardised observations and a :class:`CriticEnsemble`.

    Args:
        observation_space: one-dimensional Box.
        action_space: Box.
        lr_schedule: learning rate.
        activation_fn: of the actor; critics use SiLU.
        n_critics: critics of the ensemble.
        **kwargs: what else :class:`~stable_baselines3.sac.policies.SACPolicy` takes, such as ``net_arch``.
    """

    critic: CriticEnsemble  # type: ignore[assignment]
    critic_target: CriticEnsemble  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        activation_fn: type[nn.Module] = nn.SiLU,
        n_critics: int = 3,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("features_extractor_class", StandardizingExtractor)
        kwargs.setdefault("optimizer_kwargs", {"fused": True})
        super().__init__(
            observation_space, action_space, lr_schedule, activation_fn=activation_fn, n_critics=n_critics, **kwargs
        )

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.critic_target.bounds = self.critic.bounds

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> CriticEnsemble:  # type: ignore[override]
        """A new ensemble of critics."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return CriticEnsemble(
            self.observation_space,
            kwargs["action_space"],
            features_extractor=kwargs["features_extractor"],
            net_arch=kwargs["net_arch"],
            n_critics=kwargs["n_critics"],
        ).to(self.device)

    def standardize(self, obs: Tensor) -> None:
        """Take the statistics of raw observations ``(B, O)`` for all networks."""
        for module in self.modules():
            if isinstance(module, StandardizingExtractor):
                module.normalizer.set_statistics(obs)
