"""Markdown tables of results from run folders: of runs that learned, and of plan.py's runs.

    python scripts/table.py logs --marks 20000 50000 > results.md
    python scripts/table.py docs/results/planning > planning.md

Runs that learned are averaged over seeds, at the real steps that --marks names. A run of plan.py is a row of its own:
what the planner reached, and at what cost.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TypeAlias

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.planning.table import acted_on_plans, plans_table
from scripts.runs.interval import stratified_bootstrap
from scripts.runs.reading import POLICIES, Run, find_runs, group_runs
from scripts.training.phases import PHASES

Mark: TypeAlias = float | tuple[float, float]
"""Real steps at which a score is given, or from and to which evaluations are averaged."""


def read_mark(word: str) -> Mark:
    """``20000``, or ``10000-20000``."""
    begin, dash, end = word.partition("-")
    return (float(begin), float(end)) if dash else float(word)


def mark_name(mark: Mark) -> str:
    """The head of its column."""
    return f"mean of {mark[0]:,.0f} to {mark[1]:,.0f}" if isinstance(mark, tuple) else f"{mark:,.0f} steps"


def score_cell(runs: Sequence[Run], mark: Mark) -> str:
    """``IQM [low, high]`` and the value of each seed at a mark; a dash where a seed has not got so far."""
    scores = [run.mean_between(*mark) if isinstance(mark, tuple) else run.return_at(mark) for run in runs]
    known = [score for score in scores if score is not None]
    if not known:
        return "–"
    each = ", ".join("–" if score is None else f"{score:.0f}" for score in scores)
    value, low, high = stratified_bootstrap(known)
    band = f" [{low:.0f}, {high:.0f}]" if len(known) > 1 else ""
    return f"**{value:.0f}**{band} ({each})"


def minutes_cell(runs: Sequence[Run]) -> str:
    """Mean wall minutes per run, and by phase."""
    total = sum(float(run.summary["wall_seconds"]) for run in runs) / len(runs) / 60
    parts = []
    for phase in (*PHASES, "other"):
        mean = sum(float(run.summary["phase_seconds"].get(phase, 0.0)) for run in runs) / len(runs) / 60
        if mean >= 0.05:
            parts.append(f"{phase.replace('_', ' ')} {mean:.1f}")
    return f"{total:.1f} ({', '.join(parts)})" if parts else f"{total:.1f}"


def results_table(runs: Sequence[Run], marks: Sequence[Mark]) -> str:
    """The table in markdown: one row per task and arm.

    Args:
        runs: the runs.
        marks: where scores are given; the last common evaluation of each arm when empty.
    """
    names = [mark_name(mark) for mark in marks] or ["last common evaluation"]
    heads = ["task", "arm", "seeds", *names, "minutes per run"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for task, arms in group_runs(runs).items():
        for arm, members in arms.items():
            end = min(run.steps[-1] for run in members)
            scores = [score_cell(members, mark) for mark in marks] or [f"@{end:,.0f}: {score_cell(members, end)}"]
            unfinished = sum(not run.summary["finished"] for run in members)
            seeds = f"{len(members)}" + (f" ({unfinished} unfinished)" if unfinished else "")
            lines.append(f"| {' | '.join([task, arm, seeds, *scores, minutes_cell(members)])} |")
    return "\n".join(lines)


def steps_to(run: Run, goal: float, in_a_row: int) -> float:
    """Real steps at the last of the first ``in_a_row`` evaluations that all returned ``goal``; infinity if none did."""
    reached = 0
    for step, value in zip(run.steps, run.returns, strict=True):
        reached = reached + 1 if value >= goal else 0
        if reached == in_a_row:
            return float(step)
    return math.inf


def goal_table(runs: Sequence[Run], goal: float, in_a_row: int = 3) -> str:
    """The table of the real steps that each seed took to ``goal``: once, and ``in_a_row`` times in a row."""
    lines = ["| task | arm | evaluations at the goal | each seed | median |", "|" + " --- |" * 5]
    for task, arms in group_runs(runs).items():
        for arm, members in arms.items():
            for count in (1, in_a_row):
                steps = [steps_to(run, goal, count) for run in members]
                cells = [f"{value:,.0f}" if math.isfinite(value) else "never" for value in (*steps, median(steps))]
                name = "first" if count == 1 else f"{count} in a row"
                lines.append(f"| {task} | {arm} | {name} | {', '.join(cells[:-1])} | {cells[-1]} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of the runs named on the command line."""
    parser = argparse.ArgumentParser(prog="table.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders above them")
    marks = "real steps at which scores are given, or 10000-20000 for the mean of the evaluations in between"
    parser.add_argument("--marks", nargs="*", type=read_mark, default=[], help=marks)
    parser.add_argument("--goal", type=float, help="also the real steps that each seed took to this return")
    policy = "whose evaluations: the agent's own (raw), those of the average of its actors, or both as two arms"
    parser.add_argument("--policy", choices=POLICIES, default="raw", help=policy)
    args = parser.parse_args(argv)
    try:
        runs = find_runs(args.runs, POLICIES[args.policy])
        learned = [run for run in runs if not acted_on_plans(run.summary)]
        tables = learning_tables(learned, args.marks, args.goal) if learned else []
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    plans = [run.summary for run in runs if acted_on_plans(run.summary)]
    if plans:
        tables.append(plans_table(sorted(plans, key=lambda summary: (summary["task"], summary["arm"]))))
    print("\n\n".join(tables))
    return 0


def learning_tables(runs: Sequence[Run], marks: Sequence[Mark], goal: float | None) -> list[str]:
    """What runs that learned came to, with the sentences above each table.

    Args:
        runs: at least one.
        marks: see :func:`results_table`.
        goal: a return, for a second table of the real steps to it; None for none.

    Raises:
        ValueError: if runs cannot be averaged.
    """
    tables = [
        "IQM over seeds [95 % stratified-bootstrap interval] (each seed), evaluated on the real environment.",
        results_table(runs, marks),
    ]
    if goal is not None:
        tables += [f"Real steps to a mean return of {goal:g}.", goal_table(runs, goal)]
    return tables


if __name__ == "__main__":
    sys.exit(main())
