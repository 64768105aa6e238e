"""One run of an agent on a task that hides its state: build, learn, evaluate on the real environment, save."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

import mbrl_wrappers
from mbrl_wrappers.latent import LatentStateSpaceModel
from mbrl_wrappers.seeding import spawn_seeds
from mbrl_wrappers.states import StateDict
from mbrl_wrappers.training.sequence_report import SequenceFitReport
from mbrl_wrappers.training.sequence_trainer import SequenceTrainer
from mbrl_wrappers.types import Transitions
from sb3_ext import RunCheckpoint
from sb3_ext.latent import BeliefReplayBuffer, BeliefVecEnv, LatentDynaCallback
from scripts.runs.env_id import safe_name
from scripts.runs.run_folder import MODEL_FILE, agent_file_name, new_run_folder, write_text_atomically
from scripts.runs.summary import RunSummary, versions
from scripts.training.evaluation import EVALUATION_SEED_OFFSET, SummaryEvaluation
from scripts.training.flag_checks import check_flags
from scripts.training.interruption import StopOnSignal, TrainingStopped
from scripts.training.latent_arguments import LatentArguments
from scripts.training.latent_settings import LatentSettings, latent_settings
from scripts.training.phases import PhaseClock, TrainTimer
from scripts.training.resume import ResumedRun, check_settings, run_checkpoint

NUM_EVALUATIONS = 10

EVALUATED_TOGETHER = 10
"""Episodes of an evaluation that run side by side: the filter and the agent see them as one batch."""


class RecordingSequenceTrainer(SequenceTrainer):
    """A sequence trainer that counts its time and keeps a line per fit."""

    def __init__(self, model: LatentStateSpaceModel, settings: LatentSettings, clock: PhaseClock, seed: int) -> None:
        super().__init__(model, settings.fit_config(), seed=seed)
        self._clock = clock
        self.history: list[dict[str, Any]] = []

    def state_dict(self) -> StateDict:
        """As the base class, and the line of each fit."""
        return {**super().state_dict(), "history": [dict(row) for row in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, without the fits that came after it."""
        super().load_state_dict({name: value for name, value in state.items() if name != "history"})
        self.history[:] = [dict(row) for row in state["history"]]

    def fit(self, transitions: Transitions, **kwargs: Any) -> SequenceFitReport:
        """Fit as the base class does."""
        with self._clock.measure("model_fit"):
            report = super().fit(transitions, **kwargs)
        quality = report.quality
        self.history.append(
            {
                "rows": report.train_rows + report.holdout_rows,
                "gradient_steps": report.gradient_steps,
                "seconds": round(report.seconds, 3),
                "bound": quality.bound,
                "kl": quality.kl,
                "active_units": quality.active_units,
                "closed_loop_r2": list(quality.closed_loop_r2),
                "open_loop_r2": list(quality.open_loop_r2),
                "problems": list(report.problems),
            }
        )
        return report


def train_latent(run: ResumedRun[LatentArguments], words: Sequence[str]) -> int:
    """Train, evaluate on the real environment, save, and return the exit code.

    Args:
        run: a new run, or one to go on with.
        words: the command line itself, for the record.

    Raises:
        ValueError: for settings that cannot work; no folder is made then. Also if another process trains this run, or
            its checkpoints are damaged.
        ImportError: if a library is missing.
    """
    args = run.args
    if run.finished:
        print(f"The run in {run.folder} is finished: there is nothing to resume.", flush=True)
        return 0
    check_flags(args.env, args.device, progress=args.progress, tensorboard=bool(args.tensorboard_log))
    settings = latent_settings(args)
    model = settings.model() if args.learned else None
    settings.env().close()
    if run.folder is None:
        command = shlex.join(["python", "scripts/train_latent.py", *words])
        folder = new_run_folder(Path(args.log_folder), args.place[0], args.env, args.place[1])
        _write_settings(folder, settings, command)
    else:
        folder, command = run.folder, run.command
        check_settings(folder, settings.entry)
    checkpoint = run_checkpoint(args, settings.n_timesteps, folder)
    try:
        return _train(settings, model, folder, command, checkpoint)
    finally:
        if checkpoint is not None:
            checkpoint.release()


def _train(
    settings: LatentSettings,
    model: LatentStateSpaceModel | None,
    folder: Path,
    command: str,
    checkpoint: RunCheckpoint | None,
) -> int:
    """Learn from the start or from the newest checkpoint on, evaluate, save, and return the exit code."""
    args, clock, stop = settings.args, PhaseClock(), StopOnSignal()
    stop.checkpoint = checkpoint
    goes_on = checkpoint is not None and bool(checkpoint.checkpoints.steps())
    with ExitStack() as stack:
        env, eval_env = _environments(settings, model, folder, stack, append=goes_on)
        clock.time_calls(env, "step", "env_step")
        summary = _summary(settings, command)
        freq = args.eval_freq if args.eval_freq > 0 else max(settings.n_timesteps // NUM_EVALUATIONS, 1)
        evaluation = SummaryEvaluation(eval_env, summary, clock, folder, freq, args.eval_episodes, verbose=args.verbose)
        print(f"{args.arm}: {settings.n_timesteps} real steps of {args.env} -> {folder}", flush=True)
        agent, of_the_model = _agent(settings, env, model, clock, evaluation)
        saving = [] if checkpoint is None else [checkpoint]
        # The model comes first: a run that is resumed has its weights before any belief is compared with them.
        callbacks = [*of_the_model, evaluation, *saving, stop, TrainTimer(clock)]
        with stop.listening():
            _learn(agent, callbacks, settings, evaluation, checkpoint)
            if stop.received is None:
                evaluation.finish()
                _evaluate_finally(agent, eval_env, settings, evaluation, clock)
        agent.save(folder / agent_file_name(args.env))
        if model is not None:
            mbrl_wrappers.save(model, folder / MODEL_FILE)
        summary.finished = stop.received is None
        summary.stopped_by = None if stop.received is None else f"signal {stop.received}"
        evaluation.record()
    if checkpoint is not None and summary.finished:
        checkpoint.release()
        shutil.rmtree(checkpoint.checkpoints.folder)
    return stop.exit_code


def _learn(
    agent: BaseAlgorithm,
    callbacks: list[BaseCallback],
    settings: LatentSettings,
    evaluation: SummaryEvaluation,
    checkpoint: RunCheckpoint | None,
) -> None:
    """Take the real steps that are left, until a signal stops it."""
    args, done = settings.args, 0
    if checkpoint is not None:
        done = checkpoint.restore(agent, callbacks)
        if done:
            print(f"{args.arm}: the run goes on at step {done}", flush=True)
            evaluation.record()
    with suppress(TrainingStopped):
        agent.learn(
            settings.n_timesteps - done,
            callback=callbacks,
            reset_num_timesteps=not done,
            progress_bar=args.progress,
        )


def _environments(
    settings: LatentSettings, model: LatentStateSpaceModel | None, folder: Path, stack: ExitStack, *, append: bool
) -> tuple[VecEnv, VecEnv]:
    """The environment to train in and the one to evaluate in, each with a belief of its own where there is a model."""
    seed = settings.args.seed
    env: VecEnv = stack.enter_context(closing(settings.vec_env(seed, monitor_folder=folder, append=append)))
    rows = min(EVALUATED_TOGETHER, settings.args.eval_episodes)
    eval_env: VecEnv = stack.enter_context(closing(settings.vec_env(seed + EVALUATION_SEED_OFFSET, rows)))
    if model is None:
        return env, eval_env
    filtered = BeliefVecEnv(env, model, seed=seed)
    return filtered, filtered.for_evaluation(eval_env, seed=seed + EVALUATION_SEED_OFFSET)


def _agent(
    settings: LatentSettings,
    env: VecEnv,
    model: LatentStateSpaceModel | None,
    clock: PhaseClock,
    evaluation: SummaryEvaluation,
) -> tuple[BaseAlgorithm, list[BaseCallback]]:
    """The agent, exactly as SB3 defines it, and what works beside it."""
    args, entry = settings.args, settings.entry
    kwargs: dict[str, Any] = {"verbose": args.verbose, **entry["agent"]}
    callbacks: list[BaseCallback] = []
    if model is not None:
        ratio = entry["real_ratio"] if args.imagine else 1.0
        kwargs["replay_buffer_class"] = BeliefReplayBuffer
        kwargs["replay_buffer_kwargs"] = {"window": entry["window"], "real_ratio": ratio}
        trainer = RecordingSequenceTrainer(model, settings, clock, spawn_seeds(args.seed, 2)[1])
        config = settings.dyna_config()
        dyna = LatentDynaCallback(model, trainer, config, imagine=bool(args.imagine), verbose=args.verbose)
        clock.follow("model_rollout", lambda: dyna.rollout_seconds)
        about = {"options": asdict(model.options), "form": model.form}
        evaluation.model_record = lambda: {**about, "fits": trainer.history}
        callbacks.append(dyna)
    agent = cast(Any, settings.cls)(
        "MlpPolicy",
        env,
        seed=args.seed,
        device=args.device,
        tensorboard_log=args.tensorboard_log or None,
        **kwargs,
    )
    return agent, callbacks


def _evaluate_finally(
    agent: BaseAlgorithm, env: VecEnv, settings: LatentSettings, evaluation: SummaryEvaluation, clock: PhaseClock
) -> None:
    """Judge the agent that learning ended with on many episodes, and put them into the record."""
    with clock.measure("evaluation"):
        returns, _ = evaluate_policy(
            agent, env, n_eval_episodes=settings.args.final_episodes, return_episode_rewards=True
        )
    row = np.asarray(returns, np.float64)
    error = float(row.std(ddof=1) / np.sqrt(len(row))) if len(row) > 1 else float("nan")
    earlier = evaluation.model_record or dict
    final = {"final_mean": float(row.mean()), "final_standard_error": error, "final_returns": row.tolist()}
    evaluation.model_record = lambda: {**earlier(), **final}
    print(f"{settings.args.arm} seed {settings.args.seed}: return {row.mean():.1f}, standard error {error:.1f}")


def _summary(settings: LatentSettings, command: str) -> RunSummary:
    """The record of a run that has not stepped yet."""
    args = settings.args
    return RunSummary(
        task=args.env,
        algorithm=args.algo,
        backend="sb3",
        with_model=args.learned,
        arm=args.arm,
        seeds={"train": args.seed, "evaluation": args.seed + EVALUATION_SEED_OFFSET},
        total_timesteps=settings.n_timesteps,
        command=command,
        hyperparameters=settings.entry,
        env_kwargs=dict(args.env_kwargs),
        num_threads=args.num_threads,
        versions=versions("sb3"),
    )


def _write_settings(folder: Path, settings: LatentSettings, command: str) -> None:
    """Leave ``config.yml``, ``args.yml`` and ``command.txt`` in ``<folder>/<env>/``."""
    place = folder / safe_name(settings.args.env)
    place.mkdir(exist_ok=True)
    write_text_atomically(place / "config.yml", yaml.safe_dump(settings.entry, sort_keys=False))
    write_text_atomically(place / "args.yml", yaml.safe_dump(asdict(settings.args), sort_keys=False))
    write_text_atomically(place / "command.txt", command + "\n")
