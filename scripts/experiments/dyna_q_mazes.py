"""Dyna-Q in Sutton and Barto's mazes, many seeds: python scripts/experiments/dyna_q_mazes.py docs/results/dyna-q

Writes one JSON file per maze, with every seed's numbers, and the picture next to the other ones. Unless an arm says
otherwise its settings are the book's: learning rate 0.1, gamma 0.95, epsilon 0.1, ties broken at random.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

import mbrl_wrappers  # noqa: F401  (registers the mazes)
from mbrl_wrappers.optional import require
from sb3_ext.agents import DynaQ, DynaQPlus, PrioritizedSweeping
from sb3_ext.agents.tabular_agent import TabularAgent
from scripts.training.flag_checks import positive

EPISODES = 50
SETTLED = 25  # steps per episode
EVERY = 100  # steps between two marks of the cumulated reward
WINDOW = 1000  # steps over which the picture sums rewards
TICKS = (14, 25, 50, 100, 200, 400, 800)
AGENTS: dict[str, tuple[type[TabularAgent], dict[str, Any]]] = {
    "n = 0 (Q-learning)": (DynaQ, {"planning_steps": 0}),
    "n = 5": (DynaQ, {"planning_steps": 5}),
    "n = 50": (DynaQ, {"planning_steps": 50}),
    "prioritized sweeping, n = 5": (PrioritizedSweeping, {"planning_steps": 5, "learning_rate": 0.5}),
    "Dyna-Q": (DynaQ, {"planning_steps": 50}),
    "Dyna-Q+": (DynaQPlus, {"planning_steps": 50, "exploration_bonus": 1e-3}),
}
LEARNING_CURVES = tuple(AGENTS)[:4]
CHANGES = {"blocking": ("mbrl_wrappers/BlockingMaze-v0", 3000), "shortcut": ("mbrl_wrappers/ShortcutMaze-v0", 6000)}


class Watch(BaseCallback):
    """Notes the length of every episode and the reward so far, and stops after ``episodes``."""

    def __init__(self, episodes: int | None = None) -> None:
        super().__init__()
        self.episodes = episodes
        self.lengths: list[int] = []
        self.reward = 0.0
        self.rewards: list[float] = []

    def _on_step(self) -> bool:
        self.lengths += [int(info["episode"]["l"]) for info in self.locals["infos"] if "episode" in info]
        self.reward += float(self.locals["rewards"].sum())
        if self.num_timesteps % EVERY == 0:
            self.rewards.append(self.reward)
        return self.episodes is None or len(self.lengths) < self.episodes


def agent(arm: str, env_id: str, seed: int) -> TabularAgent:
    """The agent of an arm."""
    agent_class, arguments = AGENTS[arm]
    return agent_class("TabularPolicy", env_id, seed=seed, **{"learning_rate": 0.1, **arguments})


def episode_lengths(arm: str, seed: int) -> list[int]:
    """Steps of each of the first episodes in the Dyna maze."""
    watch = Watch(EPISODES)
    agent(arm, "mbrl_wrappers/DynaMaze-v0", seed).learn(10**7, callback=watch)
    return watch.lengths


def cumulated_rewards(arm: str, maze: str, seed: int) -> list[float]:
    """The reward after every ``EVERY`` steps in a maze that changes."""
    env_id, steps = CHANGES[maze]
    watch = Watch()
    agent(arm, env_id, seed).learn(steps, callback=watch)
    return watch.rewards


def settled(lengths: NDArray[Any]) -> int:
    """The first episode whose mean over seeds ``(seeds, episodes)`` is at most ``SETTLED``."""
    below = lengths.mean(0) <= SETTLED
    return int(below.argmax()) + 1 if below.any() else len(below) + 1


def record(folder: Path, name: str, arms: dict[str, list[Any]], **more: Any) -> None:
    """Write one maze's raw numbers."""
    packages = ("gymnasium", "numpy", "stable_baselines3", "torch")
    described = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        "settings": {"learning_rate": 0.1, "gamma": 0.95, "epsilon": 0.1, **{arm: AGENTS[arm][1] for arm in arms}},
        **more,
        "arms": arms,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(described) + "\n")


def draw(folder: Path, picture: Path) -> None:
    """The curves of the three files."""
    plt = require("matplotlib.pyplot", extra="plots")
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for arm, lengths in json.loads((folder / "dyna-maze.json").read_text())["arms"].items():
        mean = np.mean(lengths, 0)
        axes[0].plot(np.arange(2, len(mean) + 1), mean[1:], label=f"{arm}: episode {settled(np.array(lengths))}")
    axes[0].axhline(14, color="0.6", linewidth=0.8, linestyle=":")
    axes[0].set_yscale("log")
    axes[0].set_yticks([], minor=True)
    axes[0].set_yticks(TICKS, [str(tick) for tick in TICKS])
    axes[0].set(xlabel="episode", ylabel="steps per episode, mean over seeds", title="Dyna maze")
    axes[0].legend(title=f"first mean of at most {SETTLED}", fontsize=8, title_fontsize=8)
    for axis, maze in zip(axes[1:], CHANGES, strict=True):
        read = json.loads((folder / f"{maze}-maze.json").read_text())
        for arm, rewards in read["arms"].items():
            curves = np.pad(np.array(rewards), ((0, 0), (1, 0)))
            curves = curves[:, WINDOW // EVERY :] - curves[:, : -WINDOW // EVERY]
            steps = WINDOW + EVERY * np.arange(curves.shape[1])
            axis.plot(steps, curves.mean(0), label=arm)
            axis.fill_between(steps, curves.min(0), curves.max(0), alpha=0.2)
        axis.axvline(read["change_step"], color="0.6", linewidth=0.8, linestyle=":")
        axis.set(
            xlabel="real steps",
            ylabel="reward per 1,000 steps, mean and range",
            title=f"{maze.capitalize()} maze",
        )
        axis.legend(fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def run(folder: Path, seeds: int, change_seeds: int, workers: int) -> None:
    """All arms in all mazes; prints what the documents say."""
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=th.set_num_threads, initargs=(1,)) as pool:
        learning = {arm: [pool.submit(episode_lengths, arm, seed) for seed in range(seeds)] for arm in LEARNING_CURVES}
        changing = {
            maze: {
                arm: [pool.submit(cumulated_rewards, arm, maze, seed) for seed in range(change_seeds)]
                for arm in ("Dyna-Q", "Dyna-Q+")
            }
            for maze in CHANGES
        }
        lengths = {arm: [job.result() for job in jobs] for arm, jobs in learning.items()}
        record(folder, "dyna-maze", lengths, episodes=EPISODES)
        for arm, rows in lengths.items():
            late = np.mean(np.array(rows)[:, 40:])
            print(f"Dyna maze, {arm}: settled in episode {settled(np.array(rows))}, last ten {late:.1f}", flush=True)
        for maze, arms in changing.items():
            rewards = {arm: [job.result() for job in jobs] for arm, jobs in arms.items()}
            steps, change = CHANGES[maze][1], {"blocking": 1000, "shortcut": 3000}[maze]
            record(folder, f"{maze}-maze", rewards, change_step=change, every=EVERY, steps=steps)
            for arm, rows in rewards.items():
                last = np.array(rows)[:, -1] - np.array(rows)[:, -1 - WINDOW // EVERY]
                print(f"{maze} maze, {arm}: last 1,000 steps {last.mean():.1f} ({last.min():.0f} to {last.max():.0f})")


def main(argv: Sequence[str] | None = None) -> None:
    """Run and draw, or only draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the raw numbers go")
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/dyna_q_mazes.png"))
    parser.add_argument("--seeds", type=positive, default=30, help="in the Dyna maze (default: 30)")
    parser.add_argument("--change-seeds", type=positive, default=20, help="in the mazes that change (default: 20)")
    parser.add_argument("--workers", type=positive, default=2, help="processes (default: 2)")
    parser.add_argument("--only-draw", action="store_true", help="from numbers already there")
    args = parser.parse_args(argv)
    if not args.only_draw:
        run(args.folder, args.seeds, args.change_seeds, args.workers)
    draw(args.folder, args.picture)


if __name__ == "__main__":
    main()
