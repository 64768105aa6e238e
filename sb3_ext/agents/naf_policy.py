"""The network of NAF, whose value is a quadratic in the action, and the policy around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

LOG_DIAGONAL = 5.0
"""Bound on the logarithm of the diagonal of the factor, on both sides."""


class QuadraticParts(NamedTuple):
    r"""What the network says of observations: ``value (B,)``, ``mean (B, A)`` and the lower ``factor (B, A, A)``."""

    value: Tensor
    mean: Tensor
    factor: Tensor


class NAFNetwork(BaseModel):
    r"""A value function whose maximum over actions is known in closed form.

    .. math:: Q(s, a) = V(s) - \tfrac12 (a - \mu(s))^\top L(s) L(s)^\top (a - \mu(s))

    with lower triangular :math:`L` whose diagonal is an exponential, so that :math:`P = L L^\top` is positive definite
    (Gu et al. 2016, "Continuous deep Q-learning with model-based acceleration", arXiv 1603.00748, equation 4). Actions
    are model actions.

    Args:
        observation_space: of the agent.
        action_space: a Box.
        features_extractor: what observations pass first.
        net_arch: width of each layer that the three outputs share.
        activation_fn: between them.
        squash_mean: keep :math:`\mu` inside [-1, 1] by a tanh. Without it the maximum may lie outside of the action
            space, and :math:`V` is then more than any action reaches; policies clip.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        *,
        features_extractor: BaseFeaturesExtractor,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        squash_mean: bool,
    ) -> None:
        super().__init__(observation_space, action_space, features_extractor=features_extractor)
        self.squash_mean = squash_mean
        self.action_size = int(th.tensor(action_space.shape).prod())
        self.shared = nn.Sequential(*create_mlp(features_extractor.features_dim, -1, net_arch, activation_fn))
        width = net_arch[-1] if net_arch else features_extractor.features_dim
        self.value_head = nn.Linear(width, 1)
        self.mean_head = nn.Linear(width, self.action_size)
        self.factor_head = nn.Linear(width, self.action_size * (self.action_size + 1) // 2)

    def parts(self, obs: PyTorchObs) -> QuadraticParts:
        """The three outputs for ``obs (B, O)``."""
        assert self.features_extractor is not None
        shared = self.shared(self.extract_features(obs, self.features_extractor))
        mean = self.mean_head(shared)
        size = self.action_size
        row, column = th.tril_indices(size, size, device=mean.device)
        entries = self.factor_head(shared)
        diagonal = row == column
        entries = th.where(diagonal, entries.clamp(-LOG_DIAGONAL, LOG_DIAGONAL).exp(), entries)
        factor = entries.new_zeros(len(entries), size, size)
        factor[:, row, column] = entries
        return QuadraticParts(self.value_head(shared).squeeze(1), mean.tanh() if self.squash_mean else mean, factor)

    def action_value(self, obs: PyTorchObs, action: Tensor) -> Tensor:
        """``Q (B,)`` of model actions ``(B, A)``."""
        value, mean, factor = self.parts(obs)
        return value - 0.5 * ((action - mean)[:, None] @ factor).square().sum((1, 2))

    def forward(self, obs: PyTorchObs) -> Tensor:
        """The largest value over actions ``(B, 1)``, as the Q-network of a value agent with a single action has it."""
        return self.parts(obs).value[:, None]


class NAFPolicy(BasePolicy):
    r"""Acts by the maximum of a :class:`NAFNetwork`, or near it.

    When asked for an action that explores, it draws from :math:`\mathcal{N}(\mu, c^2 P^{-1})`: more noise where the
    value is flat. The draw is from torch's global stream, as those of SB3's own policies are.

    Args:
        observation_space: of the agent.
        action_space: a Box.
        lr_schedule: learning rate.
        net_arch: width of each shared layer; two of 200 by default, as in the paper.
        activation_fn: between them.
        squash_mean: see :class:`NAFNetwork`.
        features_extractor_class: what observations pass first.
        features_extractor_kwargs: its arguments.

    Attributes:
        covariance_noise: ``c``, set by the agent; 0 for no noise of this kind.
    """

    q_net: NAFNetwork
    q_net_target: NAFNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        squash_mean: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            squash_output=True,
        )
        self.net_arch = [200, 200] if net_arch is None else net_arch
        self.activation_fn, self.squash_mean = activation_fn, squash_mean
        self.covariance_noise = 0.0
        self.q_net, self.q_net_target = self._network(), self._network()
        self.q_net_target.load_state_dict(self.q_net.state_dict())
        self.q_net_target.set_training_mode(False)
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.q_net.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _network(self) -> NAFNetwork:
        assert isinstance(self.action_space, spaces.Box)
        return NAFNetwork(
            self.observation_space,
            self.action_space,
            features_extractor=self.make_features_extractor(),
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            squash_mean=self.squash_mean,
        ).to(self.device)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Model actions ``(B, A)``, as :meth:`_predict` draws them."""
        return self._predict(obs, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        _, mean, factor = self.q_net.parts(observation)
        if not deterministic and self.covariance_noise:
            noise = th.randn_like(mean)[..., None]
            spread = th.linalg.solve_triangular(factor.transpose(1, 2), noise, upper=True)[..., 0]
            mean = mean + self.covariance_noise * spread
        return mean.clamp(-1, 1)

    def set_training_mode(self, mode: bool) -> None:
        """Put the network in training or evaluation mode; the target stays in evaluation mode."""
        self.q_net.set_training_mode(mode)
        self.training = mode

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        del data["normalize_images"]
        data |= {
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "squash_mean": self.squash_mean,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
        }
        return data
