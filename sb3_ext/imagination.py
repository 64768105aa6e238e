"""On-policy agents (PPO, A2C, TRPO) inside a model of the environment."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.copies.env_state import env_state, load_env_state, why_not_exportable
from mbrl_wrappers.fitting import ModelTrainer
from mbrl_wrappers.function_checks import check_functions, disagreement
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import spawn_seeds
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import DynamicsModel, RewardFn, TerminationFn
from sb3_ext.agent_factory import AgentFactory, build_agent
from sb3_ext.callback_states import every_callback
from sb3_ext.default_model import build_default_dynamics, check_pieces, default_trainer
from sb3_ext.dyna_state import (
    check_parts_can_be_kept,
    load_model_state,
    model_state,
    report_from_state,
    report_state,
)
from sb3_ext.model_log import record_fit
from sb3_ext.real_loop import Episode, GymEnv, RealLoop, RealProgress, check_eval_env, open_real_env
from sb3_ext.run_checkpoint import RunCheckpoint
from sb3_ext.vec_env import ModelVecEnv

_COUNTERS = ("next_eval", "imagined_steps", "fit_seconds", "imagine_seconds")


@dataclass(frozen=True)
class ImaginationConfig:
    """Schedule of learning in imagination: real steps, imagined steps and evaluations.

    Attributes:
        initial_steps: real steps with uniformly random actions before the first fit.
        cycle_steps: real steps with the agent's own stochastic policy between fits.
        imagined_steps: steps the agent learns from in the model after each fit (rounded up by SB3 to whole rollouts).
        num_envs: imagined episodes side by side; tens to hundreds.
        horizon: length of an imagined episode; it starts at a stored real observation and ends in a truncation.
        store_size: real transitions kept.
        eval_freq: real steps between evaluations on ``eval_env``.
        eval_episodes: episodes per evaluation, with the deterministic policy.
    """

    initial_steps: int = 500
    cycle_steps: int = 1000
    imagined_steps: int = 32_000
    num_envs: int = 64
    horizon: int = 50
    store_size: int = 1_000_000
    eval_freq: int = 1000
    eval_episodes: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            at_least(field.name, getattr(self, field.name))


class CycleRecord(NamedTuple):
    """Results of one cycle of collecting, fitting and imagining.

    Attributes:
        real_steps: real steps of this run so far.
        imagined_steps: imagined steps of this run so far.
        real_return: mean return of the real episodes that ended lately, exploration included (NaN before the first).
        imagined_return: mean return of the imagined episodes that ended lately: a score in the model only.
        num_invalid: imagined episodes so far that ended by a prediction outside the model's limits, or not finite.
        eval_return: mean return of the evaluation episodes on the real environment, or None without an evaluation.
        fit: the trainer's report, or None without a trainer.
    """

    real_steps: int
    imagined_steps: int
    real_return: float
    imagined_return: float
    num_invalid: int
    eval_return: float | None
    fit: Any


@dataclass(frozen=True)
class ImaginationResult:
    """The trained agent (its environment is the model's), the model, the real data and a record of each cycle."""

    agent: OnPolicyAlgorithm
    dynamics: DynamicsModel[Any]
    store: TransitionStore
    log: tuple[CycleRecord, ...]

    @property
    def real_steps(self) -> int:
        """Steps taken in the real environment for training."""
        return self.store.steps_seen


def learn_in_imagination(
    agent: type[OnPolicyAlgorithm] | AgentFactory,
    env: GymEnv | str,
    total_timesteps: int,
    *,
    config: ImaginationConfig | None = None,
    dynamics: DynamicsModel[Any] | None = None,
    trainer: ModelTrainer | None = None,
    reward_fn: RewardFn | None = None,
    termination_fn: TerminationFn | None = None,
    callback: MaybeCallback = None,
    eval_env: GymEnv | str | None = None,
    progress_bar: bool = False,
    seed: int = 0,
) -> ImaginationResult:
    """Train an unmodified on-policy agent in a model that is refitted to what the agent does in the real environment.

    In each cycle the agent's stochastic policy collects real steps, the model is refitted to all of them, and the
    agent learns with its own ``learn()`` in a :class:`ModelVecEnv` whose episodes start at stored real observations
    (ME-TRPO, Kurutach et al. 2018, algorithm 2, with horizons cut short as in MBPO). Between cycles
    ``agent.num_timesteps`` counts real steps, and so do the callbacks and the logger: its ``rollout/`` and ``eval/``
    entries are real, imagined ones stand under ``dyna/``.

    >>> learn_in_imagination(PPO, "InvertedPendulum-v5", 10_000)                                   # doctest: +SKIP
    >>> learn_in_imagination(lambda env: PPO("MlpPolicy", env, n_steps=32), real_env, 10_000)      # doctest: +SKIP
    >>> learn_in_imagination(lambda env: PPO.load("agent.zip", env=env), real_env, 10_000)         # doctest: +SKIP

    ``VecNormalize`` around the model takes its statistics from the real environment and is frozen in the model.

    Args:
        agent: an agent class (it gets an MLP policy and rollouts as long as the horizon), or a function that builds
            or loads the agent on the model environment it is handed, in ``VecNormalize`` if wanted. Schedules must be
            constant. A loaded agent counts on from the steps it has.
        env: the real environment or its id; one that was made for this call is closed afterwards.
        total_timesteps: real steps of this call.
        config: how often and how much.
        dynamics: the model; by default an ensemble with the task's own termination and, where exact, reward.
        trainer: fits ``dynamics``; by default one for an ensemble, and none for a model that needs no fitting (a
            :class:`~mbrl_wrappers.FunctionModel`).
        reward_fn: known reward for the default model, in environment units.
        termination_fn: known termination for the default model.
        callback: SB3 callbacks, called at each *real* step. (Their ``training_env`` is the model's.) With a
            :class:`~sb3_ext.RunCheckpoint` among them the run goes on from its newest checkpoint; it saves between
            cycles.
        eval_env: another real environment or its id, to evaluate the deterministic policy on.
        progress_bar: show real steps.
        seed: of environment, model, imagination and collection, and of the agent when a class is given.

    Raises:
        TypeError: for an agent that is not on-policy or is recurrent, what is no environment, or spaces that models
            cannot handle.
        ValueError: for schedules that change, a model or trainer of another task, or an ``eval_env`` that is itself a
            model or the very ``env``.
    """
    total_timesteps = at_least("total_timesteps", total_timesteps)
    if config is not None and not isinstance(config, ImaginationConfig):
        raise TypeError(
            f"config must be an ImaginationConfig, got {type(config).__name__}: ImaginationConfig(**settings)."
        )
    if trainer is not None and dynamics is None:
        raise ValueError("A trainer came without its model: pass dynamics, the model that it fits, as well.")
    if dynamics is not None and (reward_fn is not None or termination_fn is not None):
        raise ValueError("reward_fn and termination_fn are for the default model: give them to your own dynamics.")
    with ExitStack() as made:
        real_env = open_real_env("env", env, made)
        eval_on = None if eval_env is None else open_real_env("eval_env", eval_env, made)
        check_eval_env(eval_on, real_env)
        model_seed, trainer_seed = spawn_seeds(seed, 2)
        notes: tuple[str, ...] = ()
        if dynamics is None:
            default = build_default_dynamics(
                DummyVecEnv([lambda: real_env]), reward_fn=reward_fn, termination_fn=termination_fn, seed=model_seed
            )
            dynamics, notes = default.dynamics, default.notes
        imagination = _Imagination(agent, real_env, dynamics, trainer, config or ImaginationConfig(), seed=seed)
        check_pieces(real_env.observation_space, real_env.action_space, dynamics, trainer)
        if trainer is None:
            imagination.trainer = default_trainer(dynamics, seed=trainer_seed)
        if imagination.agent.verbose >= 1 and notes:
            print(*notes, sep="\n")
        return imagination.run(total_timesteps, callback, eval_env=eval_on, progress_bar=progress_bar)


class _Imagination:
    """One run: the agent in its model, the real loop, and the data exchanged between them."""

    def __init__(
        self,
        agent: type[OnPolicyAlgorithm] | AgentFactory,
        env: GymEnv,
        dynamics: DynamicsModel[Any],
        trainer: ModelTrainer | None,
        config: ImaginationConfig,
        *,
        seed: int,
    ) -> None:
        self.config, self.dynamics, self.trainer = config, dynamics, trainer
        self.store = TransitionStore(config.store_size, env.observation_space, env.action_space)
        self.model_env = ModelVecEnv(dynamics, self.store, config.num_envs, config.horizon)
        self.model_env.seed(seed)
        self.agent = build_agent(agent, VecMonitor(self.model_env), config.horizon, seed)
        self.real = RealLoop(env, self.agent, self.store, seed=seed)
        self.eval_env: GymEnv | None = None
        self.log: list[CycleRecord] = []
        self.next_eval = config.eval_freq
        self.imagined_steps = 0
        self.fit_seconds = self.imagine_seconds = 0.0

    def run(
        self,
        total_timesteps: int,
        callback: MaybeCallback,
        *,
        eval_env: GymEnv | None,
        progress_bar: bool,
    ) -> ImaginationResult:
        """Collect, fit, imagine, until the real steps are spent or a callback says stop."""
        self.eval_env = eval_env
        check_functions(self.dynamics, self.real.observation)
        # Counted as in learn(): up from the steps that a loaded agent has.
        until = self.agent.num_timesteps + total_timesteps
        callbacks = self._init_callbacks(callback, progress_bar)
        self._restore(callbacks)
        callbacks.on_training_start({"total_timesteps": until, "self": self.agent}, {})
        while self.store.steps_seen < total_timesteps:
            wanted = self.config.cycle_steps if self.log else self.config.initial_steps
            steps = min(wanted, total_timesteps - self.store.steps_seen)
            if not self.real.collect(steps, callbacks, random=not self.log):
                break
            if not self.log:
                for sentence in disagreement(self.dynamics, self.store.transitions()).sentences:
                    warnings.warn(sentence, stacklevel=3)
            report = self.fit()
            imagined_return = self.imagine()
            evaluation = None
            if eval_env is not None and self.store.steps_seen >= min(self.next_eval, total_timesteps):
                self.next_eval = self.store.steps_seen + self.config.eval_freq
                evaluation = self.real.evaluate(eval_env, self.config.eval_episodes)
            self.log.append(self.record(report, imagined_return, evaluation))
        callbacks.on_training_end()
        return ImaginationResult(self.agent, self.dynamics, self.store, tuple(self.log))

    def state_dict(self) -> StateDict:
        """The model, the real data and loop, and the cycles so far; the agent and its environment are kept apart."""
        check_parts_can_be_kept(self.dynamics, self.trainer)
        return {
            **{name: getattr(self, name) for name in _COUNTERS},
            "log": [{**record._asdict(), "fit": report_state(record.fit)} for record in self.log],
            "real": self.real.state_dict(),
            "store": self.store.state_dict(),
            "trainer": None if self.trainer is None else self.trainer.state_dict(),  # type: ignore[attr-defined]
            "dynamics": model_state(self.dynamics),
            "eval_env": None if self.eval_env is None else env_state(self.eval_env),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: if it is the state of another run.
        """
        require_keys(state, (*_COUNTERS, "log", "real", "store", "trainer", "dynamics", "eval_env"), "an imagination")
        load_model_state(self.dynamics, state["dynamics"])
        if self.trainer is not None:
            self.trainer.load_state_dict(state["trainer"])  # type: ignore[attr-defined]
        self.store.load_state_dict(state["store"])
        self.real.load_state_dict(state["real"])
        if self.eval_env is not None and state["eval_env"] is not None:
            load_env_state(self.eval_env, state["eval_env"])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.log = [CycleRecord(**{**row, "fit": report_from_state(row["fit"])}) for row in state["log"]]

    def _restore(self, callbacks: BaseCallback) -> None:
        """Go on from the newest checkpoint if a callback saves the run and has one."""
        for checkpoint in every_callback(callbacks):
            if isinstance(checkpoint, RunCheckpoint):
                checkpoint.restore(self.agent, callbacks, also={"imagination": self})
                why = why_not_exportable(self.real.env)
                if why:
                    warnings.warn(
                        f"The state of the real environment cannot be exported ({why.rstrip('.')}), so a run that is "
                        "resumed begins a new episode where it was in the middle of one.",
                        stacklevel=4,
                    )

    def fit(self) -> Any:
        """Refit the model to all real data; None without a trainer."""
        if self.trainer is None:
            return None
        started = time.perf_counter()
        report = self.trainer.fit(self.store.transitions(), row_ids=self.store.row_ids())
        self.fit_seconds += time.perf_counter() - started
        return report

    def imagine(self) -> float:
        """Let the agent learn in the model; returns the mean imagined return."""
        started = time.perf_counter()
        agent, steps = self.agent, self.agent.num_timesteps
        # Fresh episodes: the old ones go on from a model that no longer exists.
        agent.set_env(cast(VecEnv, agent.get_env()))
        agent.ep_info_buffer = None  # a loaded agent brings those of another run
        with self.real.statistics.frozen():
            # No log rows of the agent's own: it would count imagined steps and call their returns rollout/.
            agent.learn(self.config.imagined_steps, log_interval=cast(int, None), reset_num_timesteps=False)
        self.imagined_steps += agent.num_timesteps - steps
        agent.num_timesteps = steps
        buffer: Any = agent.ep_info_buffer
        episodes = [episode["r"] for episode in buffer or ()]
        imagined_return = float(np.mean(episodes)) if episodes else float("nan")
        agent.ep_info_buffer = None
        self.imagine_seconds += time.perf_counter() - started
        return imagined_return

    def record(self, report: Any, imagined_return: float, evaluation: Episode | None) -> CycleRecord:
        """Write one row to the agent's logger and return it."""
        logger, steps, recent = self.agent.logger, self.agent.num_timesteps, self.real.recent()
        if self.real.episodes:
            logger.record("rollout/ep_rew_mean", recent.total)
            logger.record("rollout/ep_len_mean", recent.length)
        if evaluation is not None:
            logger.record("eval/mean_reward", evaluation.total)
            logger.record("eval/mean_ep_length", evaluation.length)
        if report is not None:
            record_fit(logger, report)
        logger.record("dyna/imagined_return", imagined_return)
        logger.record("dyna/imagined_steps", self.imagined_steps)
        logger.record("dyna/num_invalid", self.model_env.num_invalid)
        logger.record("dyna/fit_seconds", self.fit_seconds)
        logger.record("dyna/imagine_seconds", self.imagine_seconds)
        logger.record("time/total_timesteps", steps, exclude="tensorboard")
        logger.dump(steps)
        return CycleRecord(
            real_steps=self.store.steps_seen,
            imagined_steps=self.imagined_steps,
            real_return=recent.total,
            imagined_return=imagined_return,
            num_invalid=self.model_env.num_invalid,
            eval_return=None if evaluation is None else evaluation.total,
            fit=report,
        )

    def _init_callbacks(self, callback: MaybeCallback, progress_bar: bool) -> BaseCallback:
        given = callback if isinstance(callback, list) else [] if callback is None else [callback]
        for item in given:
            if not isinstance(item, BaseCallback):
                raise TypeError(f"callback must be SB3 callbacks (BaseCallback), got {type(item).__name__}.")
        if not self.agent._custom_logger:  # as learn() would set it up, but once for all chunks
            self.agent.set_logger(configure_logger(self.agent.verbose, self.agent.tensorboard_log, "imagination", True))
        callbacks = CallbackList([*cast("list[BaseCallback]", given), *([RealProgress()] if progress_bar else [])])
        with warnings.catch_warnings():
            # Intended: the agent trains in the model and is evaluated on the real environment.
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            callbacks.init_callback(self.agent)
        return callbacks
