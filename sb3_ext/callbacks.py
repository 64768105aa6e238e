"""The conductor: fits the model, rolls it out and fills the buffer, between SB3's collecting and training."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.envs import Starts, StartSampler, start_sampler
from mbrl_wrappers.fitting import FitReport, ModelTrainer
from mbrl_wrappers.rollout import Rollout, branched_rollout
from mbrl_wrappers.schedules import RolloutLength
from mbrl_wrappers.seeding import spawn_seeds, torch_generator
from mbrl_wrappers.types import DynamicsModel, Limits, RewardFn, TerminationFn
from sb3_ext.agent_checks import check_agent, mixed_buffer
from sb3_ext.agent_policy import AgentPolicy
from sb3_ext.buffers import MixedReplayBuffer
from sb3_ext.default_model import build_default_dynamics, check_pieces, default_trainer

MAX_DRAWS = 20
"""How often starts are drawn at most, until the model's limits hold enough of them."""


@dataclass(frozen=True)
class DynaConfig:
    """The rates of model learning and model use, in real environment steps (all environments together).

    Collecting, target update and Q regression keep SB3's own settings: ``train_freq``, ``tau`` or
    ``target_update_interval``, and ``gradient_steps``; the share of real rows is the buffer's ``real_ratio``.

    Attributes:
        model_train_freq: steps between fits.
        rollout_freq: steps between rounds of rollouts.
        rollouts_per_step: branches started per real step, so a round has ``rollouts_per_step * rollout_freq``.
        rollout_length: steps per branch as a function of real steps, or a constant.
        retain_steps: real steps for which imagined rows are kept.
        min_real_rows: real transitions before the first fit; never before the agent's ``learning_starts``.
        first_fit_gradient_steps: cap of the first fit, in place of the trainer's.
        policy_noise_std: exploration noise of deterministic actors in the model.
    """

    model_train_freq: int = 250
    rollout_freq: int = 250
    rollouts_per_step: int = 400
    rollout_length: RolloutLength | int = field(default_factory=lambda: RolloutLength.constant(1))
    retain_steps: int = 1000
    min_real_rows: int = 250
    first_fit_gradient_steps: int | None = 2500
    policy_noise_std: float = 0.1

    def __post_init__(self) -> None:
        for name in ("model_train_freq", "rollout_freq", "rollouts_per_step", "retain_steps", "min_real_rows"):
            at_least(name, getattr(self, name))
        if not isinstance(self.rollout_length, RolloutLength):
            at_least("rollout_length", self.rollout_length)
        if self.first_fit_gradient_steps is not None:
            at_least("first_fit_gradient_steps", self.first_fit_gradient_steps)
        within("policy_noise_std", self.policy_noise_std, 0)

    def length(self, real_steps: int) -> int:
        """The branch length after ``real_steps``."""
        length = self.rollout_length
        return length(real_steps) if isinstance(length, RolloutLength) else length


class DynaCallback(BaseCallback):
    """Makes an unmodified off-policy SB3 or SBX agent model-based (Dyna; MBPO, Janner et al. 2019, algorithm 2).

    Whenever due, after a rollout was collected and before the agent trains, it fits the dynamics model to the real
    transitions and writes short branched rollouts of the present policy into the buffer's synthetic part.

    Args:
        dynamics: the model; by default an ensemble with the task's own termination and, where exact, reward.
        config: how often and how much.
        trainer: fits ``dynamics``; by default one with a cap on gradient steps per fit for an ensemble, and none for
            a model that needs no fitting (a :class:`~mbrl_wrappers.FunctionModel`).
        reward_fn: known reward for the default model, in environment units.
        termination_fn: known termination for the default model.
        starts: where branches begin: anything that :class:`~mbrl_wrappers.ModelEnv` takes, such as
            :class:`~mbrl_wrappers.UniformStarts`, less what is outside of the model's limits; by default the real
            observations in the buffer, as in MBPO.
        seed: source of every draw of model and rollouts; the agent's own draws do not change.
        verbose: 1 says what is known of the task and what each fit came to.

    Attributes:
        dynamics: the model (built at training start when none was given).
        report: of the newest fit.
        fit_seconds: wall time spent fitting so far.
        rollout_seconds: wall time spent in rollouts so far.
    """

    def __init__(
        self,
        dynamics: DynamicsModel[Any] | None = None,
        config: DynaConfig | None = None,
        *,
        trainer: ModelTrainer | None = None,
        reward_fn: RewardFn | None = None,
        termination_fn: TerminationFn | None = None,
        starts: Starts | None = None,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if dynamics is not None and (reward_fn is not None or termination_fn is not None):
            raise ValueError("reward_fn and termination_fn are for the default model: give them to your own dynamics.")
        if trainer is not None and trainer.model is not dynamics:
            raise ValueError(
                "The trainer fits another model than the dynamics given: build it as Trainer(dynamics, ...)."
            )
        self.dynamics = dynamics
        self.trainer = trainer
        self.config = config or DynaConfig()
        self.report: FitReport | None = None
        self.fit_seconds = 0.0
        self.rollout_seconds = 0.0
        self._functions = (reward_fn, termination_fn)
        self._given_starts = starts
        self._starts: StartSampler | None = None
        self._model_seed, self._trainer_seed, start_seed, self._rollout_seed = spawn_seeds(seed, 4)
        self._starts_rng = np.random.default_rng(start_seed)
        self._generator: th.Generator | None = None
        self._next_fit = self._next_rollout = 0
        self._agent: object = None
        self._fits = 0

    # --- SB3's hooks ------------------------------------------------------------------------------------------------

    def _init_callback(self) -> None:
        check_agent(self.model)
        if self.dynamics is None:
            assert self.model.env is not None
            reward_fn, termination_fn = self._functions
            default = build_default_dynamics(
                self.model.env,
                reward_fn=reward_fn,
                termination_fn=termination_fn,
                seed=self._model_seed,
                device=str(self.model.device),
            )
            self.dynamics = default.dynamics
            for note in default.notes:
                self._say(note)
        check_pieces(self.model.observation_space, self.model.action_space, self.dynamics, self.trainer)
        if self._given_starts is not None:
            self._starts = start_sampler(self._given_starts, self.dynamics.observation_space.shape[0])
        if self.trainer is None:
            self.trainer = default_trainer(self.dynamics, seed=self._trainer_seed)
        if self._generator is None:
            self._generator = torch_generator(self._rollout_seed, self.dynamics.device)

    def _on_training_start(self) -> None:
        if self.parent is not None:
            raise ValueError(
                f"DynaCallback is a child of {type(self.parent).__name__}, which never forwards the end of a rollout: "
                "pass it to learn() directly or in a list, callback=[DynaCallback(), ...]."
            )
        # A second learn() goes on with the schedule. A new agent, or one that was loaded and lacks its synthetic rows,
        # has whatever is due done at the first chance.
        buffer, now = mixed_buffer(self.model), self.num_timesteps
        goes_on = len(buffer.synthetic) > 0 and self._agent is self.model
        if not (goes_on and now <= self._next_fit <= now + self.config.model_train_freq):
            self._next_fit = now
        if not (goes_on and now <= self._next_rollout <= now + self.config.rollout_freq):
            self._next_rollout = now
        self._agent = self.model

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        steps = self.model.num_timesteps
        if steps < self._next_fit and steps < self._next_rollout:
            return
        buffer = mixed_buffer(self.model)
        if steps < self._off_policy.learning_starts or buffer.num_real < self.config.min_real_rows:
            return
        if steps >= self._next_fit:
            self._fit(buffer)
            self._next_fit = steps + self.config.model_train_freq
        if steps >= self._next_rollout:
            self._roll_out(buffer)
            self._next_rollout = steps + self.config.rollout_freq

    def _on_training_end(self) -> None:
        if self.trainer is not None and self._fits == 0:
            warnings.warn(
                f"The model was never fitted in {self.num_timesteps} steps, so the agent had none. The first "
                f"fit comes after the agent's learning_starts ({self._off_policy.learning_starts}) and "
                f"DynaConfig.min_real_rows ({self.config.min_real_rows}).",
                stacklevel=2,
            )

    # --- what it conducts -------------------------------------------------------------------------------------------

    @property
    def _off_policy(self) -> OffPolicyAlgorithm:
        assert isinstance(self.model, OffPolicyAlgorithm)
        return self.model

    def _fit(self, buffer: MixedReplayBuffer) -> None:
        if self.trainer is None:
            return
        started = time.perf_counter()
        cap = self.config.first_fit_gradient_steps if self._fits == 0 else None
        report = self.trainer.fit(buffer.real_transitions(), max_gradient_steps=cap, row_ids=buffer.row_ids())
        self.report = report
        self._fits += 1
        self.fit_seconds += time.perf_counter() - started
        self._log_fit(report)

    def _roll_out(self, buffer: MixedReplayBuffer) -> None:
        assert self.dynamics is not None
        assert self._generator is not None
        started = time.perf_counter()
        length = self.config.length(self.model.num_timesteps)
        wanted = self.config.rollouts_per_step * self.config.retain_steps * length
        if min(wanted, buffer.synthetic_size) != buffer.synthetic.capacity or not len(buffer.synthetic):
            size = buffer.reserve_synthetic(wanted)
            self._say(f"The synthetic buffer keeps {buffer.synthetic.capacity:,} rows in {size / 2**20:.0f} MiB.")
        # More than the ring holds would leave it with the late steps of the branches only.
        fitting = max(buffer.synthetic.capacity // length, 1)
        branches = min(self.config.rollouts_per_step * self.config.rollout_freq, fitting)
        policy = AgentPolicy(self.model, noise_std=self.config.policy_noise_std)
        starts = self._draw_starts(buffer, branches)
        if not len(starts):
            return
        rollout = branched_rollout(self.dynamics, policy, starts, length, generator=self._generator)
        buffer.synthetic.add_batch(rollout.transitions)
        self.rollout_seconds += time.perf_counter() - started
        self._log_rollout(rollout, length, buffer)
        if rollout.num_dropped > max(rollout.transitions.num_rows, 1):
            warnings.warn(
                f"{rollout.num_dropped} predictions of the model were dropped and {rollout.transitions.num_rows} kept: "
                "they were not finite or far outside the real data. Look at model/r2_* in the log, scale the "
                "observations, or begin with more random steps (learning_starts).",
                stacklevel=2,
            )

    def _draw_starts(self, buffer: MixedReplayBuffer, count: int) -> th.Tensor:
        """``count`` observations ``(n, O)``, of the user's those that the model's limits hold; fewer where few do."""
        if self._starts is None:
            return th.as_tensor(buffer.sample_observations(count, self._starts_rng), dtype=th.float32)
        limits: Limits | None = getattr(self.dynamics, "limits", None)
        believed, draws = th.zeros(0, buffer.obs_shape[0]), 0
        while len(believed) < count and draws < MAX_DRAWS:
            drawn = th.as_tensor(self._starts(count, self._starts_rng), dtype=th.float32)
            believed = th.cat([believed, drawn if limits is None else drawn[limits.contains(drawn)]])
            draws += 1
        self.logger.record("dyna/starts_believed", len(believed) / (draws * count))
        if not len(believed):
            warnings.warn(
                "None of the starts is near the real data that the model was fitted to, so nothing was imagined: "
                "narrow the starts, or begin with more random steps (learning_starts).",
                stacklevel=2,
            )
        return believed[:count]

    # --- checks and words -------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.verbose >= 1:
            print(f"[dyna] {text}")

    def _log_fit(self, report: FitReport) -> None:
        size = mixed_buffer(self.model).obs_shape[0]
        names = [f"obs{index}" for index in range(size)] + ["reward"] * (len(report.holdout_r2) - size)
        for name, r2 in zip(names, report.holdout_r2, strict=True):
            self.logger.record(f"model/r2_{name}", r2, exclude="stdout")
        self.logger.record("model/r2_mean", float(np.mean(report.holdout_r2)))
        self.logger.record("model/r2_min", float(np.min(report.holdout_r2)))
        self.logger.record("model/holdout_error", float(np.mean(report.holdout_error)))
        self.logger.record("model/coverage_50", float(np.mean(report.coverage_50)))
        self.logger.record("model/coverage_90", float(np.mean(report.coverage_90)))
        self.logger.record("model/epochs", report.epochs)
        self.logger.record("model/gradient_steps", report.gradient_steps)
        self.logger.record("model/fits", self._fits)
        self._say(
            f"step {self.model.num_timesteps}: fitted {report.train_rows} rows in {report.gradient_steps} steps and "
            f"{report.seconds:.1f} s, holdout R2 {np.mean(report.holdout_r2):.3f}"
        )

    def _log_rollout(self, rollout: Rollout, length: int, buffer: MixedReplayBuffer) -> None:
        rows = rollout.transitions
        predictions = max(rows.num_rows + rollout.num_dropped, 1)
        self.logger.record("dyna/rollout_length", length)
        self.logger.record("dyna/imagined_reward_mean", float(rows.reward.mean()) if rows.num_rows else 0.0)
        self.logger.record("dyna/terminated_fraction", float(rows.terminated.float().sum()) / predictions)
        self.logger.record("dyna/dropped_fraction", rollout.num_dropped / predictions)
        self.logger.record("dyna/synthetic_rows", len(buffer.synthetic))
        self.logger.record("dyna/synthetic_mib", buffer.synthetic.capacity * buffer.synthetic.row_bytes / 2**20)
        self.logger.record("dyna/fit_seconds", self.fit_seconds)
        self.logger.record("dyna/rollout_seconds", self.rollout_seconds)
