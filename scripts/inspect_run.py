"""Tell what is in a run's folder or checkpoint, and whether it is whole; nothing in it is executed.

    python scripts/inspect_run.py logs/sac/Hopper-v5_1
    python scripts/inspect_run.py logs/sac/Hopper-v5_1 --json

Exits 1 when something is damaged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is there; 1 if anything is damaged, 2 if there is nothing."""
    parser = argparse.ArgumentParser(prog="inspect_run.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a run's folder, a folder of checkpoints, or a single checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    from scripts.runs.inspection import as_text, inspect_folder  # only now: it takes seconds to import torch

    try:
        found = inspect_folder(args.folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1) if args.json else "\n".join(as_text(found)))
    parts = [*found["checkpoints"], *found["files"], *found["agents"]]
    return 0 if all(part["whole"] for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
