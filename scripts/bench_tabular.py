"""Planning updates per second of tabular Dyna-Q: python scripts/bench_tabular.py

Three ways, each at 50 planning steps per real step: the planning alone, with the draws it needs; the whole of
``learn()``, with Stable-Baselines3's environments, logs and callbacks around it; and both again compiled where numba is
installed (``pip install 'mbrl-wrappers[numba]'``). Each figure is the median over repetitions.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mbrl_wrappers  # noqa: F401  (registers the mazes)
from sb3_ext.agents import DynaQ, DynaQPlus
from sb3_ext.agents.uniform_planning import numba_is_installed

TASKS = ("mbrl_wrappers/DynaMaze-v0", "Taxi-v4")
PLANNING_STEPS = 50


@dataclass(frozen=True)
class Rate:
    """Planning updates per second: the median and its quartiles."""

    name: str
    median: float
    low: float
    high: float


def rates(seconds: float = 2.0) -> Iterator[Rate]:
    """Every figure, each measured for about ``seconds``."""
    for env_id in TASKS:
        for agent_class in (DynaQ, DynaQPlus):
            for compiled in (False, True)[: 1 + numba_is_installed()]:
                agent = agent_class("TabularPolicy", env_id, seed=0, planning_steps=PLANNING_STEPS, compiled=compiled)
                agent.learn(1000)
                name = f"{agent_class.__name__}, {env_id}, {'compiled' if compiled else 'Python'}"

                def plan(agent: Any = agent) -> None:
                    for _ in range(100):
                        agent._plan(0, 0)

                def learn(agent: Any = agent) -> None:
                    agent.learn(100, reset_num_timesteps=False)

                yield measure(f"{name}, planning alone", plan, 100 * PLANNING_STEPS, seconds)
                yield measure(f"{name}, learn()", learn, 100 * PLANNING_STEPS, seconds)


def measure(name: str, work: Callable[[], None], updates: int, seconds: float) -> Rate:
    """The rate of ``work``, which does so many updates; at least seven times, after one unseen."""
    work()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 7 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        found.append(updates / (time.perf_counter() - started))
    low, median, high = statistics.quantiles(found, n=4)
    return Rate(name, median, low, high)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per figure (default: 2)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    figures = []
    for rate in rates(args.seconds):
        figures.append(rate)
        print(f"{rate.name:64} {rate.median:12,.0f} updates/s ({rate.low:,.0f} to {rate.high:,.0f})", flush=True)
    if args.json:
        report = {"machine": platform.processor(), "python": platform.python_version(), "rates": figures}
        args.json.write_text(json.dumps({**report, "rates": [asdict(rate) for rate in figures]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
