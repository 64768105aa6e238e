"""Finished and unfinished runs on disk, read from their ``summary.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from scripts.runs.interval import FloatArray
from scripts.runs.run_folder import SUMMARY_FILE

Policy: TypeAlias = Literal["raw", "averaged"]
"""Whose evaluations are meant: the agent's own or those of the average of its actors."""
POLICIES: Mapping[str, tuple[Policy, ...]] = {"raw": ("raw",), "averaged": ("averaged",), "both": ("raw", "averaged")}
"""What ``--policy`` of ``table.py`` and ``plot.py`` stands for."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: where it lies.
        summary: the content of ``summary.json``.
        steps: ``(evaluations,)`` real steps.
        returns: ``(evaluations,)`` mean return of each evaluation.
        policy: whose evaluations these are.
    """

    folder: Path
    summary: dict[str, Any]
    steps: FloatArray
    returns: FloatArray
    policy: Policy = "raw"

    @property
    def task(self) -> str:
        """The environment id."""
        return str(self.summary["task"])

    @property
    def arm(self) -> str:
        """The arm's name; runs of one arm and task differ in their seed only."""
        name = str(self.summary["arm"])
        return name if self.policy == "raw" else f"{name}, averaged"

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.summary["seeds"]["train"])

    def return_at(self, step: float) -> float | None:
        """The return at a real step, between two evaluations by a straight line; ``None`` outside of them."""
        if not len(self.steps) or not self.steps[0] <= step <= self.steps[-1]:
            return None
        return float(np.interp(step, self.steps, self.returns))

    def mean_between(self, begin: float, end: float) -> float | None:
        """The mean over evaluations from real step ``begin`` to ``end``; ``None`` for a run that did not get so far."""
        inside = (self.steps >= begin) & (self.steps <= end)
        return float(self.returns[inside].mean()) if inside.any() and self.steps[-1] >= end else None


def read_run(folder: Path, policy: Policy = "raw") -> Run:
    """Read one run folder.

    Args:
        folder: the folder.
        policy: whose evaluations to read; a run without an average has none of the averaged actor.

    Raises:
        ValueError: if it holds no readable summary.
    """
    path = folder / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is no run folder: it has no {SUMMARY_FILE}.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if "evaluations" not in summary:
        raise ValueError(f"{path} was not written by train.py: it holds no evaluations.")
    evaluations = summary["evaluations"] if policy == "raw" else summary.get("averaged_evaluations", [])
    steps = np.array([evaluation["real_steps"] for evaluation in evaluations], dtype=np.float64)
    returns = np.array([np.mean(evaluation["returns"]) for evaluation in evaluations], dtype=np.float64)
    return Run(folder, summary, steps, returns, policy)


def existing(paths: Iterable[Path]) -> list[Path]:
    """The paths themselves.

    Raises:
        ValueError: naming the first that does not exist.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise ValueError(f"There is no {path}.")
    return paths


def find_runs(paths: Iterable[Path], policies: Sequence[Policy] = ("raw",)) -> list[Run]:
    """All runs in or below the given folders, each once per policy, those without an evaluation left out.

    Args:
        paths: run folders, or folders above them.
        policies: whose evaluations to read.

    Raises:
        ValueError: if a folder does not exist, or there are no runs.
    """
    paths = existing(paths)
    folders = sorted({found.parent.resolve() for path in paths for found in path.rglob(SUMMARY_FILE)})
    runs = [run for policy in policies for folder in folders if len((run := read_run(folder, policy)).steps)]
    if not runs:
        of_average = "" if "raw" in policies else " of the averaged actor (train.py --average-steps)"
        raise ValueError(
            f"No run with an evaluation{of_average} found; give folders that train.py made (or their parents)."
        )
    return runs


def group_runs(runs: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    """Runs by task and then by arm, each arm in the order of its seeds.

    Raises:
        ValueError: if an arm has the same seed twice, which would count one run as two, or mixes hyperparameters.
    """
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: (run.task, run.arm, run.seed)):
        arm = groups.setdefault(run.task, {}).setdefault(run.arm, [])
        if arm and (different := _differences(arm[0], run)):
            raise ValueError(
                f"{run.task}: the runs of arm {run.arm!r} differ in {', '.join(different)} ({arm[0].folder} and "
                f"{run.folder}), so they cannot be averaged. Name the arms apart with --tag when training."
            )
        if arm and arm[-1].seed == run.seed:
            raise ValueError(
                f"{run.task}: arm {run.arm!r} has seed {run.seed} twice, in {arm[-1].folder} and {run.folder}. "
                "Leave one out, or name the arms apart with --tag when training."
            )
        arm.append(run)
    return groups


def _differences(one: Run, other: Run) -> list[str]:
    """Settings in which two runs differ, apart from seed, length and machine."""
    keys: tuple[str, ...] = ("algorithm", "backend", "with_model", "env_kwargs")
    if one.policy == "averaged":
        keys = (*keys, "average_steps")
    found = [key for key in keys if one.summary.get(key) != other.summary.get(key)]
    if sorted(one.summary.get("use_average") or []) != sorted(other.summary.get("use_average") or []):
        found.append("use_average")
    mine, theirs = one.summary["hyperparameters"], other.summary["hyperparameters"]
    names = sorted({*mine, *theirs} - {"n_timesteps"})
    return found + [name for name in names if mine.get(name) != theirs.get(name)]
