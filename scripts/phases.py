"""Where the wall-clock time of a run goes, measured from outside the agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback

PHASES = ("env_step", "agent_train", "model_fit", "model_rollout", "evaluation")


class PhaseClock:
    """Adds up seconds per phase; what no phase claims is ``other``."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._started = time.perf_counter()
        self._cpu_started = time.process_time()

    def add(self, phase: str, seconds: float) -> None:
        """Count ``seconds`` towards ``phase``."""
        self._seconds[phase] += seconds

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count the time of a ``with`` block towards ``phase``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - started)

    @property
    def wall_seconds(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._started

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of this process since the clock was made."""
        return time.process_time() - self._cpu_started

    def report(self) -> dict[str, float]:
        """Seconds by phase, ``other`` included; they add up to the wall time."""
        other = self.wall_seconds - sum(self._seconds.values())
        return {name: round(value, 3) for name, value in {**self._seconds, "other": other}.items()}


class TimedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Counts the time of ``step`` and ``reset`` towards ``env_step``; changes nothing else."""

    def __init__(self, env: gym.Env[Any, Any], clock: PhaseClock) -> None:
        super().__init__(env)
        self._clock = clock

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment and count the time."""
        with self._clock.measure("env_step"):
            return self.env.step(action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and count the time."""
        with self._clock.measure("env_step"):
            return self.env.reset(seed=seed, options=options)


class TrainTimer(BaseCallback):
    """Counts agent updates: what lies between the end of one rollout and the start of the next.

    SB3 calls ``agent.train`` exactly there, so the agent itself stays untouched. Put it last in the list of
    callbacks: work that others do at a rollout's end, such as fitting a model, is then over.
    """

    def __init__(self, clock: PhaseClock) -> None:
        super().__init__()
        self._clock = clock
        self._ended: float | None = None

    def _count(self) -> None:
        if self._ended is not None:
            self._clock.add("agent_train", time.perf_counter() - self._ended)
            self._ended = None

    def _on_rollout_end(self) -> None:
        self._ended = time.perf_counter()

    def _on_rollout_start(self) -> None:
        self._count()

    def _on_training_end(self) -> None:
        self._count()

    def _on_step(self) -> bool:
        return True
