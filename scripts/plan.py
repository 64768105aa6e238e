"""Act on plans: model predictive control of a real environment, in its true model or in a learned one.

    python scripts/plan.py --env HalfCheetah-v5 --planner icem --steps 200
    python scripts/plan.py --env Hopper-v5 --planner cem --horizon 10 --terminal-value logs/sac/Hopper-v5_1
    python scripts/plan.py --env Reacher-v5 --episodes 20 --execute 2 --hyperparams population:80 --picture plan.png

Prints one row of a table, and leaves ``summary.json`` in a run folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.pictures.renderer import choose_renderer
from scripts.training.threads import limit_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, plan and act, and return the exit code.

    Args:
        argv: words after the program name; the process's own when omitted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        from scripts.planning.arguments import parse_plan_arguments  # only here: it needs PyYAML, which is an extra

        args = parse_plan_arguments(argv)
        if args.video:
            choose_renderer()
        limit_threads(args.num_threads)
        from scripts.planning.session import act_on_plans  # only now: torch reads the thread limits when imported

        return act_on_plans(args, words)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
