"""Atomic checkpoints of a run of :func:`~controllers.learn_with_planner`: model, data and reports."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from controllers.learning_reports import TrialReport
from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.storage.checkpoint import CheckpointError, Storable, load, save

_MODEL, _STORE, _TRIALS = "model.safetensors", "store.safetensors", "trials.json"
_UNFINISHED = ".unfinished_"
_NAME = re.compile(r"after_trial_(\d+)")


class PlannerProgress(NamedTuple):
    """What :func:`load_progress` found: the fitted model, the real data and the reports of finished trials."""

    model: Any
    store: TransitionStore
    trials: tuple[TrialReport, ...]


def save_progress(
    folder: str | os.PathLike[str], model: Storable, store: TransitionStore, trials: Sequence[TrialReport]
) -> Path:
    """Write everything that a run needs to go on; what an earlier call wrote is replaced.

    The files are written to a folder of their own that is renamed when it is complete, so a process killed at any
    moment leaves a complete checkpoint, of this trial or the one before.

    Args:
        folder: where to; made when missing.
        model: the model as fitted after the last trial.
        store: the real data until then.
        trials: the reports until then.

    Returns:
        The folder written.

    Raises:
        TypeError: if the model cannot be stored.
    """
    parent = Path(folder)
    parent.mkdir(parents=True, exist_ok=True)
    target = parent / f"after_trial_{len(trials)}"
    work = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
    try:
        save(model, work / _MODEL)
        store.save(work / _STORE)
        (work / _TRIALS).write_text(json.dumps([asdict(trial) for trial in trials], indent=1))
        work.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    for old in (*_saved(parent).values(), *parent.glob(f"{_UNFINISHED}*")):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def load_progress(folder: str | os.PathLike[str], **overrides: Any) -> PlannerProgress | None:
    """The progress saved in ``folder``; None when there is none. Nothing in the files is executed.

    Args:
        folder: what :func:`save_progress` was given.
        overrides: for :func:`mbrl_wrappers.load`, such as ``device`` or a ``reward_fn`` of your own.

    Raises:
        CheckpointError: if a file is damaged.
    """
    saved = _saved(Path(folder))
    if not saved:
        return None
    newest = saved[max(saved)]
    try:
        rows = json.loads((newest / _TRIALS).read_text())
        trials = tuple(_trial(row) for row in rows)
    except (OSError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{newest / _TRIALS} holds no reports of trials: {error}") from error
    return PlannerProgress(load(newest / _MODEL, **overrides), TransitionStore.load(newest / _STORE), trials)


def _saved(parent: Path) -> dict[int, Path]:
    """Complete folders by their number of trials."""
    if not parent.is_dir():
        return {}
    return {int(match[1]): entry for entry in parent.iterdir() if (match := _NAME.fullmatch(entry.name))}


def _trial(row: dict[str, Any]) -> TrialReport:
    fit: dict[str, Any] | None = row["fit"]
    if fit is None:
        return TrialReport(**row)
    columns: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fit.items()}
    return TrialReport(**{**row, "fit": FitReport(**columns)})
