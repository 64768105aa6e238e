"""SAC, TD3 and DDPG with the targets of MVE and of STEVE."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch as th
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.utils import polyak_update
from torch import Generator, Tensor

from sb3_ext.actor_policy import ActorPolicy
from sb3_ext.agents.value_expansion import ValueExpansion
from sb3_ext.agents.value_expansion_targets import ExpandedValues


class ExpandedSAC(ValueExpansion, SAC):
    """SAC's own update, with expanded soft targets."""

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update ``gradient_steps`` times on ``batch_size`` real rows.

        Raises:
            ValueError: if there is no callback that brings a model.
        """
        tuned = [] if self.ent_coef_optimizer is None else [self.ent_coef_optimizer]
        self._begin_updates([self.actor.optimizer, self.critic.optimizer, *tuned])
        losses: dict[str, list[float]] = {"ent_coef": [], "actor_loss": [], "critic_loss": [], "ent_coef_loss": []}
        expanded: ExpandedValues | None = None
        for step in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
            action, log_prob = self.actor.action_log_prob(batch.observations)
            log_prob = log_prob.reshape(-1, 1)
            alpha = self._entropy_coefficient(log_prob, losses)
            with th.no_grad():
                values = partial(self._soft_values, alpha=alpha)
                ended = batch.dones.squeeze(1)
                expanded = self._expanded(batch.next_observations, ActorPolicy(self), values, alpha, ended=ended)
            losses["critic_loss"].append(self._critic_step(batch, expanded, 0.5))
            smallest, _ = th.min(th.cat(self.critic(batch.observations, action), dim=1), dim=1, keepdim=True)
            actor_loss = (alpha * log_prob - smallest).mean()
            losses["actor_loss"].append(actor_loss.item())
            self.actor.optimizer.zero_grad()
            actor_loss.backward()
            self.actor.optimizer.step()
            if step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        self._n_updates += gradient_steps
        if expanded is not None:
            self._record(losses, expanded)

    def _entropy_coefficient(self, log_prob: Tensor, losses: dict[str, list[float]]) -> Tensor:
        """The present coefficient; afterwards it is updated, where it is learned."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            losses["ent_coef"].append(self.ent_coef_tensor.item())
            return self.ent_coef_tensor
        assert isinstance(self.target_entropy, float)
        alpha = th.exp(self.log_ent_coef.detach())
        loss = -(self.log_ent_coef * (log_prob + self.target_entropy).detach()).mean()
        losses["ent_coef"].append(alpha.item())
        losses["ent_coef_loss"].append(loss.item())
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        return alpha

    def _soft_values(self, obs: Tensor, alpha: Tensor) -> Tensor:
        """The soft value ``(L, n)`` of each target critic at a fresh action of the actor."""
        action, log_prob = self.actor.action_log_prob(obs)
        return (th.cat(self.critic_target(obs, action), dim=1) - alpha * log_prob.reshape(-1, 1)).T


class ExpandedTD3(ValueExpansion, TD3):
    """The update of TD3, and of DDPG as its special case, with expanded targets."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update ``gradient_steps`` times on ``batch_size`` real rows.

        Raises:
            ValueError: if there is no callback that brings a model.
        """
        self._begin_updates([self.actor.optimizer, self.critic.optimizer])
        losses: dict[str, list[float]] = {"actor_loss": [], "critic_loss": []}
        expanded: ExpandedValues | None = None
        for _ in range(gradient_steps):
            self._n_updates += 1
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
            with th.no_grad():
                policy, ended = SmoothedTarget(self), batch.dones.squeeze(1)
                expanded = self._expanded(batch.next_observations, policy, self._target_values, 0.0, ended=ended)
            losses["critic_loss"].append(self._critic_step(batch, expanded, 1.0))
            if self._n_updates % self.policy_delay:
                continue
            actor_loss = -self.critic.q1_forward(batch.observations, self.actor(batch.observations)).mean()
            losses["actor_loss"].append(actor_loss.item())
            self.actor.optimizer.zero_grad()
            actor_loss.backward()
            self.actor.optimizer.step()
            polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
            polyak_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)
            polyak_update(self.critic_batch_norm_stats, self.critic_batch_norm_stats_target, 1.0)
            polyak_update(self.actor_batch_norm_stats, self.actor_batch_norm_stats_target, 1.0)
        if expanded is not None:
            self._record(losses, expanded)

    def _target_values(self, obs: Tensor) -> Tensor:
        """The value ``(L, n)`` of each target critic at the target actor's smoothed action."""
        mean = self.actor_target(obs)
        noise = th.empty_like(mean).normal_(0, self.target_policy_noise)
        return th.cat(self.critic_target(obs, smoothed(self, mean, noise)), dim=1).T


def smoothed(agent: TD3, mean: Tensor, noise: Tensor) -> Tensor:
    """``mean (n, A)`` with the clipped ``noise`` of TD3's targets."""
    return (mean + noise.clamp(-agent.target_noise_clip, agent.target_noise_clip)).clamp(-1, 1)


@dataclass(frozen=True)
class SmoothedTarget:
    """The policy that the targets of TD3 and DDPG follow, as a differentiable policy of model actions."""

    agent: TD3

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, None]:
        """One model action ``(B, A)`` per row of ``obs (B, O)``, and no log-probability."""
        mean = self.agent.actor_target(obs.to(self.agent.device)).to(obs.device)
        noise = th.randn(mean.shape, generator=generator, device=obs.device)
        return smoothed(self.agent, mean, self.agent.target_policy_noise * noise), None


class MVESAC(ExpandedSAC):
    """SAC with model-based value expansion (:func:`~sb3_ext.agents.value_expansion_targets.mve`)."""

    rule: Literal["mve", "steve"] = "mve"


class STEVESAC(ExpandedSAC):
    """SAC with stochastic ensemble value expansion (:func:`~sb3_ext.agents.value_expansion_targets.steve`)."""

    rule: Literal["mve", "steve"] = "steve"


class MVETD3(ExpandedTD3):
    """TD3 with model-based value expansion (:func:`~sb3_ext.agents.value_expansion_targets.mve`)."""

    rule: Literal["mve", "steve"] = "mve"


class STEVETD3(ExpandedTD3):
    """TD3 with stochastic ensemble value expansion (:func:`~sb3_ext.agents.value_expansion_targets.steve`)."""

    rule: Literal["mve", "steve"] = "steve"


class MVEDDPG(ExpandedTD3, DDPG):
    """DDPG with model-based value expansion (:func:`~sb3_ext.agents.value_expansion_targets.mve`), as published."""

    rule: Literal["mve", "steve"] = "mve"


class STEVEDDPG(ExpandedTD3, DDPG):
    """DDPG with stochastic ensemble value expansion (:func:`~sb3_ext.agents.value_expansion_targets.steve`).

    It has two critics unless ``policy_kwargs`` says otherwise, since one cannot disagree with itself.
    """

    rule: Literal["mve", "steve"] = "steve"

    def __init__(self, policy: str | type[Any], env: Any, **kwargs: Any) -> None:
        kwargs["policy_kwargs"] = {"n_critics": 2, **(kwargs.get("policy_kwargs") or {})}
        super().__init__(policy, env, **kwargs)
