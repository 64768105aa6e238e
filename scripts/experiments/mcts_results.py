"""What tree search reaches on small tasks: ``python scripts/experiments/mcts_results.py [TASK ...]``.

Each task writes one JSON file into ``docs/results/mcts``. The optimum of FrozenLake-v1 (4 x 4, slippery, 100 steps) is
0.744190; a search that knows the random slips beforehand exceeds it; ``frozen_lake_foreseen`` shows this:
it is ``frozen_lake_copies`` with the random streams of the live environments left in the copies.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import gymnasium
import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from controllers import MCTS, MPCPolicy, Objective, Outcomes, Rollouts
from mbrl_wrappers import ClonedEnvModel, TabularModel
from mbrl_wrappers.models.value_iteration import policy_value
from scripts.experiments.toy_text import LAKE_LIMIT, random_steps

FOLDER = Path(__file__).parents[2] / "docs" / "results" / "mcts"


@dataclass(frozen=True)
class Task:
    """An environment, what is searched in it, and how often."""

    env_id: str
    model: Callable[[DummyVecEnv], Any]
    planner: MCTS
    horizon: int
    episodes: int
    num_envs: int
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    objective: Callable[[DummyVecEnv], Objective] = lambda _: {}
    exact_repeats: int = 0


def table(envs: DummyVecEnv) -> TabularModel:
    """The true transition table."""
    return TabularModel.from_env(envs.envs[0])


def copies(envs: DummyVecEnv, *, reseed: bool = True) -> ClonedEnvModel:
    """Copies of the live environments."""
    return ClonedEnvModel(envs.envs, reseed=reseed)


def value_from_data(envs: DummyVecEnv) -> Callable[[Tensor], Tensor]:
    """State values by value iteration on a table fitted to 100,000 random transitions, discount 0.99."""
    env = envs.envs[0]
    model = TabularModel(env.observation_space, env.action_space).fit(random_steps(100_000, 0))
    value = th.as_tensor(model.value_iteration(0.99).value).float()
    return lambda obs: obs @ value


def learned_end(envs: DummyVecEnv) -> Objective:
    """Leaves are worth what a learned table says."""
    return {"discount": 0.99, "terminal_value": value_from_data(envs)}


def exact_success(envs: DummyVecEnv, policy: MPCPolicy[Any], objective: Objective, repeats: int) -> dict[str, float]:
    """The chance of FrozenLake's goal within its limit by the decisions of ``repeats`` fresh searches in each state.

    Beside it, what the leaves' values are worth by themselves: one step of the true table ahead, without a search.
    """
    true = table(envs).mdp()
    states, actions = true.reward.shape
    searched, _ = policy.predict(np.repeat(np.arange(states), repeats))
    shares, value = np.eye(actions)[searched.reshape(states, repeats)].mean(axis=1), np.zeros(states)
    for _ in range(LAKE_LIMIT):
        value = (shares * true.lookahead(value, 1.0)).sum(axis=1)
    result = {"exact_success": float(value[0])}
    leaves = objective.get("terminal_value")
    if leaves is not None:
        ahead = true.lookahead(leaves(th.eye(states)).double().numpy(), objective["discount"]).argmax(axis=1)
        result["exact_success_without_search"] = float(policy_value(true, ahead, LAKE_LIMIT)[0])
    return result


def half_a_goal(_: DummyVecEnv) -> Objective:
    """A termination costs half a goal, so that holes show before the goal comes into sight."""
    return {"terminal_reward": -0.5}


SHORT = MCTS(simulations=500, batch=4, exploration=4.0, backup="best")
BARE = MCTS(simulations=200, batch=4, backup="best", rollouts=Rollouts(0))
COPIED = replace(SHORT, simulations=200, outcomes=Outcomes(merge="observation"))
FORESEEING = partial(copies, reseed=False)
TASKS = {
    "frozen_lake": Task("FrozenLake-v1", table, SHORT, 3, 500, 50, objective=learned_end, exact_repeats=40),
    "frozen_lake_bare": Task("FrozenLake-v1", table, BARE, 15, 500, 50, objective=half_a_goal),
    "frozen_lake_copies": Task("FrozenLake-v1", copies, COPIED, 3, 50, 25, objective=learned_end),
    "frozen_lake_foreseen": Task("FrozenLake-v1", FORESEEING, COPIED, 3, 100, 25, objective=learned_end),
    "frozen_lake_dry": Task("FrozenLake-v1", table, MCTS(batch=4), 50, 20, 10, {"is_slippery": False}),
    "cart_pole": Task("CartPole-v1", copies, MCTS(simulations=100, batch=10), 50, 5, 5),
}


def run(name: str, task: Task, seed: int) -> dict[str, Any]:
    """Evaluate a task; returns what its file holds."""

    def env() -> gymnasium.Env[Any, Any]:
        return Monitor(gymnasium.make(task.env_id, **task.env_kwargs))

    envs = DummyVecEnv([env] * task.num_envs)
    envs.seed(seed)
    objective = task.objective(envs)
    policy = MPCPolicy(task.model(envs), task.planner, horizon=task.horizon, seed=seed, **objective)
    exact = exact_success(envs, policy, objective, task.exact_repeats) if task.exact_repeats else {}
    decisions = 0

    def count(_: dict[str, Any], __: dict[str, Any]) -> None:
        nonlocal decisions
        decisions += 1  # called once for each environment and step

    wall, cpu = time.perf_counter(), time.process_time()
    returns, lengths = evaluate_policy(policy, envs, task.episodes, callback=count, return_episode_rewards=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "command": "python scripts/experiments/mcts_results.py " + name,
        "env": task.env_id,
        "env_kwargs": task.env_kwargs,
        "planner": {key: value for key, value in asdict(task.planner).items() if value is not None},
        "horizon": task.horizon,
        "objective": " ".join((task.objective.__doc__ or "sum of rewards").split()),
        **exact,
        "seed": seed,
        "num_envs": task.num_envs,
        "mean_return": float(np.mean(returns)),
        "standard_error": float(np.std(returns, ddof=1) / math.sqrt(len(returns))),
        "returns": [float(value) for value in returns],
        "lengths": [int(value) for value in lengths],
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "cpu_milliseconds_per_decision": 1e3 * cpu / max(1, decisions),
        "versions": {
            "python": platform.python_version(),
            "torch": th.__version__,
            "gymnasium": gymnasium.__version__,
            "stable_baselines3": stable_baselines3.__version__,
        },
    }


def main() -> None:
    """Run the tasks asked for, all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"among {', '.join(TASKS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files go (default: docs/results/mcts)")
    args = parser.parse_args()
    unknown = set(args.tasks) - set(TASKS)
    if unknown:
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    th.set_num_threads(1)
    gc.set_threshold(200_000, 20, 20)  # trees are many small objects: by default half of the time is spent on cycles
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.tasks or TASKS:
        result = run(name, TASKS[name], args.seed)
        (args.folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(
            f"{name}: {result['mean_return']:.4f} +- {result['standard_error']:.4f} over {len(result['returns'])} "
            f"episodes, {result['cpu_milliseconds_per_decision']:.1f} ms a decision, {result['cpu_seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
