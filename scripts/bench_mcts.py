"""Simulations per second of tree search on CartPole-v1: ``python scripts/bench_mcts.py``."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium
import torch as th

from controllers import MCTS, MPCPolicy
from mbrl_wrappers import ClonedEnvModel

SIMULATIONS, HORIZON = 200, 50


@dataclass(frozen=True)
class Speed:
    """Median and quartiles over plans: ``SIMULATIONS`` simulations from the start of an episode."""

    batch: int
    simulations_per_second: float
    low: float
    high: float
    model_share: float


def cart_pole(batch: int, seconds: float) -> Speed:
    """Plan again and again from one state, in copies of the environment; one random rollout per simulation.

    Args:
        batch: simulations under way together.
        seconds: how long; at least seven plans.
    """
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    policy = MPCPolicy(ClonedEnvModel(env), MCTS(simulations=SIMULATIONS, batch=batch), horizon=HORIZON)
    policy.predict(obs)
    rates, shares = [], []
    end = time.perf_counter() + seconds
    while len(rates) < 7 or time.perf_counter() < end:
        policy.predict(obs)
        assert policy.last_plan is not None
        report = policy.last_plan.report
        rates.append(SIMULATIONS / report.seconds)
        shares.append(report.model_seconds / report.seconds)
    low, median, high = statistics.quantiles(rates, n=4)
    return Speed(batch, median, low, high, statistics.median(shares))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="simulations together (default: 1 8)")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per figure (default: 4)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    th.set_num_threads(1)
    speeds = [cart_pole(batch, args.seconds) for batch in args.batch]
    for speed in speeds:
        print(
            f"CartPole-v1, {SIMULATIONS} simulations of {HORIZON} steps, batch {speed.batch:2d}: "
            f"{speed.simulations_per_second:,.0f} a second ({speed.low:,.0f} to {speed.high:,.0f}), "
            f"{speed.model_share:.0%} of it in the model",
            flush=True,
        )
    if args.json:
        report = {
            "command": "python scripts/bench_mcts.py",
            "torch": th.__version__,
            "gymnasium": gymnasium.__version__,
        }
        args.json.write_text(json.dumps({**report, "speeds": [asdict(speed) for speed in speeds]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
