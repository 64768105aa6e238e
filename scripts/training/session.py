"""One training run: build, learn, evaluate on the real environment, save."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
from scripts.training.interruption import StopOnSignal, TrainingStopped
from scripts.training.phases import PhaseClock, TrainTimer
from scripts.training.resume import ResumedRun, check_settings, run_checkpoint
from scripts.training.run import TrainingRun, plan_run

NUM_EVALUATIONS = 20


def train(run: ResumedRun[TrainArguments], words: Sequence[str]) -> int:
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
    plan = plan_run(args)
    if run.folder is None:
        rehearse(plan)
        folder = new_run_folder(Path(args.log_folder), args.algo, args.env, args.tag)
        command = shlex.join(["python", "scripts/train.py", *words])
        write_settings(folder, plan, command)
    else:
        folder, command = run.folder, run.command
        check_settings(folder, plan.config.as_entry())
    session = Session(plan, folder, command)
    try:
        return session.run()
    finally:
        session.close()


class Session:
    """A run under way.

    Args:
        plan: what to do.
        folder: where it lies; a run that has a checkpoint in there goes on.
        command: what it was started with.
    """

    def __init__(self, plan: TrainingRun, folder: Path, command: str) -> None:
        args = plan.args
        self.plan, self.folder = plan, folder
        self.clock, self.stop = PhaseClock(), StopOnSignal()
        self.checkpoint = run_checkpoint(args, plan.n_timesteps, folder)
        self.goes_on = self.checkpoint is not None and bool(self.checkpoint.checkpoints.steps())
        self.stop.checkpoint = self.checkpoint
        self.averaged = averaged_actor(plan)
        self.summary = start_summary(plan, command)
        self.eval_env, self.average_env = (plan.vec_env(args.seed + EVALUATION_SEED_OFFSET) for _ in range(2))
        self.evaluation = SummaryEvaluation(
            self.eval_env,
            self.summary,
            self.clock,
            folder,
            max(eval_freq(plan) // args.n_envs, 1),
            args.eval_episodes,
            average=None if self.averaged is None else EvaluatedAverage(self.averaged, self.average_env),
            verbose=args.verbose,
        )

    def close(self) -> None:
        """Release environments and folder."""
        self.eval_env.close()
        self.average_env.close()
        if self.checkpoint is not None:
            self.checkpoint.release()

    def run(self) -> int:
        """Learn from the start or from the newest checkpoint on, evaluate, save, and return the exit code."""
        plan, args, folder = self.plan, self.plan.args, self.folder
        print(f"{args.arm}: {plan.n_timesteps} real steps of {args.env} -> {folder}", flush=True)
        on_policy = args.algo in ON_POLICY
        with self.stop.listening():
            if not args.model:
                agent = self.learn_without_model()
            elif on_policy:
                agent = self.learn_in_the_model()
            else:
                agent = self.learn_with_model()
            if self.stop.received is None:
                self.evaluation.finish(again=args.model and on_policy)  # these learn after their last step
        agent.save(folder / agent_file_name(args.env))
        if self.averaged is not None:
            self.averaged.save(folder / AVERAGED_AGENT_FILE)
        if args.save_replay_buffer and not on_policy:
            agent.save_replay_buffer(folder / "replay_buffer.pkl")  # type: ignore[attr-defined]
        self.summary.finished = self.stop.received is None
        self.summary.stopped_by = None if self.stop.received is None else f"signal {self.stop.received}"
        self.evaluation.record()
        if self.checkpoint is not None and self.summary.finished:
            self.checkpoint.release()
            shutil.rmtree(self.checkpoint.checkpoints.folder)
        return self.stop.exit_code

    def learn_without_model(self) -> BaseAlgorithm:
        """Plain SB3: the baseline of every comparison."""
        with closing(self.training_env()) as env:
            agent = self.plan.build_agent(env)
            self.learn(agent, [])
        return agent

    def learn_with_model(self) -> BaseAlgorithm:
        """Dyna: the agent trains on real and on imagined transitions."""
        from sb3_ext.agent_checks import mixed_buffer

        with closing(self.training_env()) as env:
            parts = build_dyna(self.plan, env, self.clock, verbose=self.plan.args.verbose)
            agent, model, dyna = parts.agent, parts.model, parts.dyna
            self.clock.follow("model_rollout", lambda: dyna.rollout_seconds)
            self.evaluation.model_record = model.record
            self.learn(agent, [branching_callback(self.plan, self.averaged, dyna)])
            if model.trainer.history:
                model.save(self.folder, mixed_buffer(agent).real_transitions())
        return agent

    def learn(self, agent: BaseAlgorithm, of_the_model: Sequence[BaseCallback]) -> None:
        """Let ``agent`` take the steps that are left, until a signal stops it."""
        plan, checkpoint = self.plan, self.checkpoint
        acting = acting_callbacks(plan, self.averaged)
        callbacks = [*self.callbacks(), *of_the_model, *acting, TrainTimer(self.clock)]
        done = 0
        if checkpoint is not None:
            done = checkpoint.restore(agent, callbacks)
            if done:
                print(f"{plan.args.arm}: the run goes on at step {done}", flush=True)
                self.evaluation.record()
        with suppress(TrainingStopped):
            agent.learn(
                plan.n_timesteps - done,
                callback=callbacks,
                reset_num_timesteps=not done,
                progress_bar=plan.args.progress,
            )
        if self.averaged is not None:
            self.averaged.withdraw()

    def callbacks(self) -> list[BaseCallback]:
        """Those of every run, in the order in which SB3 is to call them."""
        args = self.plan.args
        first = [] if self.averaged is None else [self.averaged]
        saving = [] if self.checkpoint is None else [self.checkpoint]
        callbacks: list[BaseCallback] = [*first, self.evaluation, *saving, self.stop]
        if args.save_freq > 0:
            callbacks.append(CheckpointCallback(max(args.save_freq // args.n_envs, 1), str(self.folder)))
        return callbacks

    def training_env(self) -> DummyVecEnv:
        """The real training environments, monitored and timed."""
        args = self.plan.args
        env = self.plan.vec_env(args.seed, n_envs=args.n_envs, monitor_folder=self.folder, append=self.goes_on)
        self.clock.time_calls(env, "step", "env_step")
        return env

    def learn_in_the_model(self) -> BaseAlgorithm:
        """On-policy agents see the real environment only to collect data, and learn inside the model."""
        from sb3_ext.imagination import learn_in_imagination
        from scripts.training.learned_model import imagination_config

        plan, args, clock = self.plan, self.plan.args, self.clock
        self.stop.raises = False  # learn_in_imagination() is to return what it has
        with closing(Monitor(plan.env(), str(self.folder / "0"), override_existing=not self.goes_on)) as env:
            clock.time_calls(env, "step", "env_step")
            model = build_model(plan, DummyVecEnv([lambda: env]), clock, verbose=args.verbose)
            self.evaluation.model_record = model.record

            def build(model_env: VecEnv) -> Any:
                clock.time_calls(model_env, "step", "model_rollout")
                return plan.build_agent(model_env)

            result = learn_in_imagination(
                build,
                env,
                plan.n_timesteps,
                config=imagination_config(plan.config.model.get("imagination") or {}, eval_freq(plan)),
                dynamics=model.dynamics,
                trainer=model.trainer,
                callback=[*self.callbacks(), TrainTimer(clock)],
                progress_bar=args.progress,
                seed=args.seed,
            )
            if model.trainer.history:
                model.save(self.folder, result.store.transitions())
        return result.agent


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
