"""Fits the model, rolls it out and fills the buffer, between SB3's collecting and training."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from mbrl_wrappers.branch_gate import BranchGate
from mbrl_wrappers.envs import Starts, StartSampler, start_sampler
from mbrl_wrappers.fitting import FitReport, ModelTrainer
from mbrl_wrappers.function_checks import check_functions
from mbrl_wrappers.rollout import Rollout, branched_rollout
from mbrl_wrappers.seeding import fresh_seed, torch_generator
from mbrl_wrappers.states import StateDict
from mbrl_wrappers.types import DynamicsModel, RewardFn, TerminationFn, Transitions
from sb3_ext.agent_checks import check_agent, check_arguments, mixed_buffer
from sb3_ext.agent_policy import AgentPolicy
from sb3_ext.background_fits import FitsBeside, fits_beside
from sb3_ext.branch_starts import real_starts, reserve, starts_inside
from sb3_ext.buffers import MixedReplayBuffer
from sb3_ext.default_model import build_default_dynamics, check_pieces, default_trainer
from sb3_ext.dyna_config import DynaConfig
from sb3_ext.dyna_state import dyna_state, load_dyna_state
from sb3_ext.dyna_streams import DynaStreams
from sb3_ext.model_log import (
    record_fit,
    record_rollout,
    record_synthetic,
    warn_if_most_were_dropped,
    warn_of_disagreement,
)
from sb3_ext.model_user import ModelUser
from sb3_ext.resume_checks import warn_if_rows_are_missing, warn_if_the_model_is_not_saved
from sb3_ext.terminal_observations import drop_unclipped, keep_terminal_observations

NEVER = sys.maxsize
"""A step that is not reached: when a process with rate 0 is due."""


class DynaCallback(BaseCallback):
    """Makes an unmodified off-policy SB3 or SBX agent model-based (Dyna; MBPO, Janner et al. 2019, algorithm 2).

    Whenever due, after a rollout was collected and before the agent trains, it fits the dynamics model to the real
    transitions and writes short branched rollouts of the present policy into the buffer's synthetic part. An agent
    whose own update uses the model (a :class:`~sb3_ext.model_user.ModelUser`) is given the fitted model instead.

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
        seed: source of every draw of model and rollouts, by default the agent's own seed; the agent's draws do not
            change.
        verbose: 1 prints which task functions are known and the result of each fit.

    Attributes:
        dynamics: the model (built at training start when none was given).
        report: of the newest fit.
        fit_seconds: wall time spent fitting so far; of fits that run beside the agent, that spent waiting for them.
        rollout_seconds: wall time spent in rollouts so far.

    Raises:
        TypeError: for arguments of another kind than these.
        ValueError: for arguments that contradict each other.
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
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_arguments(dynamics, config, trainer, reward_fn, termination_fn)
        self.dynamics = dynamics
        self.trainer = trainer
        self.config = config or DynaConfig()
        self.report: FitReport | None = None
        self.fit_seconds = 0.0
        self.rollout_seconds = 0.0
        self._functions = (reward_fn, termination_fn)
        self._given_starts = starts
        self._starts: StartSampler | None = None
        self._gate: BranchGate | None = None
        self._seed = seed
        self._streams: DynaStreams | None = None
        self._generator: th.Generator | None = None
        self._beside: FitsBeside | None = None
        self._agent: object = None
        self._next_fit = self._next_rollout = 0
        self._last_round = 0
        self._compared = self._handed = False
        self._fits = 0
        self._resumed = False

    # --- SB3's hooks ------------------------------------------------------------------------------------------------

    def _init_callback(self) -> None:
        check_agent(self.model, self.config)
        if self._streams is None:
            agents = fresh_seed() if self.model.seed is None else self.model.seed
            self._streams = DynaStreams.spawned(agents if self._seed is None else self._seed)
        if self.dynamics is None:
            assert self.model.env is not None
            reward_fn, termination_fn = self._functions
            default = build_default_dynamics(
                self.model.env,
                reward_fn=reward_fn,
                termination_fn=termination_fn,
                seed=self._streams.model_seed,
                device=str(self.model.device),
            )
            self.dynamics = default.dynamics
            for note in default.notes:
                self._say(note)
        check_pieces(self.model.observation_space, self.model.action_space, self.dynamics, self.trainer)
        if self.config.gate is not None and self._gate is None:
            self._gate = BranchGate(self.dynamics, self.config.gate)
        if self._given_starts is not None:
            self._starts = start_sampler(self._given_starts, self.dynamics.observation_space.shape[0])
        if self.trainer is None:
            beside = self.config.max_staleness is not None
            self.trainer = default_trainer(self.dynamics, seed=self._streams.trainer_seed, beside=beside)
        self._beside = fits_beside(self.trainer, self.config.max_staleness)
        if self._generator is None:
            self._generator = torch_generator(self._streams.rollout_seed, self.dynamics.device)
        keep_terminal_observations(self.model.get_vec_normalize_env())

    def _on_training_start(self) -> None:
        if self.parent is not None:
            raise ValueError(
                f"DynaCallback is a child of {type(self.parent).__name__}, which never forwards the end of a rollout: "
                "pass it to learn() directly or in a list, callback=[DynaCallback(), ...]."
            )
        assert self.dynamics is not None
        check_functions(self.dynamics, self._first_observations())
        if isinstance(self.model, ModelUser):
            self.model.check_model(self.dynamics, self._first_observations())
            if self._resumed and self._handed:  # the next fit may be far away
                self.model.use_model(self.dynamics)
        warn_if_the_model_is_not_saved(self.locals.get("callback"))
        warn_if_rows_are_missing(self._off_policy, mixed_buffer(self.model))
        # A second learn() goes on with the schedule. A new agent, or one that was loaded and lacks its synthetic rows,
        # has whatever is due done at the first chance.
        buffer, now = mixed_buffer(self.model), self.num_timesteps
        filled = len(buffer.synthetic) > 0 or isinstance(self.model, ModelUser)
        goes_on = self._resumed or (filled and self._agent is self.model)
        if not (goes_on and now <= self._next_fit <= now + self.config.model_train_freq):
            self._next_fit = now
        if not (goes_on and now <= self._next_rollout <= now + self.config.rollout_freq):
            self._next_rollout = now
        if not self.config.model_train_freq:
            self._next_fit = NEVER
        if not self.config.rollout_freq:
            self._next_rollout = NEVER
        self._compared = self._compared and self._agent is self.model
        self._agent, self._resumed = self.model, False

    def _on_rollout_start(self) -> None:
        buffer = mixed_buffer(self.model)
        if not len(buffer.synthetic):  # the first round stands for the steps that are collected before it
            self._last_round = buffer.real_steps

    def _on_step(self) -> bool:
        drop_unclipped(self.locals.get("infos", []), self.model.get_vec_normalize_env())
        return True

    def _on_rollout_end(self) -> None:
        steps, buffer = self.model.num_timesteps, mixed_buffer(self.model)
        buffer.synthetic.expire(buffer.real_steps - self.config.retain_steps)
        self._take_fit(buffer)
        if (steps < self._next_fit and steps < self._next_rollout) or not self.config.uses_model(steps):
            return
        if steps < self._off_policy.learning_starts or buffer.num_real < self.config.min_real_rows:
            return
        if not self._compared:
            self._compare_functions(buffer)
        if steps >= self._next_fit and (self._beside is None or self._beside.idle):
            self._fit(buffer)
            self._next_fit = steps + self.config.model_train_freq
        if steps >= self._next_rollout and (self._beside is None or self._fits > 0):
            if not isinstance(self.model, ModelUser):
                self._roll_out(buffer)
            self._next_rollout = steps + self.config.rollout_freq

    def _on_training_end(self) -> None:
        self._take_fit(mixed_buffer(self.model), wait=True)
        if self.trainer is not None and self._fits == 0 and self.config.model_train_freq:
            warnings.warn(
                f"The model was never fitted in {self.num_timesteps} steps, so the agent had none. The first "
                f"fit comes after the agent's learning_starts ({self._off_policy.learning_starts}) and "
                f"DynaConfig.min_real_rows ({self.config.min_real_rows}).",
                stacklevel=2,
            )

    # --- fits and rollouts ------------------------------------------------------------------------------------------

    @property
    def _off_policy(self) -> OffPolicyAlgorithm:
        assert isinstance(self.model, OffPolicyAlgorithm)
        return self.model

    def _fit(self, buffer: MixedReplayBuffer) -> None:
        """Fit the model, or start to; one that needs no fit is handed on as it is."""
        if self.trainer is None:
            self._hand_over()
            return
        started = time.perf_counter()
        cap = self.config.first_fit_gradient_steps if self._fits == 0 else None
        rows, row_ids = buffer.real_transitions(), buffer.row_ids()
        if self._beside is None:
            self._fitted(self.trainer.fit(rows, max_gradient_steps=cap, row_ids=row_ids), rows, started)
        else:
            self._beside.start(rows, self.model.num_timesteps, cap=cap, row_ids=row_ids)
            self._take_fit(buffer)

    def _take_fit(self, buffer: MixedReplayBuffer, *, wait: bool = False) -> None:
        """Take the result of a fit that ran beside, if there is one; wait for it where it is due."""
        if self._beside is None:
            return
        started = time.perf_counter()
        report = self._beside.finished(self.model.num_timesteps, self.logger, wait=wait)
        if report is not None:
            self._fitted(report, buffer.real_transitions(), started)

    def _fitted(self, report: FitReport, rows: Transitions, started: float) -> None:
        """The model was fitted: log it, and hand it on."""
        self.report = report
        if self._gate is not None:
            self._gate.calibrate(rows)
        self._fits += 1
        self.fit_seconds += time.perf_counter() - started
        self._log_fit(report)
        self._hand_over()

    def _hand_over(self) -> None:
        if isinstance(self.model, ModelUser):
            assert self.dynamics is not None
            self.model.use_model(self.dynamics)
            self._handed = True

    def _roll_out(self, buffer: MixedReplayBuffer) -> None:
        assert self.dynamics is not None
        assert self._generator is not None
        started = time.perf_counter()
        config, synthetic = self.config, buffer.synthetic
        length = config.length(self.model.num_timesteps)
        covered = min(max(buffer.real_steps - self._last_round, config.rollout_freq), config.retain_steps)
        self._last_round = buffer.real_steps
        branches = config.rollouts_per_step * covered
        usual = max(config.rollouts_per_step * config.retain_steps, branches) * length
        size = reserve(buffer, usual, branches * length)
        if size is not None:
            self._say(f"The synthetic buffer keeps {synthetic.capacity:,} rows in {size / 2**20:.0f} MiB.")
        # More rows than the capacity would leave the late steps of the branches only.
        branches = min(branches, max(synthetic.capacity // length, 1))
        policy = AgentPolicy(self.model, noise_std=self.config.policy_noise_std)
        starts = self._draw_starts(buffer, branches)
        if not len(starts):
            return
        rollout = branched_rollout(self.dynamics, policy, starts, length, generator=self._generator, gate=self._gate)
        synthetic.add_batch(rollout.transitions, buffer.real_steps)
        self.rollout_seconds += time.perf_counter() - started
        self._log_rollout(rollout, length, len(starts), buffer)
        warn_if_most_were_dropped(rollout)

    def _draw_starts(self, buffer: MixedReplayBuffer, count: int) -> th.Tensor:
        """``count`` start observations ``(n, O)``; fewer if too few of the user's lie inside the model's limits."""
        assert self._streams is not None
        assert self.dynamics is not None
        rng = self._streams.starts
        if self._starts is None:
            return real_starts(self.dynamics, buffer, count, rng)
        return starts_inside(self.dynamics, self._starts, count, rng, self.logger)

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> StateDict:
        """Schedule, random streams, trainer and model; known once the callback has met its agent.

        Raises:
            TypeError: for a trainer or a fitted model whose state cannot be exported.
        """
        return dyna_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state`` at the next ``learn()``; the callback has met its agent and has its model by then.

        Raises:
            TypeError: for a trainer or a fitted model whose state cannot be loaded.
            ValueError: if it is the state of another model or trainer.
        """
        load_dyna_state(self, state)

    # --- checks and messages ----------------------------------------------------------------------------------------

    def _first_observations(self) -> th.Tensor:
        """The observations ``(N, O)`` that the agent is about to act in, in raw units."""
        agent: Any = self.model
        normalized = agent.get_vec_normalize_env() is not None
        return th.as_tensor(np.array(agent._last_original_obs if normalized else agent._last_obs))

    def _compare_functions(self, buffer: MixedReplayBuffer) -> None:
        """Warn if the known reward or termination disagrees with the real transitions so far."""
        assert self.dynamics is not None
        self._compared = True
        warn_of_disagreement(self.dynamics, buffer.real_transitions(), self.logger)

    def _say(self, text: str) -> None:
        if self.verbose >= 1:
            print(f"[dyna] {text}")

    def _log_fit(self, report: FitReport) -> None:
        record_fit(self.logger, report)
        self.logger.record("model/fits", self._fits)
        self._say(
            f"step {self.model.num_timesteps}: fitted {report.train_rows} rows in {report.gradient_steps} steps and "
            f"{report.seconds:.1f} s, holdout R2 {report.r2_mean:.3f}"
        )

    def _log_rollout(self, rollout: Rollout, length: int, branches: int, buffer: MixedReplayBuffer) -> None:
        record_rollout(self.logger, rollout, length, branches)
        record_synthetic(self.logger, buffer)
        self.logger.record("dyna/fit_seconds", self.fit_seconds)
        self.logger.record("dyna/rollout_seconds", self.rollout_seconds)
