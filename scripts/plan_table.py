"""A markdown table of plan.py's runs: what each planner reached, at what cost.

python scripts/plan_table.py docs/results/planning > planning.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.interval import stratified_bootstrap
from scripts.run_folder import SUMMARY_FILE

HEADS = (
    "task",
    "planner",
    "model",
    "horizon",
    "execute",
    "seeds × episodes",
    "IQM of returns [95 % interval]",
    "mean ± std",
    "steps",
    "sequences per plan",
    "ms per plan",
)


def read_plans(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The summaries of planning runs at or below ``folders``, by task and then by arm.

    Raises:
        ValueError: if there is none.
    """
    found = [json.loads(path.read_text()) for folder in folders for path in folder.rglob(SUMMARY_FILE)]
    plans = [summary for summary in found if "episodes" in summary.get("planning", {})]
    if not plans:
        raise ValueError(f"There is no summary of plan.py below {', '.join(map(str, folders))}.")
    return sorted(plans, key=lambda summary: (summary["task"], summary["arm"]))


def row(summary: dict[str, Any]) -> str:
    """One run as a line of the table."""
    planning, settings = summary["planning"], summary["hyperparameters"]
    episodes = planning["episodes"]
    returns = np.array([episode["total"] for episode in episodes])
    value, low, high = stratified_bootstrap(returns)
    plans, horizon = sum(episode["plans"] for episode in episodes), int(settings.get("horizon", 25))
    particles = int(settings.get("particles", 1))
    seeds = len(planning["seeds"])
    lengths = sorted({episode["length"] for episode in episodes})
    cells = [
        summary["task"],
        summary["arm"],
        planning["model"],
        f"{horizon}",
        f"{int(settings.get('execute', 1))}",
        f"{seeds} × {len(episodes) // seeds}",
        f"**{value:,.1f}** [{low:,.1f}, {high:,.1f}]",
        f"{returns.mean():,.1f} ± {returns.std():,.1f}",
        f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}",
        f"{planning['model_calls'] / (plans * horizon * particles):,.0f}",
        f"{planning['plan_milliseconds']['median']:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of the runs named on the command line."""
    parser = argparse.ArgumentParser(prog="plan_table.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders above them")
    args = parser.parse_args(argv)
    try:
        plans = read_plans(args.runs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"| {' | '.join(HEADS)} |\n|{' --- |' * len(HEADS)}")
    for summary in plans:
        print(row(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
