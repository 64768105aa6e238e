"""Which run ``--resume`` goes on with, read from run folders before any numeric library is imported."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from scripts.runs.run_folder import SUMMARY_FILE, run_name
from scripts.training.configuration import parse_yaml
from scripts.training.task_arguments import ResumableArguments

if TYPE_CHECKING:
    from sb3_ext import RunCheckpoint

R = TypeVar("R", bound=ResumableArguments)

AUTO = "auto"
CHECKPOINT_FOLDER = "checkpoints"
MIN_CHECKPOINT_FREQ = 1000
NUM_CHECKPOINTS = 20
_OF_THE_CALL = ("resume", "progress", "verbose", "log_folder", "checkpoint_freq")
"""Arguments that change no number of a run, so that each call has its own."""


@dataclass(frozen=True)
class ResumedRun(Generic[R]):
    """A run to start or to go on with.

    Attributes:
        args: the command line of the run.
        folder: where it lies; None for a new one.
        finished: whether there is nothing left to do.
    """

    args: R
    folder: Path | None = None
    finished: bool = False

    @property
    def command(self) -> str:
        """The command that the run was started with."""
        assert self.folder is not None
        (path,) = self.folder.glob("*/command.txt")
        return path.read_text().strip()


def resumed_run(args: R) -> ResumedRun[R]:
    """The run that ``args`` ask for.

    Args:
        args: without ``--resume`` they are a new run; with ``auto`` the newest one with the same arguments, or a new
            one; with a folder the run in there, whose own arguments count.

    Raises:
        ValueError: if the folder is none of a run of the same command, or an argument disagrees with it.
    """
    if not args.resume:
        return ResumedRun(args)
    if args.resume != AUTO:
        folder = Path(args.resume)
        return _run_in(folder, args, _agreeing(args, _stored_arguments(folder, args), folder))
    for folder in _folders_like(args):
        try:
            stored = _stored_arguments(folder, args)
        except ValueError:  # killed before its settings were written
            continue
        if _settings(stored) == _settings(args):
            return _run_in(folder, args, stored)
    return ResumedRun(replace(args, resume=""))


def check_settings(folder: Path, entry: dict[str, Any]) -> None:
    """Refuse to go on with other hyperparameters than the run was started with.

    Args:
        folder: of the run.
        entry: the hyperparameters as they are read now.

    Raises:
        ValueError: naming the first that differs.
    """
    (path,) = folder.glob("*/config.yml")
    stored = parse_yaml(path.read_text()) or {}
    for name in sorted({*stored, *entry}):
        before, now = json.dumps(stored.get(name)), json.dumps(entry.get(name))
        if before != now:
            raise ValueError(
                f"The settings of {folder} have changed since it was started: {name} was {before} and is {now}. "
                "Restore the YAML file, or start a new run."
            )


def _run_in(folder: Path, args: R, stored: R) -> ResumedRun[R]:
    try:
        finished = bool(json.loads((folder / SUMMARY_FILE).read_text())["finished"])
    except (OSError, ValueError, KeyError):  # killed before the first evaluation
        finished = False
    own = {name: getattr(args, name) for name in _OF_THE_CALL if name not in ("resume", "checkpoint_freq")}
    freq = stored.checkpoint_freq if args.checkpoint_freq == -1 else args.checkpoint_freq
    return ResumedRun(replace(stored, **own, resume="", checkpoint_freq=freq), folder, finished)


def _folders_like(args: ResumableArguments) -> list[Path]:
    """Folders of the same name, the newest first."""
    kind, tag = args.place
    parent = Path(args.log_folder) / kind
    pattern = re.compile(re.escape(run_name(args.env, tag)) + r"_(\d+)")
    found = {
        int(match[1]): entry
        for entry in (parent.iterdir() if parent.is_dir() else ())
        if (match := pattern.fullmatch(entry.name))
    }
    return [found[number] for number in sorted(found, reverse=True)]


def _stored_arguments(folder: Path, args: R) -> R:
    """What the run in ``folder`` was started with, as arguments of the same command as ``args``."""
    paths = sorted(folder.glob("*/args.yml"))
    if len(paths) != 1:
        raise ValueError(f"{folder} is no run folder of {args.PROGRAM}: it holds no <env>/args.yml.")
    try:
        return type(args)(**parse_yaml(paths[0].read_text()))
    except TypeError as error:
        raise ValueError(f"{paths[0]} was not written by {args.PROGRAM} ({error}).") from error


def run_checkpoint(args: ResumableArguments, n_timesteps: int, folder: Path) -> RunCheckpoint | None:
    """What saves the run of so many steps in ``folder``, and holds it; None if there are to be no checkpoints.

    Raises:
        ValueError: if another process trains this run.
    """
    if args.checkpoint_freq == 0:
        return None
    from sb3_ext import RunCheckpoint

    usual = max(n_timesteps // NUM_CHECKPOINTS, MIN_CHECKPOINT_FREQ)
    every = usual if args.checkpoint_freq == -1 else args.checkpoint_freq
    checkpoint = RunCheckpoint(folder / CHECKPOINT_FOLDER, every=every, verbose=args.verbose)
    checkpoint.hold()
    return checkpoint


def _settings(args: ResumableArguments) -> dict[str, Any]:
    """The arguments that a run's numbers depend on, as plain data."""
    return {name: value for name, value in asdict(args).items() if name not in _OF_THE_CALL}


def _agreeing(args: R, stored: R, folder: Path) -> R:
    """``stored``, after a check that no argument that was given says something else."""
    default, given, there = _settings(type(args)()), _settings(args), _settings(stored)
    for field in fields(args):
        name = field.name
        if name in given and given[name] != default[name] and given[name] != there[name]:
            raise ValueError(
                f"The run in {folder} has {name}={there[name]!r}, and the command line says {given[name]!r}: leave it "
                "out to go on with that run, or leave out --resume to start another."
            )
    return stored
