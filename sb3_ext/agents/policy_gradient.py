"""An SB3 agent that improves its policy by gradients of the return inside a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import SACPolicy
from torch import Generator, Tensor
from torch.nn import functional

from mbrl_wrappers.alpha_order import alpha_order
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.gradient_estimators import (
    Estimate,
    Estimator,
    ImaginedReturn,
    group_gradients,
    likelihood_ratio,
    pathwise,
)
from mbrl_wrappers.gradient_health import equal_groups, gradient_health
from mbrl_wrappers.seeding import fresh_seed, seed_at, torch_generator
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import DynamicsModel, NotFitted
from sb3_ext.actor_policy import ActorPolicy
from sb3_ext.agent_value import normalized
from sb3_ext.agents.differentiable import check_differentiable
from sb3_ext.agents.drawn_soft_value import DrawnSoftValue, reward_scale
from sb3_ext.agents.gradient_log import record_health
from sb3_ext.buffers import MixedReplayBuffer

GROUPS = 8
"""Groups of a batch that the variances of the mixed estimator are taken between."""

PROBE_STREAM, CHECK_STREAM = 1, 2

Agent = TypeVar("Agent", bound="ModelPolicyGradient")


class ModelPolicyGradient(SAC):
    r"""Ascends the gradient of the imagined return, from real states, through or inside a model.

    .. math:: J(\theta) = E_{s_0 \sim D} \Big[\sum_{t<H} \gamma^t (r_t - \alpha \ln \pi_\theta(a_t \mid s_t))
              + \gamma^H V(s_H)\Big]

    Starts :math:`s_0` are real observations from the replay buffer, steps are those of the model. ``estimator`` says
    how the gradient is estimated, see :mod:`mbrl_wrappers.gradient_estimators`: ``"likelihood_ratio"`` needs samples of
    the model only, ``"pathwise"`` a differentiable one, and ``"mixed"`` both estimates, combined by
    :func:`mbrl_wrappers.alpha_order.alpha_order` at the price of about five updates of another estimator.

    Actor, critics, entropy coefficient, collection, saving and logging are those of SAC. With ``terminal_value`` the
    critics learn from real transitions as SAC's do, and :math:`V(s) = \min_i Q_i(s, a) - \alpha \ln \pi(a \mid s)` with
    a drawn action ends the return. Without it there is no critic, and the return is that of ``H`` steps.

    The model comes from :class:`~sb3_ext.DynaCallback`, which fits it, or from :meth:`use_model`. It is no part of the
    agent's file. All draws in the model are the agent's own; those of the global streams are SAC's.

    Args:
        policy: as in SAC, ``"MlpPolicy"``.
        env: a task with a Box of actions.
        estimator: ``"likelihood_ratio"``, ``"pathwise"`` or ``"mixed"``.
        horizon: imagined steps ``H``, at least 1 without a terminal value.
        terminal_value: whether a critic ends the return.
        lam: :math:`\lambda` of the returns; below 1 they lean on the critic at every step.
        max_grad_norm: length at which the actor's gradient is clipped; None for no clipping.
        probe_freq: updates between looks at both estimators' variance, logged under ``gradient/``; 0 for none.
        **kwargs: every other argument of SAC, by name.

    Raises:
        ValueError: for numbers out of range, and for a batch that ``"mixed"`` cannot cut into groups.
        TypeError: when training starts, for a model that the estimator cannot use.
    """

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        *,
        estimator: Estimator = "pathwise",
        horizon: int = 5,
        terminal_value: bool = True,
        lam: float = 1.0,
        max_grad_norm: float | None = None,
        probe_freq: int = 1000,
        **kwargs: Any,
    ) -> None:
        if estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {get_args(Estimator)}, got {estimator!r}.")
        self.estimator: Estimator = estimator
        self.horizon = at_least("horizon", horizon, 0 if terminal_value else 1)
        self.terminal_value = terminal_value
        self.lam = within("lam", lam, 0, 1)
        if lam < 1 and not terminal_value:
            raise ValueError("lam < 1 leans on the critic at every step: leave terminal_value at True.")
        self.max_grad_norm = None if max_grad_norm is None else within("max_grad_norm", max_grad_norm, 0)
        self.probe_freq = at_least("probe_freq", probe_freq, 0)
        self.dynamics: DynamicsModel[Any] | None = None
        self.skipped_updates = 0
        self.gradient_seed: int | None = None
        self._model_promised = False
        self._differentiable = True
        super().__init__(policy, env, **{"replay_buffer_class": MixedReplayBuffer, **kwargs})  # type: ignore[arg-type]

    def _setup_model(self) -> None:
        if self.estimator == "mixed" and self.batch_size % GROUPS:
            raise ValueError(
                f"The mixed estimator cuts a batch into {GROUPS} groups: batch_size must be a multiple of {GROUPS}, "
                f"got {self.batch_size}."
            )
        super()._setup_model()
        if self.gradient_seed is None:
            self.gradient_seed = fresh_seed() if self.seed is None else seed_at(self.seed, 0)

    # --- the model --------------------------------------------------------------------------------------------------

    def check_model(self, dynamics: DynamicsModel[Any], starts: Tensor) -> None:
        """Try the estimator once on ``starts (N, O)``, before anything is collected.

        Raises:
            TypeError: if no gradient flows through ``dynamics`` and the estimator needs one.
        """
        policy, generator = ActorPolicy(self), self._stream(dynamics, CHECK_STREAM)
        differentiates = self.estimator != "likelihood_ratio" and self.horizon > 0
        if differentiates:
            check_differentiable(dynamics, policy, starts, generator=generator)
        self._differentiable = True
        try:
            pathwise(dynamics, policy, starts, self._objective(0.0), generator=generator)
        except NotFitted:
            pass
        except TypeError:
            if differentiates:
                raise
            self._differentiable = False
        self._model_promised = True

    def use_model(self, dynamics: DynamicsModel[Any]) -> None:
        """Train inside ``dynamics`` from now on."""
        self.dynamics = dynamics

    def _stream(self, dynamics: DynamicsModel[Any], place: int) -> Generator:
        """The draws of the next updates: they follow from the seed and the number of updates, so a file needs none."""
        assert self.gradient_seed is not None
        return torch_generator(seed_at(self.gradient_seed, place, self._n_updates), dynamics.device)

    def _objective(self, entropy_coef: float) -> ImaginedReturn:
        scale = reward_scale(self)
        return ImaginedReturn(
            self.horizon,
            self.gamma,
            DrawnSoftValue(self, ActorPolicy(self), entropy_coef) if self.terminal_value else None,
            entropy_coef=entropy_coef * scale,
            lam=self.lam,
            baseline="value" if self.terminal_value else "mean",
        )

    # --- updates ----------------------------------------------------------------------------------------------------

    def learn(
        self: Agent,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Agent:
        """Collect and train as every off-policy agent of SB3 does; pass a :class:`~sb3_ext.DynaCallback`."""
        name = tb_log_name or type(self).__name__
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update temperature, critics and actor ``gradient_steps`` times.

        Raises:
            ValueError: if there is no model and none is to come.
        """
        if self.dynamics is None and self.horizon:
            if self._model_promised:  # the callback waits for its first rows
                return
            raise ValueError(
                f"{type(self).__name__} has no model: pass callback=DynaCallback(...) to learn(), which fits one, or "
                "call use_model(dynamics) before."
            )
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        temperature = [] if self.ent_coef_optimizer is None else [self.ent_coef_optimizer]
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer, *temperature])
        generator = None if self.dynamics is None else self._stream(self.dynamics, 0)
        log: defaultdict[str, list[float]] = defaultdict(list)
        for step in range(gradient_steps):
            raw = self.replay_buffer.sample(batch_size)
            data = self._as_seen(raw)
            drawn = self._draw(data.observations)
            entropy_coef = self._update_temperature(drawn.log_prob, log)
            if self.terminal_value:
                self._update_critic(data, entropy_coef, log)
            gradient = self._actor_gradient(raw.observations, data, drawn, entropy_coef, generator, log)
            self._update_actor(gradient, log)
            if self.terminal_value and step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
            self._n_updates += 1
            if self.probe_freq and self._n_updates % self.probe_freq == 0:
                self._probe(raw.observations, float(entropy_coef))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("gradient/skipped_updates", self.skipped_updates)
        for name, values in log.items():
            self.logger.record(name, float(np.mean(values)))

    def _as_seen(self, raw: ReplayBufferSamples) -> ReplayBufferSamples:
        """``raw`` as ``VecNormalize`` shows it to the networks."""
        normalizer: Any = self.get_vec_normalize_env()
        if normalizer is None:
            return raw
        if normalizer.norm_obs:
            raw = raw._replace(
                observations=normalized(raw.observations, normalizer),
                next_observations=normalized(raw.next_observations, normalizer),
            )
        rewards = normalizer.normalize_reward(raw.rewards.cpu().numpy())
        return raw._replace(rewards=th.as_tensor(rewards, dtype=th.float32, device=raw.rewards.device))

    def _draw(self, observations: Tensor) -> _Drawn:
        """An action per observation from SAC's own stream; its gradient is needed only where no model is."""
        with th.set_grad_enabled(self.horizon == 0):
            action, log_prob = self.actor.action_log_prob(observations)
        return _Drawn(action, log_prob.reshape(-1, 1))

    def _update_temperature(self, log_prob: Tensor, log: defaultdict[str, list[float]]) -> Tensor:
        """One step of SAC's temperature; returns the coefficient as it was before."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            log["train/ent_coef"].append(self.ent_coef_tensor.item())
            return self.ent_coef_tensor
        entropy_coef = th.exp(self.log_ent_coef.detach())
        assert isinstance(self.target_entropy, float)
        loss = -(self.log_ent_coef * (log_prob + self.target_entropy).detach()).mean()
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        log["train/ent_coef"].append(entropy_coef.item())
        log["train/ent_coef_loss"].append(loss.item())
        return entropy_coef

    def _update_critic(
        self, data: ReplayBufferSamples, entropy_coef: Tensor, log: defaultdict[str, list[float]]
    ) -> None:
        """One step of SAC's critics on real transitions."""
        discounts = self.gamma if data.discounts is None else data.discounts
        with th.no_grad():
            action, log_prob = self.actor.action_log_prob(data.next_observations)
            smallest = th.cat(self.critic_target(data.next_observations, action), 1).amin(1, keepdim=True)
            following = smallest - entropy_coef * log_prob.reshape(-1, 1)
            target = data.rewards + (1 - data.dones) * discounts * following
        found = self.critic(data.observations, data.actions)
        loss = th.as_tensor(0.5 * sum(functional.mse_loss(values, target) for values in found))
        self.critic.optimizer.zero_grad()
        loss.backward()
        self.critic.optimizer.step()
        log["train/critic_loss"].append(loss.item())

    def _actor_gradient(
        self,
        starts: Tensor,
        data: ReplayBufferSamples,
        drawn: _Drawn,
        entropy_coef: Tensor,
        generator: Generator | None,
        log: defaultdict[str, list[float]],
    ) -> Tensor:
        """The gradient ``(P,)`` of the loss, in the units of the critic."""
        weights = list(self.actor.parameters())
        if self.horizon == 0:
            smallest = th.cat(self.critic(data.observations, drawn.action), 1).amin(1, keepdim=True)
            loss = (entropy_coef * drawn.log_prob - smallest).mean()
            log["train/actor_loss"].append(loss.item())
            return group_gradients([loss], weights)[0]
        assert generator is not None
        objective = self._objective(float(entropy_coef))
        if self.estimator == "mixed":
            gradient = self._mixed_gradient(starts, objective, generator, log)
        else:
            gradient = group_gradients([self._estimate(self.estimator, starts, objective, generator, log)], weights)[0]
        return -gradient / reward_scale(self)

    def _estimate(
        self,
        estimator: Estimator,
        starts: Tensor,
        objective: ImaginedReturn,
        generator: Generator,
        log: defaultdict[str, list[float]],
    ) -> Tensor:
        """Rows whose mean has the estimated gradient."""
        assert self.dynamics is not None
        estimate_with = pathwise if estimator == "pathwise" else likelihood_ratio
        found: Estimate = estimate_with(self.dynamics, ActorPolicy(self), starts, objective, generator=generator)
        log["train/actor_loss"].append(-float(found.returns.mean()) / reward_scale(self))
        log["gradient/valid_fraction"].append(float(found.unrolled.valid.float().mean()))
        return found.rows

    def _mixed_gradient(
        self, starts: Tensor, objective: ImaginedReturn, generator: Generator, log: defaultdict[str, list[float]]
    ) -> Tensor:
        weights = list(self.actor.parameters())
        both = [
            th.cat(
                [
                    group_gradients([self._estimate(estimator, chunk, objective, generator, log)], weights)
                    for chunk in equal_groups(starts, GROUPS)
                ]
            )
            for estimator in ("likelihood_ratio", "pathwise")
        ]
        found = alpha_order(*both)
        log["gradient/alpha"].append(found.alpha)
        log["gradient/gap"].append(found.gap)
        log["gradient/radius"].append(found.radius)
        return found.gradient

    def _update_actor(self, gradient: Tensor, log: defaultdict[str, list[float]]) -> None:
        """One step of the actor's optimiser, none for a gradient that is not finite."""
        norm = float(gradient.norm())
        if not np.isfinite(norm):
            self.skipped_updates += 1
            return
        log["gradient/norm"].append(norm)
        if self.max_grad_norm is not None and norm > self.max_grad_norm:
            gradient = gradient * (self.max_grad_norm / norm)
        place = 0
        for weight in self.actor.parameters():
            weight.grad = gradient[place : place + weight.numel()].view_as(weight).clone()
            place += weight.numel()
        self.actor.optimizer.step()

    def _probe(self, starts: Tensor, entropy_coef: float) -> None:
        """Log the variance of both estimators at one step, half the horizon and the horizon."""
        if self.dynamics is None or not self._differentiable or not self.horizon:
            return
        groups = next(count for count in (16, 8, 4, 2, 1) if len(starts) % count == 0)
        if groups == 1:
            return
        health = gradient_health(
            self.dynamics,
            ActorPolicy(self),
            list(self.actor.parameters()),
            starts,
            self._objective(entropy_coef),
            sorted({1, max(self.horizon // 2, 1), self.horizon}),
            generator=self._stream(self.dynamics, PROBE_STREAM),
            groups=groups,
        )
        record_health(self.logger, health)

    def own_state(self) -> StateDict:
        """What a run checkpoint keeps of it besides SAC's state."""
        return {"gradient_seed": self.gradient_seed, "skipped_updates": self.skipped_updates}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model comes from the callback."""
        require_keys(state, ("gradient_seed", "skipped_updates"), type(self).__name__)
        self.gradient_seed, self.skipped_updates = state["gradient_seed"], state["skipped_updates"]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "dynamics", "_model_promised", "_differentiable"]


class _Drawn(NamedTuple):
    """Actions ``(B, A)`` of the actor and their log-probabilities ``(B, 1)``."""

    action: Tensor
    log_prob: Tensor
