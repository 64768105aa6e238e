"""What the command lines that act on a task have in common: fields, flags and how they are parsed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from scripts.training.configuration import parse_assignments

A = TypeVar("A")


@dataclass(frozen=True)
class TaskArguments:
    """The fields of every such command; see ``--help`` for the meaning of each."""

    env: str = "Hopper-v5"
    device: str = "auto"
    log_folder: str = "logs"
    progress: bool = False
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    hyperparams: dict[str, Any] = field(default_factory=dict)
    conf_file: str = ""
    num_threads: int = 1
    tag: str = ""

    def __post_init__(self) -> None:
        if any(separator in self.tag for separator in "/\\"):
            raise ValueError(f"--tag becomes part of a folder name, so it must hold no slash; got {self.tag!r}.")


@dataclass(frozen=True)
class LearningArguments(TaskArguments):
    """The further fields of the commands that learn."""

    n_timesteps: int = -1
    seed: int = 0
    eval_episodes: int = 10
    tensorboard_log: str = ""
    verbose: int = 0


@dataclass(frozen=True)
class ResumableArguments(LearningArguments):
    """The further fields of the commands whose runs an SB3 agent makes, and which ``--resume`` goes on with.

    Attributes:
        PROGRAM: the command.
    """

    PROGRAM: ClassVar[str] = ""

    algo: str = "sac"
    checkpoint_freq: int = -1
    resume: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint_freq < -1:
            raise ValueError(f"--checkpoint-freq must be at least 1, 0 for none or -1, got {self.checkpoint_freq}.")

    @property
    def place(self) -> tuple[str, str]:
        """The folder below the log folder in which the run's own lies, and what stands in its name after the task."""
        return self.algo, self.tag


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse a count that is neither at least 1 nor -1, which stands for the default.

    Args:
        counts: by flag.

    Raises:
        ValueError: naming the flag.
    """
    for flag, value in counts.items():
        if value < 1 and value != -1:
            raise ValueError(f"{flag} must be at least 1, or -1 for the default, got {value}.")


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


def task_parser(
    program: str, description: str, default: TaskArguments, *, settings: str, hyperparams: str
) -> argparse.ArgumentParser:
    """A parser with the flags of :class:`TaskArguments`, all but ``progress``.

    Args:
        program: the command.
        description: what it does.
        default: gives the defaults.
        settings: the YAML file that is read unless another is named.
        hyperparams: what ``--hyperparams`` replaces.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    pairs: dict[str, Any] = {"nargs": "+", "action": Assignments, "default": {}, "metavar": "K:V"}
    add("--env", default=default.env, help="Gymnasium environment id; module:Id-v0 imports the module first")
    add("--device", default=default.device, help="torch device of what is learned: auto, cpu, cuda")
    add("-f", "--log-folder", default=default.log_folder, help="where run folders are made")
    add("--env-kwargs", **pairs, help="environment arguments")
    add("--hyperparams", "-params", **pairs, help=hyperparams)
    add("--conf-file", default="", help=f"YAML file to use instead of scripts/hyperparams/{settings}")
    add("--num-threads", type=int, default=default.num_threads, help="CPU threads (0: no limit)")
    add("--run-name", "--tag", dest="tag", default="", help="name of this run, in the folder name and in tables")
    return parser


def add_learning_flags(parser: argparse.ArgumentParser, default: LearningArguments, evaluations: str) -> None:
    """The flags of :class:`LearningArguments`, and the progress bar's.

    Args:
        parser: gets them.
        default: gives the defaults.
        evaluations: what ``--eval-episodes`` counts.
    """
    add = parser.add_argument
    add("-n", "--n-timesteps", type=int, default=-1, help="real environment steps (-1: from the YAML file)")
    add("--seed", type=int, default=default.seed, help="of all that is learned and of its environments")
    add("--eval-episodes", type=int, default=default.eval_episodes, help=evaluations)
    add("-tb", "--tensorboard-log", default="", help="folder for TensorBoard logs (empty: none)")
    add("-P", "--progress", action="store_true", help="show a progress bar")
    add("--verbose", type=int, default=default.verbose, help="0 quiet, 1 log tables")


def add_resume_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of :class:`ResumableArguments`."""
    parser.add_argument(
        "--checkpoint-freq",
        type=int,
        default=-1,
        help="real steps between checkpoints that --resume goes on from (-1: a twentieth of the run, at least 1000; "
        "0: none)",
    )
    parser.add_argument(
        "--resume",
        default="",
        metavar="auto|FOLDER",
        help="go on with the run in FOLDER, or with the newest one that has these arguments (auto: a new one if there "
        "is none)",
    )


def parsed(parser: argparse.ArgumentParser, cls: type[A], argv: Sequence[str] | None) -> A:
    """The command line as a ``cls``; what it refuses ends the program as an unknown flag does.

    Args:
        parser: has a flag for each field.
        cls: a dataclass.
        argv: words after the program name; the process's own when None.
    """
    namespace = parser.parse_args(argv)
    try:
        return cls(**vars(namespace))
    except ValueError as error:
        parser.error(str(error))
