"""One training run: build, learn, evaluate on the real environment, save."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from scripts.runs.env_id import safe_name
from scripts.runs.run_folder import AVERAGED_AGENT_FILE, agent_file_name, new_run_folder, write_text_atomically
from scripts.runs.summary import RunSummary, versions
from scripts.training.algorithms import ON_POLICY
from scripts.training.arguments import TrainArguments
from scripts.training.assembly import (
    acting_callbacks,
    average_steps,
    averaged_actor,
    branching_callback,
    build_dyna,
    build_model,
    rehearse,
)
from scripts.training.evaluation import EVALUATION_SEED_OFFSET, EvaluatedAverage, SummaryEvaluation
from scripts.training.interruption import StopOnSignal
from scripts.training.phases import PhaseClock, TrainTimer
from scripts.training.run import TrainingRun, plan_run

if TYPE_CHECKING:
    from sb3_ext import AveragedActor

NUM_EVALUATIONS = 20


def train(args: TrainArguments, words: Sequence[str]) -> int:
    """Train, evaluate on the real environment, save, and return the exit code.

    Args:
        args: the parsed command line.
        words: the command line itself, for the record.

    Raises:
        ValueError: for settings that cannot work; no folder is made then.
        ImportError: if a library is missing.
    """
    plan = plan_run(args)
    rehearse(plan)
    command = shlex.join(["python", "scripts/train.py", *words])
    clock = PhaseClock()
    stop = StopOnSignal()
    eval_env, average_env = (plan.vec_env(args.seed + EVALUATION_SEED_OFFSET) for _ in range(2))
    averaged = averaged_actor(plan)
    folder = new_run_folder(Path(args.log_folder), args.algo, args.env, args.tag)
    write_settings(folder, plan, command)
    summary = start_summary(plan, command)
    evaluation = SummaryEvaluation(
        eval_env,
        summary,
        clock,
        folder,
        max(eval_freq(plan) // args.n_envs, 1),
        args.eval_episodes,
        average=None if averaged is None else EvaluatedAverage(averaged, average_env),
        verbose=args.verbose,
    )
    callbacks: list[BaseCallback] = [*([] if averaged is None else [averaged]), evaluation, stop]
    if args.save_freq > 0:
        callbacks.append(CheckpointCallback(max(args.save_freq // args.n_envs, 1), str(folder)))
    print(f"{args.arm}: {plan.n_timesteps} real steps of {args.env} -> {folder}", flush=True)
    try:
        with stop.listening():
            if not args.model:
                agent = learn_without_model(plan, folder, clock, callbacks, averaged)
            elif args.algo in ON_POLICY:
                agent = learn_in_the_model(plan, folder, clock, callbacks, evaluation)
            else:
                agent = learn_with_model(plan, folder, clock, callbacks, evaluation, averaged)
            if stop.received is None:
                evaluation.finish(again=args.model and args.algo in ON_POLICY)  # these learn after their last step
        agent.save(folder / agent_file_name(args.env))
        if averaged is not None:
            averaged.save(folder / AVERAGED_AGENT_FILE)
        if args.save_replay_buffer and args.algo not in ON_POLICY:
            agent.save_replay_buffer(folder / "replay_buffer.pkl")  # type: ignore[attr-defined]
        summary.finished = stop.received is None
        summary.stopped_by = None if stop.received is None else f"signal {stop.received}"
        evaluation.record()
    finally:
        eval_env.close()
        average_env.close()
    return stop.exit_code


def learn_without_model(
    plan: TrainingRun,
    folder: Path,
    clock: PhaseClock,
    callbacks: Sequence[BaseCallback],
    averaged: AveragedActor | None,
) -> BaseAlgorithm:
    """Plain SB3: the baseline of every comparison."""
    with closing(training_env(plan, folder, clock)) as env:
        agent = plan.build_agent(env)
        every = [*callbacks, *acting_callbacks(plan, averaged), TrainTimer(clock)]
        agent.learn(plan.n_timesteps, callback=every, progress_bar=plan.args.progress)
    return agent


def learn_with_model(
    plan: TrainingRun,
    folder: Path,
    clock: PhaseClock,
    callbacks: Sequence[BaseCallback],
    evaluation: SummaryEvaluation,
    averaged: AveragedActor | None,
) -> BaseAlgorithm:
    """Dyna: the agent trains on real and on imagined transitions."""
    from sb3_ext.agent_checks import mixed_buffer

    with closing(training_env(plan, folder, clock)) as env:
        parts = build_dyna(plan, env, clock, verbose=plan.args.verbose)
        agent, model, dyna = parts.agent, parts.model, parts.dyna
        clock.follow("model_rollout", lambda: dyna.rollout_seconds)
        evaluation.model_record = model.record
        branching = branching_callback(plan, averaged, dyna)
        every = [*callbacks, branching, *acting_callbacks(plan, averaged), TrainTimer(clock)]
        agent.learn(plan.n_timesteps, callback=every, progress_bar=plan.args.progress)
        if model.trainer.history:
            model.save(folder, mixed_buffer(agent).real_transitions())
    return agent


def learn_in_the_model(
    plan: TrainingRun, folder: Path, clock: PhaseClock, callbacks: Sequence[BaseCallback], evaluation: SummaryEvaluation
) -> BaseAlgorithm:
    """On-policy agents see the real environment only to collect data, and learn inside the model."""
    from sb3_ext.imagination import learn_in_imagination
    from scripts.training.learned_model import imagination_config

    args, block = plan.args, plan.config.model
    with closing(Monitor(plan.env(), str(folder / "0"))) as env:
        clock.time_calls(env, "step", "env_step")
        model = build_model(plan, DummyVecEnv([lambda: env]), clock, verbose=args.verbose)
        evaluation.model_record = model.record

        def build(model_env: VecEnv) -> Any:
            clock.time_calls(model_env, "step", "model_rollout")
            return plan.build_agent(model_env)

        result = learn_in_imagination(
            build,
            env,
            plan.n_timesteps,
            config=imagination_config(block.get("imagination") or {}, eval_freq(plan)),
            dynamics=model.dynamics,
            trainer=model.trainer,
            callback=[*callbacks, TrainTimer(clock)],
            progress_bar=args.progress,
            seed=args.seed,
        )
        if model.trainer.history:
            model.save(folder, result.store.transitions())
    return result.agent


def training_env(plan: TrainingRun, folder: Path, clock: PhaseClock) -> DummyVecEnv:
    """The real training environments, monitored and timed."""
    env = plan.vec_env(plan.args.seed, n_envs=plan.args.n_envs, monitor_folder=folder)
    clock.time_calls(env, "step", "env_step")
    return env


def eval_freq(plan: TrainingRun) -> int:
    """Real steps between evaluations."""
    return plan.args.eval_freq if plan.args.eval_freq > 0 else max(plan.n_timesteps // NUM_EVALUATIONS, 1)


def start_summary(plan: TrainingRun, command: str) -> RunSummary:
    """The record of a run that has not stepped yet."""
    args = plan.args
    return RunSummary(
        task=args.env,
        algorithm=args.algo,
        backend=args.backend,
        with_model=args.model,
        arm=args.arm,
        seeds={"train": args.seed, "evaluation": args.seed + EVALUATION_SEED_OFFSET},
        total_timesteps=plan.n_timesteps,
        command=command,
        hyperparameters=plan.config.as_entry(),
        env_kwargs=plan.env_kwargs,
        average_steps=average_steps(plan),
        use_average=sorted(set(args.use_average)),
        num_threads=args.num_threads,
        versions=versions(args.backend),
    )


def write_settings(folder: Path, plan: TrainingRun, command: str) -> None:
    """Leave ``config.yml``, ``args.yml`` and ``command.txt`` in ``<folder>/<env>/``."""
    settings = folder / safe_name(plan.args.env)
    settings.mkdir(exist_ok=True)
    write_text_atomically(settings / "config.yml", yaml.safe_dump(plan.config.as_entry(), sort_keys=False))
    write_text_atomically(settings / "args.yml", yaml.safe_dump(asdict(plan.args), sort_keys=False))
    write_text_atomically(settings / "command.txt", command + "\n")
