"""The mix-in of MVE and STEVE: agents whose critics' targets look some imagined steps ahead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples
from torch import Tensor
from torch.nn.functional import mse_loss

from mbrl_wrappers.precision import model_dtype
from mbrl_wrappers.seeding import fresh_seed, seed_at
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import DifferentiablePolicy, DynamicsModel, MemberModel
from mbrl_wrappers.unroll import Unrolled, unroll
from sb3_ext.agents.model_draws import ModelDraws
from sb3_ext.agents.value_expansion_config import ExpansionConfig
from sb3_ext.agents.value_expansion_targets import ExpandedValues, begun_where, mve, not_imagined, steve
from sb3_ext.buffers import MixedReplayBuffer

CriticValues = Callable[[Tensor], Tensor]
"""``values(obs (n, O)) -> (L, n)``: what each target critic says of the policy's next action, entropy included."""


class ValueExpansion(OffPolicyAlgorithm):
    """A mix-in: the parent's updates, with targets that look ``H`` imagined steps ahead.

    The actor, the exploration and the entropy coefficient are the parent's own and see real states only. Before a model
    exists, and with ``horizon=0``, every update is the parent's to the last bit. An imagined step that is not finite or
    outside of the model's limits ends a row's expansion in the value before it; with none left, the target is the
    parent's. The log says how many steps a row has on average (``train/imagined_steps``) and which share of the rows
    ended like this (``train/imagined_refused``).

    ``DynaCallback`` fits the model and hands it over::

        agent = MVESAC("MlpPolicy", env)
        agent.learn(10_000, callback=DynaCallback())

    Args:
        policy: as the parent takes it.
        env: the real environment, without ``VecNormalize``.
        config: how far to look ahead.
        **kwargs: what the parent takes. ``replay_buffer_class`` is :class:`~sb3_ext.MixedReplayBuffer` unless given.

    Attributes:
        dynamics: the model in use; None before the first fit. It is no part of the agent's file.

    Raises:
        TypeError: for a config of another kind.
        ValueError: for STEVE with a single critic, since disagreement of critics is what it weighs the first candidate
            by.
    """

    rule: Literal["mve", "steve"]

    def __init__(
        self, policy: str | type[Any], env: GymEnv | str, *, config: ExpansionConfig | None = None, **kwargs: Any
    ) -> None:
        if config is not None and not isinstance(config, ExpansionConfig):
            raise TypeError(f"config must be ExpansionConfig(horizon=...), got {type(config).__name__}.")
        self.config = config or ExpansionConfig()
        super().__init__(policy, env, **({"replay_buffer_class": MixedReplayBuffer} | kwargs))

    def _setup_model(self) -> None:
        super()._setup_model()
        policy: Any = self.policy
        if self.rule == "steve" and policy.critic.n_critics < 2:
            raise ValueError(
                f"{type(self).__name__} weighs targets by how much critics disagree, and there is one: "
                "policy_kwargs=dict(n_critics=2), or more."
            )
        self.dynamics: DynamicsModel[Any] | None = None
        self._announced = False
        self._draws = ModelDraws(seed_at(fresh_seed() if self.seed is None else self.seed, 1))

    # --- the model: called by DynaCallback --------------------------------------------------------------------------

    def check_model(self, dynamics: DynamicsModel[Any], starts: Tensor) -> None:
        """Raise unless the agent can expand in ``dynamics``; see :class:`~sb3_ext.model_user.ModelUser`.

        Raises:
            ValueError: if the environment is wrapped in ``VecNormalize``.
        """
        if self.get_vec_normalize_env() is not None:
            raise ValueError(
                f"{type(self).__name__} adds the model's rewards, in raw units, to values of its critics, which learn "
                "normalised ones: leave VecNormalize out."
            )
        self._announced = True

    def use_model(self, dynamics: DynamicsModel[Any]) -> None:
        """Expand in ``dynamics`` from now on; STEVE in each of its members by itself, where it has some."""
        lasting = getattr(dynamics, "with_propagation", None)
        self.dynamics = dynamics if self.rule == "mve" or lasting is None else lasting("tsinf")

    # --- targets ----------------------------------------------------------------------------------------------------

    def _expanded(
        self,
        starts: Tensor,
        policy: DifferentiablePolicy,
        values: CriticValues,
        alpha: Tensor | float,
        *,
        ended: Tensor,
    ) -> ExpandedValues:
        """The values of ``starts (B, O)``, looked at ``H`` steps further on; none where an episode has ``ended (B,)``.

        A terminal observation has no successor: what a model predicts from there is no row to learn from.
        """
        members = self.config.members if self.rule == "steve" and isinstance(self.dynamics, MemberModel) else 1
        unrolled = begun_where(~ended.bool().repeat_interleave(members), self._imagined(starts, policy, members))
        first = values(starts).repeat_interleave(members, 1)[:, None]  # (L, 1, B K)
        later = unrolled.obs[1:].flatten(0, 1)
        found = th.cat([first, values(later).unflatten(1, (-1, unrolled.obs.shape[1]))], 1) if len(later) else first
        if self.rule == "mve":
            every_step = self.config.every_step
            return mve(unrolled, found.amin(0), discount=self.gamma, alpha=alpha, every_step=every_step)
        return steve(unrolled, found, members=members, discount=self.gamma, alpha=alpha)

    def _imagined(self, starts: Tensor, policy: DifferentiablePolicy, members: int) -> Unrolled:
        """``H`` steps from ``starts (B, O)`` on the agent's device, each followed in ``members`` of the model."""
        dynamics, horizon = self.dynamics, self.config.horizon
        if dynamics is None or horizon == 0:
            return not_imagined(starts.repeat_interleave(members, 0), int(np.prod(self.action_space.shape or ())))
        generator = self._draws.on(dynamics.device)
        rows = starts.to(dynamics.device, model_dtype(dynamics))
        state = None
        if members > 1:
            assert isinstance(dynamics, MemberModel)
            state = dynamics.reset_particles(rows, members, generator=generator)
            rows = rows.repeat_interleave(members, 0)
        unrolled = unroll(dynamics, policy, rows, horizon, generator=generator, state=state)
        return Unrolled(*(None if part is None else part.to(self.device) for part in unrolled))  # type: ignore[arg-type]

    # --- updates: what SAC and TD3 share ----------------------------------------------------------------------------

    def _begin_updates(self, optimizers: list[th.optim.Optimizer]) -> None:
        if self.dynamics is None and not self._announced:
            raise ValueError(f"{type(self).__name__} looks ahead in a model: learn(..., callback=DynaCallback()).")
        self.policy.set_training_mode(True)
        self._update_learning_rate(optimizers)

    def _critic_step(self, batch: ReplayBufferSamples, expanded: ExpandedValues, share: float) -> float:
        """Regress all critics on real and imagined rows; ``share`` of the sum of their mean squared errors."""
        critic: Any = self.policy.critic
        real = batch.rewards + (1 - batch.dones) * self.gamma * expanded.value[:, None]
        obs, action, target = batch.observations, batch.actions, real
        if len(expanded.rows.target):
            obs = th.cat([obs, expanded.rows.obs.to(obs.dtype)])
            action = th.cat([action, expanded.rows.action])
            target = th.cat([target, expanded.rows.target[:, None]])
        loss: Any = share * sum(mse_loss(current, target) for current in critic(obs, action))
        critic.optimizer.zero_grad()
        loss.backward()
        critic.optimizer.step()
        return float(loss.detach())

    def _record(self, losses: Mapping[str, Sequence[float]], expanded: ExpandedValues) -> None:
        """Log means of ``losses``, and of the last update how far its targets looked ahead."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, numbers in losses.items():
            if numbers:
                self.logger.record(f"train/{name}", np.mean(numbers))
        self.logger.record("train/imagined_steps", float(expanded.steps))
        self.logger.record("train/imagined_refused", float(expanded.refused))
        if self.rule == "steve":
            for steps, weight in enumerate(expanded.weights.mean(1).tolist()):
                self.logger.record(f"train/weight_{steps}", weight)

    # --- state ------------------------------------------------------------------------------------------------------

    def own_state(self) -> StateDict:
        """What a run checkpoint keeps besides the parent's state."""
        return {"draws": self._draws.state_dict()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model comes from the callback.

        Raises:
            ValueError: if it is the state of another agent.
        """
        require_keys(state, ("draws",), type(self).__name__)
        self._draws.load_state_dict(state["draws"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "dynamics", "_draws"]
