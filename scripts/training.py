"""One training run: build, learn, evaluate on the real environment, save."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import VecEnv

from scripts.algorithms import ON_POLICY, action_noise, agent_class, agent_keys, readable_policy_kwargs
from scripts.arguments import TrainArguments
from scripts.configuration import HYPERPARAMS_FOLDER, RunConfiguration, load_configuration
from scripts.environments import check_env_id, make_real_vec_env
from scripts.evaluation import EVALUATION_SEED_OFFSET, SummaryEvaluation
from scripts.interruption import StopOnSignal
from scripts.phases import PhaseClock, TrainTimer
from scripts.run_folder import new_run_folder, safe_name, write_text_atomically
from scripts.summary import RunSummary, versions

NUM_EVALUATIONS = 20


@dataclass(frozen=True)
class Plan:
    """A run that was checked and not yet started.

    Attributes:
        args: the command line.
        cls: the agent's class.
        config: merged hyperparameters.
        n_timesteps: real steps.
        env_kwargs: arguments of the environment.
    """

    args: TrainArguments
    cls: type[BaseAlgorithm]
    config: RunConfiguration
    n_timesteps: int
    env_kwargs: dict[str, Any]

    def vec_env(self, seed: int, **kwargs: Any) -> VecEnv:
        """Real environments of this run."""
        wrapper = self.config.run.get("env_wrapper")
        return make_real_vec_env(self.args.env, self.env_kwargs, seed, wrapper=wrapper, **kwargs)


def plan_run(args: TrainArguments) -> Plan:
    """Resolve and check everything that can be wrong before a folder is made.

    Raises:
        ValueError: with what to change.
        ImportError: if the agent's library is missing.
    """
    check_env_id(args.env)
    cls = agent_class(args.algo, args.backend)
    path = Path(args.conf_file) if args.conf_file else HYPERPARAMS_FOLDER / f"{args.algo}.yml"
    config = load_configuration(path, args.env, agent_keys(cls), args.hyperparams)
    n_timesteps = args.n_timesteps if args.n_timesteps > 0 else int(config.run.get("n_timesteps", 0))
    config.run["n_timesteps"] = n_timesteps
    if n_timesteps <= 0:
        raise ValueError(f"{path.name} names no n_timesteps for {args.env}; give it with -n.")
    if args.updates_per_step is not None:
        if args.algo in ON_POLICY:
            raise ValueError(f"--updates-per-step has no meaning for the on-policy {args.algo}.")
        train_freq = config.agent.get("train_freq", 1)
        if not isinstance(train_freq, int):
            raise ValueError(f"--updates-per-step needs an integer train_freq, got {train_freq!r}.")
        config.agent["gradient_steps"] = max(1, round(args.updates_per_step * train_freq * args.n_envs))
    env_kwargs = {**(config.run.get("env_kwargs") or {}), **args.env_kwargs}
    return Plan(args, cls, config, n_timesteps, env_kwargs)


def build_agent(plan: Plan, env: VecEnv, extra: dict[str, Any]) -> BaseAlgorithm:
    """The agent, exactly as its library defines it.

    Args:
        plan: the run.
        env: real training environments.
        extra: further keyword arguments, such as the replay buffer of the model path.
    """
    args, config = plan.args, plan.config
    kwargs: dict[str, Any] = {**config.agent, **extra}
    if "policy_kwargs" in kwargs:
        kwargs["policy_kwargs"] = readable_policy_kwargs(kwargs["policy_kwargs"], args.backend)
    noise = action_noise(config.run, env.action_space)
    if noise is not None:
        kwargs["action_noise"] = noise
    return plan.cls(
        policy=config.run.get("policy", "MlpPolicy"),
        env=env,
        seed=args.seed,
        device=args.device,
        verbose=args.verbose,
        tensorboard_log=args.tensorboard_log or None,
        **kwargs,
    )


def start_summary(plan: Plan, command: str) -> RunSummary:
    """The record of a run that has not stepped yet."""
    args = plan.args
    entry = plan.config.as_entry()
    if not args.model:
        entry.pop("model", None)
    return RunSummary(
        task=args.env,
        algorithm=args.algo,
        backend=args.backend,
        with_model=args.model,
        arm=args.arm,
        seeds={"train": args.seed, "evaluation": args.seed + EVALUATION_SEED_OFFSET},
        total_timesteps=plan.n_timesteps,
        command=command,
        hyperparameters=entry,
        env_kwargs=plan.env_kwargs,
        num_threads=args.num_threads,
        versions=versions(args.backend),
    )


def write_settings(folder: Path, plan: Plan, command: str) -> None:
    """Leave ``config.yml``, ``args.yml`` and ``command.txt`` in ``<folder>/<env>/``."""
    settings = folder / safe_name(plan.args.env)
    settings.mkdir(exist_ok=True)
    write_text_atomically(settings / "config.yml", yaml.safe_dump(plan.config.as_entry(), sort_keys=False))
    write_text_atomically(settings / "args.yml", yaml.safe_dump(asdict(plan.args), sort_keys=False))
    write_text_atomically(settings / "command.txt", command + "\n")


def train(args: TrainArguments, words: Sequence[str]) -> int:
    """Train, evaluate on the real environment, save, and return the exit code.

    Args:
        args: the parsed command line.
        words: the command line itself, for the record.
    """
    plan = plan_run(args)
    if args.model:
        raise ValueError("Training with a model is not wired up yet; add --no-model.")
    command = shlex.join(["python", "scripts/train.py", *words])
    folder = new_run_folder(Path(args.log_folder), args.algo, args.env, args.tag)
    write_settings(folder, plan, command)
    summary = start_summary(plan, command)
    clock = PhaseClock()
    stop = StopOnSignal()
    env = plan.vec_env(args.seed, n_envs=args.n_envs, clock=clock, monitor_folder=folder)
    eval_env = plan.vec_env(args.seed + EVALUATION_SEED_OFFSET)
    eval_freq = args.eval_freq if args.eval_freq > 0 else plan.n_timesteps // NUM_EVALUATIONS
    evaluation = SummaryEvaluation(
        eval_env, summary, clock, folder, max(eval_freq // args.n_envs, 1), args.eval_episodes, args.verbose
    )
    callbacks: list[BaseCallback] = [evaluation, stop]
    if args.save_freq > 0:
        callbacks.append(CheckpointCallback(max(args.save_freq // args.n_envs, 1), str(folder)))
    callbacks.append(TrainTimer(clock))

    agent = build_agent(plan, env, {})
    print(f"{args.arm}: {plan.n_timesteps} real steps of {args.env} -> {folder}", flush=True)
    try:
        with stop.listening():
            agent.learn(plan.n_timesteps, callback=callbacks, progress_bar=args.progress)
            if stop.received is None:
                evaluation.finish()
        agent.save(folder / f"{safe_name(args.env)}.zip")
        if args.save_replay_buffer:
            agent.save_replay_buffer(folder / "replay_buffer.pkl")  # type: ignore[attr-defined]
        summary.finished = stop.received is None
        summary.stopped_by = None if stop.received is None else f"signal {stop.received}"
        evaluation.record()
    finally:
        env.close()
        eval_env.close()
    return stop.exit_code
