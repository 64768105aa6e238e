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

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.planning.table import plans_table
from scripts.runs.run_folder import SUMMARY_FILE


def read_plans(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The summaries of planning runs with an episode at or below ``folders``, by task and then by arm.

    Raises:
        ValueError: if there is none.
    """
    found = [json.loads(path.read_text()) for folder in folders for path in folder.rglob(SUMMARY_FILE)]
    plans = [summary for summary in found if summary.get("planning", {}).get("episodes")]
    if not plans:
        raise ValueError(f"There is no summary of plan.py below {', '.join(map(str, folders))}.")
    return sorted(plans, key=lambda summary: (summary["task"], summary["arm"]))


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
    print(plans_table(plans))
    return 0


if __name__ == "__main__":
    sys.exit(main())
