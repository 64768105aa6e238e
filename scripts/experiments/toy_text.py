"""Tabular agents and models on Gymnasium's toy text: python scripts/experiments/toy_text.py docs/results/dyna-q

* CliffWalking-v1 and Taxi-v4: real steps until the greedy policy is optimal from every start, Dyna-Q against Q-learning
  (no planning steps) with the same settings, values beginning at the best that can be paid. What a policy earns is
  computed exactly from the environment's own table.
* FrozenLake-v1 4x4 slippery: a tabular model of 100,000 random steps, solved by value iteration, played for 500
  episodes and also evaluated exactly. The optimum within the time limit is 0.744190; a policy of value iteration,
  which ignores the remaining time, gets 0.7402.
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

import gymnasium
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from mbrl_wrappers import TabularModel, TabularTransitions
from mbrl_wrappers.models.value_iteration import backward_induction, policy_value
from sb3_ext.agents import DynaQ
from scripts.training.flag_checks import positive

RATES = {"learning_rate": 0.5, "gamma": 0.95}
TASKS = {"CliffWalking-v1": (100, 200, 50_000, 0.0), "Taxi-v4": (1000, 200, 400_000, 20.0)}
"""For each task: steps between two looks, steps of an episode that are judged, when to give up, initial values."""
ARMS = {"Dyna-Q, n = 50": 50, "Dyna-Q, n = 5": 5, "Q-learning": 0}
LAKE, LAKE_LIMIT = "FrozenLake-v1", 100


class UntilOptimal(BaseCallback):
    """Stops once the greedy policy earns the optimum from every start, and notes what it earned at each look."""

    def __init__(self, env_id: str) -> None:
        super().__init__()
        self.every, self.horizon, *_ = TASKS[env_id]
        env: Any = gymnasium.make(env_id).unwrapped
        self.mdp = TabularModel.from_env(env).mdp()
        self.starts = env.initial_state_distrib
        best = backward_induction(self.mdp, self.horizon)[0][-1]
        self.optimum = float(best @ self.starts)
        self.curve: list[tuple[int, float]] = []
        self.reached: int | None = None

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every:
            return True
        greedy = self.model.policy.q_table.numpy().argmax(1)
        earned = float(policy_value(self.mdp, greedy, self.horizon) @ self.starts)
        self.curve.append((self.num_timesteps, round(earned, 6)))
        if earned >= self.optimum - 1e-9:
            self.reached = self.num_timesteps
        return self.reached is None


def steps_to_optimum(env_id: str, arm: str, seed: int) -> dict[str, Any]:
    """One run: when the optimum was reached (None if never), and what was earned on the way."""
    watch = UntilOptimal(env_id)
    begin = {"initial_value": TASKS[env_id][3]}
    agent = DynaQ("TabularPolicy", env_id, planning_steps=ARMS[arm], seed=seed, policy_kwargs=begin, **RATES)
    agent.learn(TASKS[env_id][2], callback=watch)
    mean, _ = evaluate_policy(agent, gymnasium.make(env_id), 100, warn=False)
    return {"seed": seed, "steps": watch.reached, "optimum": watch.optimum, "played": mean, "curve": watch.curve[-50:]}


def random_steps(count: int, seed: int) -> TabularTransitions:
    """Transitions of a uniform random policy on FrozenLake."""
    env, rng = gymnasium.make(LAKE), np.random.default_rng(seed)
    rows, (state, _) = [], env.reset(seed=seed)
    for action in rng.integers(4, size=count).tolist():
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((state, action, reward, following, terminated))
        state = env.reset()[0] if terminated or truncated else following
    return TabularTransitions.of(*zip(*rows, strict=True))


def lake(seed: int) -> dict[str, Any]:
    """One model: its policy's exact success, and in 500 episodes, without and with the remaining time as input."""
    env = gymnasium.make(LAKE)
    model = TabularModel(env.observation_space, env.action_space).fit(random_steps(100_000, seed))
    true = TabularModel.from_env(env).mdp()
    solution = model.value_iteration(0.999)
    _, timed = backward_induction(model.mdp(), LAKE_LIMIT)
    value = np.zeros(16)  # of the timed policy, by the true probabilities
    for actions in timed:
        q = true.lookahead(value, 1.0)
        value = q[np.arange(16), actions]
    played = {}
    for name, policy in (("stationary", solution.policy[None].repeat(LAKE_LIMIT, 0)), ("timed", timed[::-1])):
        wins, (state, _) = 0.0, env.reset(seed=1000 + seed)
        for _ in range(500):
            for step in range(LAKE_LIMIT):
                state, reward, terminated, truncated, _ = env.step(int(policy[step, state]))
                wins += float(reward)
                if terminated or truncated:
                    break
            state, _ = env.reset()
        played[name] = wins / 500
    exact = {"stationary": float(policy_value(true, solution.policy, LAKE_LIMIT)[0]), "timed": float(value[0])}
    return {"seed": seed, "exact": exact, "500 episodes": played}


def run(folder: Path, seeds: int, workers: int) -> None:
    """Everything; prints what the documents say."""
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=th.set_num_threads, initargs=(1,)) as pool:
        lakes = [pool.submit(lake, seed) for seed in range(seeds)]
        races = {
            env_id: {arm: [pool.submit(steps_to_optimum, env_id, arm, seed) for seed in range(seeds)] for arm in ARMS}
            for env_id in TASKS
        }
        results: dict[str, Any] = {LAKE: [job.result() for job in lakes]}
        for form in ("stationary", "timed"):
            for how in ("exact", "500 episodes"):
                numbers = [each[how][form] for each in results[LAKE]]
                print(f"{LAKE}, {form}, {how}: {np.mean(numbers):.4f} ({min(numbers):.4f} to {max(numbers):.4f})")
        for env_id, arms in races.items():
            results[env_id] = {arm: [job.result() for job in jobs] for arm, jobs in arms.items()}
            for arm, rows in results[env_id].items():
                steps = sorted(row["steps"] or TASKS[env_id][2] for row in rows)
                never = sum(row["steps"] is None for row in rows)
                print(f"{env_id}, {arm}: median {np.median(steps):,.0f} ({steps[0]:,} to {steps[-1]:,}), never {never}")
    packages = ("gymnasium", "numpy", "stable_baselines3", "torch")
    described = {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        "settings": {**RATES, "epsilon": 0.1, "initial values": {env_id: task[3] for env_id, task in TASKS.items()}},
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy-text.json").write_text(json.dumps(described) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the raw numbers go")
    parser.add_argument("--seeds", type=positive, default=10, help="runs of each arm (default: 10)")
    parser.add_argument("--workers", type=positive, default=2, help="processes (default: 2)")
    args = parser.parse_args(argv)
    run(args.folder, args.seeds, args.workers)


if __name__ == "__main__":
    main()
