"""A picture of a search tree: ``python scripts/pictures/tree_picture.py -o tree.png``.

Searches FrozenLake-v1 (or CartPole-v1 with ``--env``) from its start, or another toy-text state, and draws the part of
the tree that was visited most. A line's width is the share of the simulations that went through it, its colour the
value of the action; at chance nodes (small) the line forks into what the model drew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from controllers import MCTS, MPCPolicy, Rollouts, search_trees
from controllers.search.node import Edge, Node, SearchTree
from mbrl_wrappers import ClonedEnvModel, TabularModel
from mbrl_wrappers.optional import require

LABELS: dict[str, tuple[str, ...]] = {
    "FrozenLake-v1": ("left", "down", "right", "up"),
    "CartPole-v1": ("left", "right"),
}


class Line(NamedTuple):
    """A line of the picture between two points, with a label at its end."""

    start: tuple[float, float]
    end: tuple[float, float]
    share: float
    value: float
    text: str
    chance: bool


def tree_lines(
    tree: SearchTree, depth: int, least: float, actions: tuple[str, ...], name: Callable[[bytes], str]
) -> list[Line]:
    """Lay out actions and outcomes that at least a share ``least`` of the simulations took, ``depth`` decisions deep.

    What was visited most is on top. A node that several actions lead to goes on only where it is met first.

    Args:
        tree: what to draw.
        depth: decisions below the root.
        least: share of the root's simulations under which a branch is left out.
        actions: what they are called.
        name: what an observation, as float32 bytes, is called.
    """
    lines: list[Line] = []
    met: set[int] = set()
    total, leaves = max(1, tree.root.visits), iter(range(10**6))

    def place_edge(edge: Edge, level: int) -> float:
        kept = [o for o in edge.outcomes.values() if o.visits >= least * total] if level < depth else []
        heights = [place_node(outcome.node, level + 1) for outcome in kept] or [float(next(leaves))]
        middle = sum(heights) / len(heights)
        for outcome, height in zip(kept, heights, strict=False):
            start, end = (2 * level + 1.0, middle), (2 * level + 2.0, height)
            lines.append(Line(start, end, outcome.visits / total, edge.value, name(outcome.node.obs), True))
        return middle

    def place_node(node: Node, level: int) -> float:
        open_here = level < depth and id(node) not in met
        met.add(id(node))
        found = sorted(node.edges, key=lambda edge: -edge.visits)
        kept = [edge for edge in found if edge.visits >= max(1, least * total)] if open_here else []
        heights = [place_edge(edge, level) for edge in kept] or [float(next(leaves))]
        middle = sum(heights) / len(heights)
        for edge, height in zip(kept, heights, strict=False):
            text = f"{actions[edge.action]} {edge.value:.2f}"
            lines.append(
                Line((2.0 * level, middle), (2 * level + 1.0, height), edge.visits / total, edge.value, text, False)
            )
        return middle

    place_node(tree.root, 0)
    return lines


def draw(lines: list[Line], title: str, path: Path) -> None:
    """Draw lines into a file."""
    require("matplotlib", extra="plots")
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import colormaps
    from matplotlib import pyplot as plt
    from matplotlib.colors import Normalize

    height = max(line.end[1] for line in lines) + 1
    figure, axes = plt.subplots(figsize=(10, max(4, 0.22 * height)), layout="constrained")
    values = [line.value for line in lines]
    scale, colours = Normalize(min(values), max(values)), colormaps["viridis"]
    for line in lines:
        (x0, y0), (x1, y1) = line.start, line.end
        along = np.linspace(0, 1, 30)
        bend = y0 + (y1 - y0) * (3 * along**2 - 2 * along**3)
        style: dict[str, Any] = {"color": colours(scale(line.value)), "linewidth": 0.6 + 9 * line.share**0.7}
        axes.plot(x0 + (x1 - x0) * along, bend, solid_capstyle="round", zorder=1, **style)
        axes.scatter([x1], [y1], s=40 if line.chance else 12, color="black", zorder=2)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
        axes.annotate(line.text, (x1, y1), (5, 5), textcoords="offset points", fontsize=8, zorder=3, bbox=box)
    root = next(line.start for line in reversed(lines) if line.start[0] == 0)
    axes.scatter([root[0]], [root[1]], s=90, color="black", zorder=2)
    figure.colorbar(
        plt.cm.ScalarMappable(scale, colours), ax=axes, label="value of the action", fraction=0.03, pad=0.01
    )
    axes.set_title(title, loc="left", fontsize=10)
    axes.margins(0.07, 0.03)
    axes.invert_yaxis()
    axes.axis("off")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Search once and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=sorted(LABELS), default="FrozenLake-v1")
    parser.add_argument("--state", type=int, default=9, help="of FrozenLake, where the search begins (default: 9)")
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--depth", type=int, default=2, help="decisions drawn (default: 2)")
    parser.add_argument("--least", type=float, default=0.02, help="share of simulations that is drawn (default: 0.02)")
    parser.add_argument("-o", "--output", type=Path, default=Path("tree.png"))
    args = parser.parse_args()
    env = gymnasium.make(args.env)
    obs, _ = env.reset(seed=0)
    planner = MCTS(args.simulations, batch=4, backup="best", rollouts=Rollouts(8 if args.env == "FrozenLake-v1" else 1))
    if args.env == "FrozenLake-v1":
        policy: MPCPolicy[Any] = MPCPolicy(TabularModel.from_env(env), planner, horizon=50)
        obs = args.state
    else:
        policy = MPCPolicy(ClonedEnvModel(env), planner, horizon=50)
    policy.predict(obs)
    assert policy.last_plan is not None
    (tree,) = search_trees(policy.last_plan)

    def name(shown: bytes) -> str:
        row = np.frombuffer(shown, np.float32)
        if args.env != "FrozenLake-v1":
            return ""
        state = int(row.argmax())
        kind = env.unwrapped.desc.flatten()[state].decode()  # type: ignore[attr-defined]
        return {"H": "hole", "G": "goal"}.get(kind, f"state {state}")

    lines = tree_lines(tree, args.depth, args.least, LABELS[args.env], name)
    start = f"state {args.state}" if args.env == "FrozenLake-v1" else "the start"
    draw(lines, f"{args.env}, {args.simulations:,} simulations from {start}; width: share of simulations", args.output)


if __name__ == "__main__":
    main()
