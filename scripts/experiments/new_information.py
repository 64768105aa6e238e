"""The cost of replanning less often: executing ``m`` actions of each plan before the next one.

Two panels. On the noisy double integrator the executed cost of MPCPolicy stands against its exact expectation; on real
environments the returns of ``plan.py --execute m`` stand against ``m``, read from run folders:

    python scripts/experiments/new_information.py docs/results/chunks -o docs/pictures/new_information.png
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray

if __package__ in (None, ""):  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from controllers import LQR, MPCPolicy
from mbrl_wrappers import FunctionModel
from mbrl_wrappers.optional import require
from mbrl_wrappers.seeding import torch_generator
from scripts.runs.run_folder import SUMMARY_FILE
from scripts.runs.summary import versions

Array = NDArray[np.float64]

A = np.array([[1.0, 0.1], [0.0, 1.0]])
B = np.array([[0.005], [0.1]])
R = 0.1
START = np.array([1.0, 0.0])
NOISE = 0.01
STEPS = 30
"""Stage cost ``x'x + R u^2`` at ``t = 0 ... STEPS - 1``; the state receives noise of covariance ``NOISE`` times I."""


@dataclass(frozen=True)
class ChunkCost:
    """Cost of executing ``chunk`` actions per plan on the double integrator."""

    chunk: int
    expected: float
    mean: float
    standard_error: float


def expected_cost(chunk: int, steps: int = STEPS) -> float:
    r"""The exact expectation when the optimal plan for the rest of the episode is renewed every ``chunk`` steps.

    Noise that enters at ``t`` travels open loop, costing :math:`\mathrm{tr}(W A'^k Q A^k)` per step, until the next
    plan at ``c`` sees it, where what is left costs :math:`\mathrm{tr}(W A'^{c-t-1} P_c A^{c-t-1})`.
    """
    values = [np.zeros((2, 2))]
    for _ in range(steps):
        value = values[0]
        gain = np.linalg.solve(R + B.T @ value @ B, B.T @ value @ A)
        values.insert(0, np.eye(2) + A.T @ value @ (A - B @ gain))
    cost = float(START @ values[0] @ START)
    for t in range(steps):
        end = min(t - t % chunk + chunk, steps)
        travel = np.eye(2)
        for _ in range(t + 1, end):
            cost += NOISE * float(np.trace(travel.T @ travel))
            travel = A @ travel
        cost += NOISE * float(np.trace(travel.T @ values[end] @ travel))
    return cost


def executed_costs(chunk: int, episodes: int, seed: int) -> Array:
    """Costs ``(episodes,)`` of MPCPolicy with LQR plans of the whole rest of the episode."""
    transition, effect = th.as_tensor(A), th.as_tensor(B)

    def step(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        reward = -(obs.square().sum(1) + R * action.square().sum(1))
        following = obs @ transition.T.to(obs) + action @ effect.T.to(obs)
        return following, reward, th.zeros(len(obs), dtype=th.bool)

    free = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    model = FunctionModel(free, spaces.Box(-np.inf, np.inf, (1,), np.float64), step)
    policy = MPCPolicy(model, LQR(), STEPS, execute=chunk, episode_steps=STEPS)
    generator, state = torch_generator(seed), None
    obs, costs = th.as_tensor(START).repeat(episodes, 1), th.zeros(episodes, dtype=th.float64)
    for _ in range(STEPS):
        action, state = policy.predict(obs.numpy(), state)
        following, reward, _ = step(obs, th.as_tensor(action, dtype=th.float64))
        costs -= reward
        obs = following + NOISE**0.5 * th.randn(obs.shape, generator=generator, dtype=th.float64)
    result: Array = costs.numpy()
    return result


def double_integrator(chunks: Sequence[int], episodes: int, seed: int) -> list[ChunkCost]:
    """Expected beside executed, one entry per chunk length."""
    table = []
    for chunk in chunks:
        costs = executed_costs(chunk, episodes, seed)
        error = float(costs.std(ddof=1) / np.sqrt(episodes))
        row = ChunkCost(chunk, expected_cost(chunk), float(costs.mean()), error)
        print(f"m = {chunk:2d}: expected {row.expected:.5f}, executed {row.mean:.3f} ± {error:.3f}", flush=True)
        table.append(row)
    return table


def read_returns(folder: Path) -> dict[str, dict[int, list[float]]]:
    """``task -> chunk -> returns`` of all summaries of plan.py below ``folder``."""
    found: dict[str, dict[int, list[float]]] = {}
    for path in sorted(folder.rglob(SUMMARY_FILE)):
        summary = json.loads(path.read_text())
        chunk = int(summary["hyperparameters"].get("execute", 1))
        returns = [episode["total"] for episode in summary["planning"]["episodes"]]
        found.setdefault(summary["task"], {}).setdefault(chunk, []).extend(returns)
    return found


def draw(table: Sequence[ChunkCost], returns: dict[str, dict[int, list[float]]], path: Path) -> None:
    """The two panels, as a picture."""
    pyplot: Any = require("matplotlib.pyplot", extra="plots")
    figure, axes = pyplot.subplots(1, 1 + len(returns), figsize=(5 * (1 + len(returns)), 3.6), squeeze=False)
    first = axes[0, 0]
    chunks = [row.chunk for row in table]
    first.plot(chunks, [row.expected for row in table], "k-", label="exact expectation")
    errors = [2 * row.standard_error for row in table]
    first.errorbar(chunks, [row.mean for row in table], yerr=errors, fmt="o", label="executed, ± 2 standard errors")
    first.set(title="noisy double integrator", ylabel="cost of an episode (lower is better)")
    for axis, (task, curve) in zip(axes[0, 1:], returns.items(), strict=True):
        places = sorted(curve)
        axis.plot(places, [np.mean(curve[place]) for place in places], "-", label="mean")
        for place in places:
            axis.plot([place] * len(curve[place]), curve[place], "o", color="0.5", markersize=3)
        axis.set(title=task, ylabel="return of an episode (higher is better)")
    for axis in axes[0]:
        axis.set_xlabel("actions executed per plan, m")
        axis.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"Wrote {path}")


def main() -> None:
    """Compute, draw and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="folder of plan.py's runs with several --execute")
    parser.add_argument("-o", "--output", type=Path, default=Path("new_information.png"), help="the picture")
    parser.add_argument("--json", type=Path, help="also write the double integrator's table here")
    parser.add_argument("--episodes", type=int, default=2000, help="per chunk length (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    args = parser.parse_args()
    table = double_integrator((1, 2, 3, 5, 10, 15, 30), args.episodes, args.seed)
    if args.json:
        command = shlex.join(["python", "scripts/experiments/new_information.py", *sys.argv[1:]])
        report = {"command": command, "episodes": args.episodes, "seed": args.seed, "versions": versions("sb3")}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**report, "costs": [asdict(row) for row in table]}, indent=1) + "\n")
    draw(table, read_returns(args.runs) if args.runs else {}, args.output)


if __name__ == "__main__":
    main()
