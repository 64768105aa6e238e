"""Train one agent on one task, with a learned model or without.

    python scripts/train.py --algo sac --env Hopper-v5 -n 20000 --no-model
    python scripts/train.py --algo sac --env Hopper-v5 -n 20000 -P
    python scripts/train.py --resume logs/sac/Hopper-v5_1

Every evaluation in the run folder is taken on the real environment, with the deterministic policy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.training.threads import limit_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and return the exit code: 0, 2 for a mistake, 130 or 143 after a signal.

    Args:
        argv: words after the program name; the process's own when omitted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        from scripts.training.arguments import parse_arguments  # only here: it needs PyYAML, which is an extra
        from scripts.training.resume import resumed_run

        run = resumed_run(parse_arguments(argv))
        limit_threads(run.args.num_threads)
        from scripts.training.session import train  # only now: torch and jax read the thread limits when imported

        return train(run, words)
    except (ValueError, TypeError, ImportError, AssertionError) as error:  # SB3 asserts what users give it
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
