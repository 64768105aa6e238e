"""DHMBPO: an off-policy agent that differentiates through short rollouts from states that a long rollout visits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn

from mbrl_wrappers.precision import model_dtype
from mbrl_wrappers.rollout import Rollout, branched_rollout
from mbrl_wrappers.seeding import fresh_seed, seed_at, torch_generator
from mbrl_wrappers.states import StateDict
from mbrl_wrappers.types import DynamicsModel
from mbrl_wrappers.unroll import Unrolled, unroll
from sb3_ext.actor_policy import ActorPolicy
from sb3_ext.agent_checks import mixed_buffer
from sb3_ext.agents.differentiable import check_differentiable
from sb3_ext.agents.double_horizon_config import DoubleHorizonConfig
from sb3_ext.agents.double_horizon_losses import Segment, critic_loss, real_segment
from sb3_ext.agents.double_horizon_policy import CriticEnsemble, DoubleHorizonPolicy
from sb3_ext.agents.double_horizon_state import double_horizon_state, load_double_horizon_state
from sb3_ext.agents.model_draws import ModelDraws
from sb3_ext.agents.state_ring import StateRing
from sb3_ext.buffers import MixedReplayBuffer
from sb3_ext.model_log import record_rollout

FEWEST_VALID = 0.5
"""Share of rows whose first imagined step must be valid; an update with fewer takes real rows instead."""

DEFAULTS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "learning_starts": 1000,
    "gamma": 0.995,
    "ent_coef": "auto_0.1",
    "gradient_steps": 2,
    "replay_buffer_class": MixedReplayBuffer,
}
"""Arguments of SAC whose defaults differ here."""


class DoubleHorizon(SAC):
    r"""Double-horizon model-based policy optimisation (DHMBPO, Kubo et al. 2024), with SB3's interface.

    Every ``distribution_freq`` updates, a *distribution rollout* of the stochastic policy from real observations, many
    steps long and without gradients, fills a ring with the states that the policy visits. Each update starts a
    *training rollout* there, a few steps long and differentiable. Its rewards and the value of its end are the target
    of the first action's value and, differentiated through model and actions, the objective of the actor; the
    formulas are in :mod:`sb3_ext.agents.double_horizon_losses`. The critics' smallest of two random members ends a
    target, inside bounds that follow the rewards (:class:`~sb3_ext.agents.value_bounds.ValueBounds`); the mean of all
    ends the actor's objective. No real transition enters a loss: real data trains the model and gives the starts.

    ``DynaCallback`` builds and fits the model and hands it over::

        agent = DoubleHorizon("MlpPolicy", env)
        agent.learn(30_000, callback=DynaCallback())

    The model must be differentiable in torch. The reward's gradient counts where the model learns the reward or knows
    it as a function of torch; a termination is a mask without gradient. When most first steps of an update leave the
    model's limits or are not finite, the update is SAC's own on real rows, and is counted (``train/real_updates``); a
    gradient that is not finite is not applied (``train/skipped_updates``).

    Args:
        policy: ``"MlpPolicy"`` or a subclass of :class:`~sb3_ext.agents.double_horizon_policy.DoubleHorizonPolicy`.
        env: the real environment, without ``VecNormalize``: observations are standardised inside the agent.
        config: lengths and rates of the rollouts.
        **kwargs: what :class:`stable_baselines3.SAC` takes; :data:`DEFAULTS` are the defaults that differ.

    Attributes:
        dynamics: the model in use; None before the first fit. It is no part of the agent's file.

    Raises:
        TypeError: for an action space that is no Box, or a config of another kind.
        ValueError: for a ``gamma`` of 1, and for more target critics than there are critics.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": DoubleHorizonPolicy}
    policy: DoubleHorizonPolicy
    critic: CriticEnsemble  # type: ignore[assignment]
    critic_target: CriticEnsemble  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[DoubleHorizonPolicy],
        env: GymEnv | str,
        *,
        config: DoubleHorizonConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if config is not None and not isinstance(config, DoubleHorizonConfig):
            raise TypeError(f"config must be a DoubleHorizonConfig, got {type(config).__name__}.")
        space = getattr(env, "action_space", None)
        if space is not None and not isinstance(space, spaces.Box):
            raise TypeError(
                f"DoubleHorizon differentiates its actions, and {space} is no Box: train DQN with DynaCallback there."
            )
        self.config = config or DoubleHorizonConfig()
        super().__init__(policy, env, **(DEFAULTS | kwargs))

    def _check_numbers(self) -> None:
        if not 0 <= self.gamma < 1:
            raise ValueError(
                f"gamma must be at least 0 and below 1, got {self.gamma}: values are bounded by rewards / (1 - gamma)."
            )
        if self.config.target_critics > self.critic.n_critics:
            raise ValueError(
                f"target_critics={self.config.target_critics} cannot be drawn from n_critics={self.critic.n_critics}: "
                "lower DoubleHorizonConfig.target_critics, or raise policy_kwargs=dict(n_critics=...)."
            )

    def _setup_model(self) -> None:
        super()._setup_model()
        self._check_numbers()
        self.dynamics: DynamicsModel[Any] | None = None
        self._announced = False
        self._actor_policy = ActorPolicy(self)
        self._ring = StateRing(self.config.ring_states)
        seed = fresh_seed() if self.seed is None else self.seed
        self._starts_rng = np.random.default_rng(seed_at(seed, 1))
        self._model_draws = ModelDraws(seed_at(seed, 2))
        self._check_seed = seed_at(seed, 3)
        self._generator: th.Generator | None = None
        self._keeps_statistics = False
        self._real_updates = self._skipped_updates = 0

    # --- the model: called by DynaCallback --------------------------------------------------------------------------

    def check_model(self, dynamics: DynamicsModel[Any], starts: Tensor) -> None:
        """Raise unless the agent can train inside ``dynamics``; see :class:`~sb3_ext.model_user.ModelUser`.

        Raises:
            TypeError: for a model whose predictions carry no gradient.
            ValueError: if the environment is wrapped in ``VecNormalize``.
        """
        if self.get_vec_normalize_env() is not None:
            raise ValueError(
                "DoubleHorizon standardises observations itself, from the same rows as the model, and scales its "
                "critics: leave VecNormalize out."
            )
        generator = torch_generator(self._check_seed, dynamics.device)
        check_differentiable(dynamics, self._actor_policy, starts, generator=generator)
        self._announced = True

    def use_model(self, dynamics: DynamicsModel[Any]) -> None:
        """Train inside ``dynamics`` from now on, with observations standardised by all real rows.

        An agent that goes on from a checkpoint has the statistics of the last fit before it.
        """
        self._generator = self._model_draws.on(dynamics.device)
        self.dynamics = dynamics
        if self._keeps_statistics:
            self._keeps_statistics = False
            return
        buffer = mixed_buffer(self)
        rows = buffer.observations[: buffer.size()]
        self.policy.standardize(th.as_tensor(rows.reshape(-1, rows.shape[-1]), device=self.device))

    # --- updates ----------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update ``gradient_steps`` times on ``batch_size`` rows; none before the model was fitted.

        Raises:
            ValueError: if there is no callback that brings a model.
        """
        if self.dynamics is None:
            if not self._announced:
                raise ValueError("DoubleHorizon trains inside a model: learn(..., callback=DynaCallback()).")
            return
        self.policy.set_training_mode(False)  # no layer acts differently in training
        alpha_optimizer = [] if self.ent_coef_optimizer is None else [self.ent_coef_optimizer]
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer, *alpha_optimizer])
        records: list[dict[str, Tensor]] = []
        for _ in range(gradient_steps):
            if self._n_updates % self.config.distribution_freq == 0 or not len(self._ring):
                self._visit()
            records.append(self._update(batch_size))
            self._n_updates += 1
            if self._n_updates % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
        for name in records[0] if records else ():
            self.logger.record(f"train/{name}", float(th.stack([record[name] for record in records]).mean()))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/value_low", float(self.critic.bounds.low))
        self.logger.record("train/value_high", float(self.critic.bounds.high))
        self.logger.record("train/real_updates", self._real_updates)
        self.logger.record("train/skipped_updates", self._skipped_updates)

    def _visit(self) -> None:
        """Push what the present policy visits inside the model into the ring."""
        dynamics, config = self._model()
        starts = mixed_buffer(self).sample_observations(config.distribution_starts, self._starts_rng)
        rows = th.as_tensor(starts, dtype=model_dtype(dynamics), device=dynamics.device)
        length = config.distribution_horizon
        rollout = branched_rollout(dynamics, self._actor_policy, rows, length, generator=self._draws())
        self._ring.push(visited(rollout) if rollout.transitions.num_rows else rows)
        record_rollout(self.logger, rollout, length, len(rows))
        self.logger.record("dyna/ring_states", len(self._ring))

    def _update(self, batch_size: int) -> dict[str, Tensor]:
        """One update of critics, actor and entropy coefficient; what came of it."""
        dynamics, config = self._model()
        policy = self._actor_policy
        starts = self._ring.sample(batch_size, generator=self._draws())
        unrolled = unroll(dynamics, policy, starts, config.horizon, generator=self._draws())
        if unrolled.valid[0].float().mean() >= FEWEST_VALID:
            segment = self._segment(unrolled)
            return self._learn(segment, segment)
        self._real_updates += 1
        rows = mixed_buffer(self).sample(batch_size)
        recorded = real_segment(
            rows.observations, rows.actions, rows.rewards.flatten(), rows.next_observations, rows.dones.flatten()
        )
        with th.no_grad():
            real = self._segment(recorded)
        return self._learn(real, self._segment(unroll(dynamics, policy, rows.observations, 0, generator=self._draws())))

    def _segment(self, unrolled: Unrolled) -> Segment:
        """``unrolled`` on the agent's device, with the action of the policy after it."""
        action, log_prob = self._actor_policy.sample(unrolled.obs[-1], generator=self._draws())
        assert log_prob is not None
        fields = (None if field is None else field.to(self.device) for field in unrolled)
        return Segment(Unrolled(*fields), action.to(self.device), log_prob.to(self.device))  # type: ignore[arg-type]

    def _learn(self, for_critics: Segment, for_actor: Segment) -> dict[str, Tensor]:
        """A step of each optimiser, critics first."""
        alpha = self._step_alpha(for_actor.first_log_prob)
        with th.no_grad():
            steps = for_critics.unrolled
            self.critic.bounds.follow(
                for_critics.soft_rewards(alpha)[steps.valid],
                discount=self.gamma,
                quantile=self.config.bound_quantile,
                rate=self.config.bound_rate,
            )
            last = self.critic_target.values(steps.obs[-1], for_critics.last_action)
            end = self.critic.bounds.clipped(last.index_select(0, self._target_members()).amin(0))
            targets = for_critics.targets(end, alpha, self.gamma)
        values = self.critic.values(steps.obs[0].detach(), steps.action[0].detach())
        critics = critic_loss(values, targets, steps.valid[0])
        self._step(self.critic, critics)
        with frozen(self.critic):
            mean = self.critic.values(for_actor.unrolled.obs[-1], for_actor.last_action).mean(0)
        actor = -for_actor.objective(mean, alpha, self.gamma).mean()
        norm = self._step(self.actor, actor)
        return {
            "ent_coef": alpha,
            "critic_loss": critics.detach(),
            "actor_loss": actor.detach(),
            "actor_grad_norm": norm,
            "entropy": -for_actor.first_log_prob.detach().mean(),
            "value_mean": values.detach().mean(),
            "valid_fraction": steps.valid.float().mean(),
        }

    def _step_alpha(self, log_prob: Tensor) -> Tensor:
        """A step of the entropy coefficient towards the target entropy; the coefficient ``()`` before it."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return self.ent_coef_tensor.detach().reshape(())
        alpha = self.log_ent_coef.detach().exp().reshape(())
        assert isinstance(self.target_entropy, float)
        loss = -(self.log_ent_coef * (log_prob.detach() + self.target_entropy).mean()).sum()
        if loss.isfinite():
            self.ent_coef_optimizer.zero_grad()
            loss.backward()
            self.ent_coef_optimizer.step()
        return alpha

    def _step(self, network: nn.Module, loss: Tensor) -> Tensor:
        """One step of the optimiser of ``network``, unless the gradient is not finite; its norm ``()``."""
        optimizer: th.optim.Optimizer = network.optimizer  # type: ignore[assignment]
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([weight.grad for weight in network.parameters() if weight.grad is not None])
        if norm.isfinite():
            optimizer.step()
        else:
            self._skipped_updates += 1
        return norm

    def _target_members(self) -> Tensor:
        drawn = th.randperm(self.critic.n_critics, generator=self._draws(), device=self._draws().device)
        return drawn[: self.config.target_critics].to(self.device)

    def _draws(self) -> th.Generator:
        assert self._generator is not None
        return self._generator

    def _model(self) -> tuple[DynamicsModel[Any], DoubleHorizonConfig]:
        assert self.dynamics is not None
        return self.dynamics, self.config

    # --- SB3 --------------------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DoubleHorizon",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> DoubleHorizon:
        """As in SB3, with a callback that brings the model: ``DynaCallback()``, alone or in a list."""
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        return self

    def own_state(self) -> StateDict:
        """What a run checkpoint keeps besides SAC's state."""
        return double_horizon_state(self)

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model comes from the callback.

        Raises:
            ValueError: if it is the state of an agent with another ring.
        """
        load_double_horizon_state(self, state)

    def _excluded_save_params(self) -> list[str]:
        derived = ["dynamics", "_announced", "_actor_policy", "_ring", "_model_draws", "_starts_rng", "_generator"]
        derived += ["_check_seed", "_keeps_statistics"]
        return [*super()._excluded_save_params(), *derived]


def visited(rollout: Rollout) -> Tensor:
    """The observations of ``rollout`` that an episode goes on from, ``(n, O)``: all but terminal and dropped ones."""
    rows = rollout.transitions
    return th.cat([rows.obs, rows.next_obs[rows.last & ~rows.terminated]])


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside the block no loss gives ``network`` a gradient, while gradients flow through its inputs."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
