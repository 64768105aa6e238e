"""The command line of ``train.py`` as a dataclass, with the flag names of RL Zoo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.training.configuration import parse_assignments

BACKENDS = ("sb3", "sbx")
ALGORITHMS = ("sac", "td3", "ddpg", "dqn", "tqc", "crossq", "qrdqn", "ppo", "a2c", "trpo")


@dataclass(frozen=True)
class TrainArguments:
    """Everything ``train.py`` needs; see ``--help`` for the meaning of each field."""

    algo: str = "sac"
    env: str = "Hopper-v5"
    n_timesteps: int = -1
    seed: int = 0
    device: str = "auto"
    eval_freq: int = -1
    eval_episodes: int = 10
    n_envs: int = 1
    save_freq: int = -1
    save_replay_buffer: bool = False
    log_folder: str = "logs"
    tensorboard_log: str = ""
    progress: bool = False
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    hyperparams: dict[str, Any] = field(default_factory=dict)
    conf_file: str = ""
    num_threads: int = 1
    verbose: int = 0
    backend: str = "sb3"
    model: bool = True
    updates_per_step: float | None = None
    tag: str = ""

    def __post_init__(self) -> None:
        if self.eval_episodes < 1 or self.n_envs < 1:
            raise ValueError("--eval-episodes and --n-envs must be at least 1.")
        for flag, value in (("-n", self.n_timesteps), ("--eval-freq", self.eval_freq), ("--save-freq", self.save_freq)):
            if value < 1 and value != -1:
                raise ValueError(f"{flag} must be at least 1, or -1 for the default, got {value}.")
        if self.updates_per_step is not None and self.updates_per_step <= 0:
            raise ValueError(f"--updates-per-step must be positive, got {self.updates_per_step}.")
        check_tag(self.tag)

    @property
    def arm(self) -> str:
        """How this run is called in tables and legends."""
        return self.tag or (f"{self.algo}+model" if self.model else self.algo)


def check_tag(tag: str) -> None:
    """Refuse a name that cannot be part of a folder's.

    Raises:
        ValueError: if it holds a slash.
    """
    if any(separator in tag for separator in "/\\"):
        raise ValueError(f"--tag becomes part of a folder name, so it must hold no slash; got {tag!r}.")


class Assignments(argparse.Action):
    """Collects ``key:value`` words into a dictionary; a later word replaces an earlier one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        words = [values] if isinstance(values, str) else [str(value) for value in values or ()]
        try:
            parsed = parse_assignments(words)
        except ValueError as error:
            parser.error(f"{option_string}: {error}")
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **parsed})


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``train.py``."""
    default = TrainArguments()
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train a Stable-Baselines3 agent with a learned model, or without one (--no-model).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--algo", choices=ALGORITHMS, default=default.algo, help="the agent")
    add("--env", default=default.env, help="Gymnasium environment id")
    add("-n", "--n-timesteps", type=int, default=-1, help="real environment steps (-1: from the YAML file)")
    add("--seed", type=int, default=default.seed, help="seeds agent, model, training and evaluation environments")
    add("--device", default=default.device, help="torch device: auto, cpu, cuda")
    add("--eval-freq", type=int, default=-1, help="real steps between evaluations (-1: a twentieth of the run)")
    add("--eval-episodes", type=int, default=default.eval_episodes, help="episodes per evaluation")
    add("--n-envs", type=int, default=default.n_envs, help="parallel training environments")
    add("--save-freq", type=int, default=-1, help="real steps between checkpoints (-1: none)")
    add("--save-replay-buffer", action="store_true", help="also save the replay buffer at the end (a pickle)")
    add("-f", "--log-folder", default=default.log_folder, help="where run folders are made")
    add("-tb", "--tensorboard-log", default="", help="folder for TensorBoard logs (empty: none)")
    add("-P", "--progress", action="store_true", help="show a progress bar")
    add("--env-kwargs", nargs="+", action=Assignments, default={}, metavar="K:V", help="environment arguments")
    add(
        "--hyperparams",
        "-params",
        nargs="+",
        action=Assignments,
        default={},
        metavar="K:V",
        help="replace hyperparameters; dots reach inside: policy_kwargs.net_arch:[64,64] dyna.rollouts_per_step:100",
    )
    add("--conf-file", default="", help="YAML file to use instead of scripts/hyperparams/<algo>.yml")
    add("--num-threads", type=int, default=default.num_threads, help="CPU threads (0: no limit)")
    add("--verbose", type=int, default=default.verbose, help="0 quiet, 1 SB3's log tables")
    add("--backend", choices=BACKENDS, default=default.backend, help="sb3 is PyTorch, sbx is JAX")
    add("--no-model", dest="model", action="store_false", default=True, help="train without a model")
    add(
        "--updates-per-step",
        type=float,
        default=None,
        help="agent updates per real step; replaces gradient_steps of the YAML file",
    )
    add("--run-name", "--tag", dest="tag", default="", help="name of this arm, in the folder name and in tables")
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> TrainArguments:
    """Parse the command line.

    Args:
        argv: words after the program name; the process's own when omitted.
    """
    parser = build_parser()
    namespace = parser.parse_args(argv)
    try:
        return TrainArguments(**vars(namespace))
    except ValueError as error:
        parser.error(str(error))
