"""Pictures of return against real environment steps."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbrl_wrappers.optional import require
from scripts.runs.interval import FloatArray, stratified_bootstrap
from scripts.runs.reading import Run

require("matplotlib", extra="plots").use("Agg")
plt: Any = require("matplotlib.pyplot", extra="plots")

# Okabe and Ito's palette, which colour-blind readers can tell apart; black stays free for real data.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
# One per colour. All but the first have gaps, through which an equal curve below is seen.
LINES: tuple[Any, ...] = ("-", *((0, dashes) for dashes in ((4, 2), (2, 2), (6, 2, 1, 2), (1, 2), (3, 5), (1.5, 6))))


@dataclass(frozen=True)
class Mark:
    """A published score.

    Attributes:
        task: environment id.
        label: whose score.
        step: real steps.
        value: return.
        error: half the length of the bar, or 0.
    """

    task: str
    label: str
    step: float
    value: float
    error: float


def read_marks(path: Path) -> list[Mark]:
    """Read a CSV file with the columns ``task,label,step,value`` and perhaps ``error``.

    Lines that begin with ``#`` are comments.

    Raises:
        ValueError: if a column is missing or a number is not one.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    try:
        return [
            Mark(row["task"], row["label"], float(row["step"]), float(row["value"]), float(row.get("error") or 0))
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} needs the columns task,label,step,value[,error] with numbers: {error}.") from error


WIDEST_LABEL = 34
"""Letters of a label that still has room beside another one below a panel."""


def aggregate_curve(runs: Sequence[Run]) -> tuple[FloatArray, FloatArray]:
    """The steps all runs have reached and the interquartile mean there with its ends, ``(3, steps)``.

    Runs evaluated at other steps than the first one are joined by straight lines.
    """
    end = min(run.steps[-1] for run in runs)
    begin = max(run.steps[0] for run in runs)
    steps = np.unique(np.concatenate([run.steps for run in runs]))
    steps = steps[(steps >= begin) & (steps <= end)]
    scores = np.stack([np.interp(steps, run.steps, run.returns) for run in runs])  # (seeds, steps)
    intervals = [stratified_bootstrap(scores[:, column]) for column in range(len(steps))]
    return steps, np.array(intervals, dtype=np.float64).reshape(-1, 3).T


def draw_task(axes: Any, task: str, arms: Mapping[str, Sequence[Run]], marks: Sequence[Mark] = ()) -> None:
    """Draw all arms of one task, and published marks, into one axes."""
    for index, (arm, runs) in enumerate(arms.items()):
        colour, line = COLOURS[index % len(COLOURS)], LINES[index % len(LINES)]
        steps, (value, low, high) = aggregate_curve(runs)
        seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
        axes.plot(steps, value, color=colour, ls=line, lw=1.8, label=f"{arm} ({seeds})")
        if len(runs) > 1:
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, lw=0)
    labels = sorted({mark.label for mark in marks if mark.task == task})
    for marker, label in zip("osD^vPX*" * (len(labels) // 8 + 1), labels, strict=False):
        chosen = [mark for mark in marks if mark.task == task and mark.label == label]
        axes.errorbar(
            [mark.step for mark in chosen],
            [mark.value for mark in chosen],
            [mark.error for mark in chosen],
            fmt=marker,
            color="0.35",
            ms=5,
            capsize=2,
            lw=1,
            label=label,
        )
    axes.set_title(task)
    axes.set_xlabel("real environment steps")
    axes.set_ylabel("return on the real environment")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    longest = max(len(label) for label in axes.get_legend_handles_labels()[1])
    columns = 2 if longest <= WIDEST_LABEL else 1
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, frameon=False, fontsize=9)


def plot_returns(
    groups: Mapping[str, Mapping[str, Sequence[Run]]],
    path: Path,
    marks: Sequence[Mark] = (),
    max_step: float | None = None,
) -> None:
    """One panel per task: interquartile mean over seeds, with a 95 % stratified-bootstrap band.

    Args:
        groups: runs by task and arm.
        path: PNG file to write.
        marks: published scores.
        max_step: where the horizontal axis ends.
    """
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(6.0 * columns, 5.0 * rows), squeeze=False)
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, (task, arms) in zip(grid.flat, groups.items(), strict=False):
        draw_task(axes, task, arms, [mark for mark in marks if max_step is None or mark.step <= max_step])
        axes.set_xlim(0, max_step)
    single = all(len(runs) == 1 for arms in groups.values() for runs in arms.values())
    title = "One seed per curve" if single else "Interquartile mean over seeds, band: 95 % bootstrap interval"
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
