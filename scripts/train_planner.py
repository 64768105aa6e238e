"""Learn a model of a task by acting on the plans made in it (PETS, Chua et al. 2018).

    python scripts/train_planner.py -P
    python scripts/train_planner.py --env Pendulum-v1 --planner icem --propagation ts1 --trials 8
    python scripts/train_planner.py --resume logs/pets/Pendulum-v1_1
    python scripts/train_planner.py --env Pendulum-v1 --resume auto    # start, or go on after a kill

Every trial of the planner is an episode on the real environment without exploration noise, and counts as an evaluation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.training.threads import limit_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, learn, and return the exit code.

    Args:
        argv: words after the program name; the process's own when omitted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        from scripts.planning.arguments import parse_train_arguments  # only here: it needs PyYAML, which is an extra

        args = parse_train_arguments(argv)
        limit_threads(args.num_threads)
        from scripts.planning.learning import resume, train_planner  # only now: torch reads the limits when imported

        return resume(args, words) if args.resume not in ("", "auto") else train_planner(args, words)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
