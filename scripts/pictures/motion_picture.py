"""A picture of trees and the paths in them: RRT and RRT* around a disc, and the double integrator's phase plane.

python scripts/pictures/motion_picture.py -o docs/pictures/motion_planning.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from controllers import RRT, KinodynamicPlan, KinodynamicRRT, MotionPlan, RRTStar, close_gap, shortcut
from controllers.motion.path import path_length
from mbrl_wrappers.optional import require
from scripts.benchmarks.motion_planning import RADIUS, SHORTEST, STEP_SECONDS, disc, double_integrator, seeded
from scripts.pictures.learning_curves import COLOURS

require("matplotlib", extra="plots").use("Agg")
plt: Any = require("matplotlib.pyplot", extra="plots")
collections: Any = require("matplotlib.collections", extra="plots")


def main(argv: Sequence[str] | None = None) -> None:
    """Plan and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("motion_planning.png"), help="PNG file to write")
    parser.add_argument("--seed", type=int, default=0, help="of every plan (default: 0)")
    args = parser.parse_args(argv)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.6))
    around_the_disc(left, RRT().plan(disc(), generator=seeded(args.seed)), "RRT", args.seed)
    around_the_disc(middle, RRTStar(max_nodes=2000).plan(disc(), generator=seeded(args.seed)), "RRT*", args.seed)
    phase_plane(right, args.seed)
    figure.tight_layout()
    figure.savefig(args.output, dpi=130)


def around_the_disc(axes: Any, plan: MotionPlan, name: str, seed: int) -> None:
    """The tree, its path, and that path after shortcuts."""
    short = shortcut(disc(), plan.path, generator=seeded(seed))
    axes.add_patch(plt.Circle((0.5, 0.5), RADIUS, color="0.75", lw=0))
    draw_tree(axes, plan)
    axes.plot(*plan.path.T, color=COLOURS[1], lw=2.2, label=f"path, {plan.cost:.3f}")
    axes.plot(
        *short.T, color=COLOURS[0], lw=1.6, ls=(0, (4, 2)), label=f"after shortcuts, {path_length(disc(), short):.3f}"
    )
    axes.set_title(f"{name}, {len(plan.nodes)} nodes (shortest path {SHORTEST:.3f})", fontsize=10)
    axes.set_aspect("equal")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def phase_plane(axes: Any, seed: int) -> None:
    """Place against speed of a point with bounded force, from rest to rest."""
    problem = double_integrator(1.0)
    planner = KinodynamicRRT(goal_tolerance=0.05, sparsity=0.05)
    plan = close_gap(problem, planner.plan(problem, generator=seeded(seed)), generator=seeded(seed))
    draw_tree(axes, plan)
    half = np.linspace(0, 0.5, 200)
    best = np.concatenate([np.stack([half, np.sqrt(2 * half)], 1), np.stack([1 - half, np.sqrt(2 * half)], 1)[::-1]])
    axes.plot(*plan.path.T, color=COLOURS[1], lw=2.2, label=f"path, {plan.cost * STEP_SECONDS:.2f} s")
    axes.plot(*best.T, color="black", lw=1.2, ls=(0, (2, 3)), label="quickest possible, 2 s")
    axes.set_title(f"kinodynamic RRT, force within 1, {len(plan.nodes)} nodes", fontsize=10)
    axes.set_xlabel("place")
    axes.set_ylabel("speed")
    axes.set_xlim(-0.5, 1.5)
    axes.set_xticks(np.linspace(-0.5, 1.5, 5))
    axes.set_ylim(-1.4, 1.9)
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def draw_tree(axes: Any, plan: MotionPlan | KinodynamicPlan) -> None:
    """Every edge as a straight line."""
    child = (plan.parents >= 0).nonzero()[0]
    edges = np.stack([plan.nodes[child], plan.nodes[plan.parents[child]]], 1)
    axes.add_collection(collections.LineCollection(edges, colors="0.55", linewidths=0.4))
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
