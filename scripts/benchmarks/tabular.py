"""Planning updates per second of tabular Dyna-Q, at 50 planning steps per real step.

The planning alone, with the draws it needs; the whole of ``learn()``, with Stable-Baselines3's environments, logs and
callbacks around it; and both again compiled where numba is installed (``pip install 'mbrl-wrappers[numba]'``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import mbrl_wrappers  # noqa: F401  (registers the mazes)
from sb3_ext.agents import DynaQ, DynaQPlus
from sb3_ext.agents.uniform_planning import numba_is_installed
from scripts.benchmarks.ratios import Figure, report

TASKS = ("mbrl_wrappers/DynaMaze-v0", "Taxi-v4")
PLANNING_STEPS = 50


def tabular_figures(seconds: float) -> Iterator[Figure]:
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


def measure(name: str, work: Callable[[], None], updates: int, seconds: float) -> Figure:
    """The rate of ``work``, which does so many updates; at least seven times, after one unseen."""
    work()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < 7 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        found.append(updates / (time.perf_counter() - started))
    return report(name, 1, found, "updates per second")
