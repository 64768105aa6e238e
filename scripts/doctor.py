"""Tell what this machine and installation have, what is missing, and how to get it.

    python scripts/doctor.py
    python scripts/doctor.py --json

Exits 1 when something that the project needs is missing or too old. Extras are named and are no fault.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.pictures.renderer import choose_renderer


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; 1 if something needed is missing."""
    parser = argparse.ArgumentParser(prog="doctor.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-render", action="store_true", help="do not try to draw a picture")
    args = parser.parse_args(argv)
    choose_renderer()
    try:
        from scripts.runs.machine import as_text, examine

        found = examine(Path.cwd(), render=not args.no_render)
    except ImportError as error:
        print(f"error: {error}: pip install -U mbrl-wrappers", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1) if args.json else "\n".join(as_text(found)))
    return 1 if found["missing"] else 0


if __name__ == "__main__":
    sys.exit(main())
