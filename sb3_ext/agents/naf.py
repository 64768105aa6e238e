"""NAF: Q-learning with continuous actions, whose greedy action needs no actor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import polyak_update
from torch.nn.functional import mse_loss

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.states import StateDict, require_keys
from sb3_ext.agents.naf_explorer import ExploringController
from sb3_ext.agents.naf_policy import NAFNetwork, NAFPolicy

DEFAULTS: dict[str, Any] = {"learning_rate": 1e-3, "train_freq": 1}
"""Arguments of ``OffPolicyAlgorithm`` whose defaults differ here."""


class NAF(OffPolicyAlgorithm):
    r"""Q-learning with normalised advantage functions (NAF, Gu et al. 2016, arXiv 1603.00748, algorithm 1).

    .. math:: y = r + \gamma\,(1 - d)\,V'(s'), \quad L = \frac1B \sum (Q(s, a) - y)^2

    with the network of :class:`~sb3_ext.agents.naf_policy.NAFNetwork`, whose greedy action is :math:`\mu(s)`. The
    target :math:`V'` follows by :math:`\tau` at every ``target_update_interval``-th update.

    It is an ordinary off-policy agent: ``replay_buffer_class=MixedReplayBuffer`` and ``DynaCallback`` make it MBA
    (algorithm 2) with a :class:`~mbrl_wrappers.models.local_linear.LocalLinearModel`, or with any other model.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of :class:`~sb3_ext.agents.naf_policy.NAFPolicy`.
        env: with a Box of actions.
        covariance_noise: ``c`` of exploration with :math:`\mathcal{N}(\mu, c^2 P^{-1})`, also inside a model; 0 leaves
            exploration to ``action_noise``.
        max_grad_norm: gradients longer than this are shortened.
        target_update_interval: updates between two of the target.
        **kwargs: what SB3's off-policy agents take, such as ``tau``, ``gamma`` and ``action_noise``;
            :data:`DEFAULTS` are the defaults that differ.

    Raises:
        ValueError: for numbers out of range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": NAFPolicy}
    policy: NAFPolicy
    q_net: NAFNetwork
    q_net_target: NAFNetwork

    def __init__(
        self,
        policy: str | type[NAFPolicy],
        env: GymEnv | str,
        *,
        covariance_noise: float = 0.0,
        max_grad_norm: float = 10.0,
        target_update_interval: int = 1,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self.covariance_noise = within("covariance_noise", covariance_noise, 0)
        self.max_grad_norm = within("max_grad_norm", max_grad_norm, 1e-12)
        self.target_update_interval = at_least("target_update_interval", target_update_interval)
        self._explorer: ExploringController | None = None
        fixed = {"sde_support": False, "supported_action_spaces": (spaces.Box,), "support_multi_env": True}
        super().__init__(policy, env, **(DEFAULTS | kwargs | fixed))
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.q_net, self.q_net_target = self.policy.q_net, self.policy.q_net_target
        self.policy.covariance_noise = self.covariance_noise
        self._explorer = None

    # --- exploration ------------------------------------------------------------------------------------------------

    def explore_with(self, controller: ExploringController | None) -> None:
        """Let a controller act in some episodes (MBA's iLQG exploration); None ends it.

        It is no part of the agent's file: a loaded agent has none.
        """
        self._explorer = controller

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        action, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        if self._explorer is None or self.num_timesteps < learning_starts:
            return action, scaled
        seen = self._last_obs if self._vec_normalize_env is None else self._last_original_obs
        action = self._explorer.replaced(np.asarray(seen), action)
        return action, self.policy.scale_action(action)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: NDArray[Any],
        new_obs: Any,
        reward: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if self._explorer is not None:
            self._explorer.end_episodes(dones)

    # --- updates ----------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update ``gradient_steps`` times on ``batch_size`` rows."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[union-attr]
            discounts = self.gamma if batch.discounts is None else batch.discounts
            with th.no_grad():
                target = batch.rewards + (1 - batch.dones) * discounts * self.q_net_target(batch.next_observations)
            loss = mse_loss(self.q_net.action_value(batch.observations, batch.actions), target.squeeze(1))
            losses.append(loss.item())
            self.policy.optimizer.zero_grad()
            loss.backward()
            th.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            self._n_updates += 1
            if self._n_updates % self.target_update_interval == 0:
                polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), self.tau)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if losses:
            self.logger.record("train/loss", np.mean(losses))
        if self._explorer is not None:
            self.logger.record("rollout/controlled_episodes", self._explorer.episodes)

    def own_state(self) -> StateDict:
        """What a run checkpoint keeps besides the state of every SB3 agent: that of the controller that explores."""
        return {"explorer": None if self._explorer is None else self._explorer.state_dict()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: if a controller explored then and none does now, or the other way round.
        """
        require_keys(state, ("explorer",), type(self).__name__)
        if (state["explorer"] is None) != (self._explorer is None):
            raise ValueError("A controller explored in one of the run that was saved and this one: call explore_with.")
        if self._explorer is not None:
            self._explorer.load_state_dict(state["explorer"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "q_net", "q_net_target", "_explorer"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
