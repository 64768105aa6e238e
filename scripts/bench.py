"""Speed as ratios measured in one process: ``make bench`` or ``python scripts/bench.py``.

The learned model is compared to float32 ``torch.mm`` at 1024 x 1024 x 1024 with the same number of threads, the true
one to the bare ``mujoco.rollout``, a checkpoint to the run that it saves. Both sides are timed in turn, and each figure
is the median over pairs. Close other programs first.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import torch as th

if __package__ in (None, ""):  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.benchmarks.agents import agent_figures
from scripts.benchmarks.checkpoint import checkpoint_figures
from scripts.benchmarks.ensemble import ensemble_figures, planning, rollout
from scripts.benchmarks.latent import latent_figures
from scripts.benchmarks.motion_planning import motion_report
from scripts.benchmarks.ratios import Figure, two_threads_over_one
from scripts.benchmarks.simulator import simulator_figures
from scripts.benchmarks.tabular import tabular_figures
from scripts.benchmarks.tree_search import tree_search_figures
from scripts.runs.summary import versions

SUBJECTS = ("ensemble", "simulator", "tabular", "tree-search", "latent", "checkpoint", "motion", "agents")


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)} (default: all)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts (default: 1 2)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="rollout batch sizes")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per figure (default: 4)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    unknown = set(args.subjects) - set(SUBJECTS)
    if unknown:
        parser.error(f"no such subject: {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    subjects = args.subjects or SUBJECTS
    print(f"{'':62} {'threads':>7} {'median':>12}  quartiles", flush=True)
    figures: list[Figure] = []
    if "ensemble" in subjects:
        figures.extend(ensemble(args.threads, args.rows, args.seconds))
    if "simulator" in subjects:
        figures.extend(simulator_figures(args.threads, args.seconds))
    th.set_num_threads(1)  # for all that follows
    if "tabular" in subjects:
        figures.extend(tabular_figures(args.seconds))
    if "tree-search" in subjects:
        figures.extend(tree_search_figures(args.seconds))
    if "latent" in subjects:
        figures.extend(latent_figures(args.seconds))
    if "checkpoint" in subjects:
        figures.extend(checkpoint_figures(args.seconds))
    if "agents" in subjects:
        figures.extend(agent_figures(args.seconds))
    motion = {"motion": motion_report()} if "motion" in subjects else {}
    if args.json:
        command = shlex.join(["python", "scripts/bench.py", *sys.argv[1:]])
        report = {"command": command, "machine": platform.processor(), "versions": versions("sb3")}
        args.json.write_text(json.dumps({**report, "figures": [asdict(f) for f in figures], **motion}, indent=2) + "\n")


def ensemble(thread_counts: list[int], rows: list[int], seconds: float) -> list[Figure]:
    """Shares of the roofline for each thread count, then two threads against one."""
    figures = [figure for threads in thread_counts for figure in ensemble_figures(threads, rows, seconds)]
    if {1, 2} <= set(thread_counts):
        for count in (count for count in rows if count >= 10_000):
            figures.append(two_threads_over_one(f"rollout, {count:,} rows", rollout(count)[0], seconds))
        figures.append(two_threads_over_one("CEM", planning()[0], seconds))
    return figures


if __name__ == "__main__":
    main()
