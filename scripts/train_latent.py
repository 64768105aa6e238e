"""Train an agent on a task whose observations hide its state, on the beliefs of a latent model learned beside it.

    python scripts/train_latent.py --env Pendulum-v1 --mask 2 -P
    python scripts/train_latent.py --env Pendulum-v1 --mask 2 --encoder single
    python scripts/train_latent.py --env Pendulum-v1 --mask 2 --noise 0.1 --encoder stack
    python scripts/train_latent.py --env Pendulum-v1 --mask 2 --imagine 2
    python scripts/train_latent.py --resume logs/latent-sac/Pendulum-v1_filter_1

Every evaluation is taken on the real environment, with the deterministic policy and a belief of its own.
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
        from scripts.training.latent_arguments import parse_latent_arguments  # only here: it needs PyYAML
        from scripts.training.resume import resumed_run

        run = resumed_run(parse_latent_arguments(argv))
        limit_threads(run.args.num_threads)
        from scripts.training.latent_session import train_latent  # only now: torch reads the limits when imported

        return train_latent(run, words)
    except (ValueError, TypeError, ImportError, AssertionError) as error:  # SB3 asserts what users give it
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
