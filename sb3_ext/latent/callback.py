"""Trains a latent model beside an off-policy agent that sees its beliefs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from mbrl_wrappers.fitting import FitReport, ModelTrainer
from mbrl_wrappers.latent.belief_env import BeliefObservation
from mbrl_wrappers.latent.model import LatentStateSpaceModel
from mbrl_wrappers.states import StateDict
from mbrl_wrappers.training.sequence_report import SequenceFitReport
from sb3_ext.buffers import MixedReplayBuffer
from sb3_ext.callbacks import DynaCallback
from sb3_ext.dyna_config import DynaConfig
from sb3_ext.latent.belief_buffer import BeliefReplayBuffer
from sb3_ext.latent.belief_vec_env import BeliefVecEnv, share_environments
from sb3_ext.latent.sequence_log import record_sequence_fit

BeliefHolder = BeliefObservation | BeliefVecEnv


class LatentDynaCallback(DynaCallback):
    """Fits a latent model to the sensor readings of an agent that acts on its beliefs, and may imagine with it.

    The agent is unmodified, acts in :class:`~sb3_ext.latent.BeliefVecEnv` or
    :class:`~mbrl_wrappers.latent.BeliefObservation`, and is built with ``replay_buffer_class=BeliefReplayBuffer``.
    Whenever due, as :class:`~sb3_ext.DynaCallback` has it,

    1. the model is fitted to all stored sequences;
    2. beliefs of episodes under way are inferred anew, and with them the observation that the agent has in hand;
    3. rows imagined by the former weights are forgotten: their features are those of another model;
    4. with ``imagine``, branches of the agent's policy start from beliefs inferred at stored steps.

    Without ``imagine`` this is an actor-critic on learned representations, and with it one that also trains on model
    data. Up to the first imagined rows, and with ``imagine=False`` altogether, both train on the same batches.

    Args:
        dynamics: the model whose features the agent sees.
        trainer: fits it: ``SequenceTrainer(dynamics, ...)``.
        config: rates; by default those of :class:`~sb3_ext.DynaConfig`.
        imagine: whether to roll the model out.
        seed: of the draws of the rollouts; the agent's own by default.
        verbose: 1 prints the result of each fit.

    Raises:
        TypeError: for a model that infers no latent state.
        ValueError: as for :class:`~sb3_ext.DynaCallback`.
    """

    def __init__(
        self,
        dynamics: LatentStateSpaceModel,
        trainer: Any,
        config: DynaConfig | None = None,
        *,
        imagine: bool = True,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        if not isinstance(dynamics, LatentStateSpaceModel):
            raise TypeError(
                f"dynamics must be a LatentStateSpaceModel, got {type(dynamics).__name__}: models of what the sensors "
                "show are for DynaCallback."
            )
        super().__init__(dynamics, config, trainer=cast(ModelTrainer, trainer), seed=seed, verbose=verbose)
        self.imagine = imagine
        self._holders: list[BeliefHolder] = []
        self._interruptions: list[int] = []

    def _init_callback(self) -> None:
        env = self.model.env
        assert env is not None
        buffer = getattr(self.model, "replay_buffer", None)
        if not isinstance(buffer, BeliefReplayBuffer):
            raise TypeError(
                "LatentDynaCallback needs the agent to be built with replay_buffer_class=BeliefReplayBuffer; its "
                f"buffer is {type(buffer).__name__}."
            )
        if self.model.get_vec_normalize_env() is not None:
            raise ValueError(
                "VecNormalize would scale features by statistics of models that are gone: leave it out, the model "
                "standardises its sensors itself."
            )
        self._holders = belief_holders(env)
        for holder in self._holders:
            if holder.model is not self.dynamics:
                raise ValueError(
                    "The environment filters with another model than the callback fits: give BeliefVecEnv (or "
                    "BeliefObservation) and LatentDynaCallback the same object."
                )
        assert isinstance(self.dynamics, LatentStateSpaceModel)
        buffer.use_model(self.dynamics)
        super()._init_callback()

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._refuse_shared_holders()
        self._interruptions = [holder.interruptions for holder in self._holders]

    def _on_step(self) -> bool:
        for row, holder in enumerate(self._holders):
            if holder.interruptions == self._interruptions[row]:
                continue
            # A time limit around BeliefObservation ends episodes without its knowledge, and that is no interruption.
            if isinstance(holder, BeliefVecEnv) or not self.locals["dones"][row]:
                raise ValueError(SHARED)
            self._interruptions[row] = holder.interruptions
        return super()._on_step()

    def _fit(self, buffer: MixedReplayBuffer) -> None:
        super()._fit(buffer)
        buffer.synthetic.clear()
        self._next_rollout = min(self._next_rollout, self.model.num_timesteps)
        agent: Any = self.model
        rows = [np.atleast_2d(holder.current()) for holder in self._holders]
        agent._last_obs = np.concatenate(rows).astype(agent._last_obs.dtype)

    def _roll_out(self, buffer: MixedReplayBuffer) -> None:
        if self.imagine:
            super()._roll_out(buffer)

    def state_dict(self) -> StateDict:
        """That of a :class:`~sb3_ext.DynaCallback`, with a report on sequences."""
        report: Any = self.report
        return {**super().state_dict(), "report": None if report is None else report.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, as :class:`~sb3_ext.DynaCallback` does."""
        super().load_state_dict({**state, "report": None})
        if state["report"] is not None:
            self.report = cast(FitReport, SequenceFitReport.from_state(state["report"]))

    def _first_observations(self) -> th.Tensor:
        """The sensor readings ``(N, O)``: known rewards and terminations are functions of them."""
        return th.as_tensor(np.concatenate([holder.tracker.sensors for holder in self._holders]))

    def _log_fit(self, report: FitReport) -> None:
        fitted: Any = report
        record_sequence_fit(self.logger, fitted)
        self.logger.record("model/fits", self._fits)
        self._say(
            f"step {self.model.num_timesteps}: fitted {fitted.train_rows} rows in {fitted.gradient_steps} steps and "
            f"{fitted.seconds:.1f} s, bound {fitted.quality.bound:.3f} nats, divergence {fitted.quality.kl:.3f}"
        )

    def _refuse_shared_holders(self) -> None:
        """Refuse an evaluation callback beside this one that would evaluate in the training environments."""
        siblings = getattr(self.locals.get("callback"), "callbacks", [])
        for sibling in siblings:
            env = getattr(sibling, "eval_env", None)
            if isinstance(env, VecEnv) and share_environments(env, cast(VecEnv, self.model.env)):
                raise ValueError(SHARED)


SHARED = (
    "Something else began episodes in the environment that the agent trains in, which ends its episodes and replaces "
    "their beliefs: evaluate in a copy with its own environment and belief, for_evaluation(env)."
)


def belief_holders(env: VecEnv) -> list[BeliefHolder]:
    """What filters the sensors of ``env``: one vector wrapper, or one wrapper in each row.

    Raises:
        ValueError: where nothing does, or only out of reach in another process.
    """
    inner = env
    while isinstance(inner, VecEnvWrapper):
        if isinstance(inner, BeliefVecEnv):
            return [inner]
        inner = inner.venv
    found: list[BeliefHolder] = []
    for row in inner.envs if isinstance(inner, DummyVecEnv) else ():
        layer: Any = row
        while layer is not None and not isinstance(layer, BeliefObservation):
            layer = getattr(layer, "env", None)
        found += [] if layer is None else [layer]
    if len(found) != env.num_envs:
        raise ValueError(
            "The agent does not see beliefs: wrap its vector environment in BeliefVecEnv(venv, model), or each "
            "environment in BeliefObservation(env, model). Of environments in processes of their own (SubprocVecEnv) "
            "only BeliefVecEnv can filter the sensors, since the model lives in this process."
        )
    return found
