"""Where the wall-clock time of a run goes, measured from outside the agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

PHASES = ("env_step", "agent_train", "model_fit", "model_rollout", "planning", "evaluation")


class PhaseClock:
    """Adds up seconds per phase; what no phase claims is ``other``.

    Args:
        earlier: seconds by phase of the parts of this run before it was interrupted, as :meth:`report` gave them.
        earlier_cpu: processor seconds of these parts.
    """

    def __init__(self, earlier: Mapping[str, float] | None = None, earlier_cpu: float = 0.0) -> None:
        self._followed: dict[str, Callable[[], float]] = {}
        self.go_on_from(earlier or {}, earlier_cpu)

    def go_on_from(self, earlier: Mapping[str, float], earlier_cpu: float) -> None:
        """Count on from what earlier parts of the run took; see the class."""
        self._seconds = {phase: float(earlier.get(phase, 0.0)) for phase in PHASES}
        self._started = time.perf_counter() - sum(earlier.values())
        self._cpu_started = time.process_time() - earlier_cpu

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

    def time_calls(self, owner: object, method: str, phase: str) -> None:
        """Count every later call of ``owner.method`` towards ``phase``; the call itself is unchanged."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(phase):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def follow(self, phase: str, seconds: Callable[[], float]) -> None:
        """Take the seconds of ``phase`` from the function ``seconds``, which returns the total so far."""
        self._followed[phase] = seconds

    def _by_phase(self) -> dict[str, float]:
        return {name: self._followed[name]() if name in self._followed else own for name, own in self._seconds.items()}

    @property
    def claimed_seconds(self) -> float:
        """Seconds that belong to a phase so far."""
        return sum(self._by_phase().values())

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
        other = self.wall_seconds - self.claimed_seconds
        return {name: round(value, 3) for name, value in {**self._by_phase(), "other": other}.items()}


class TrainTimer(BaseCallback):
    """Counts agent updates: what lies between the end of one rollout and the start of the next.

    SB3 calls ``agent.train`` exactly there, so the agent itself stays untouched. Put it last in the list of
    callbacks: work that others do at a rollout's end, such as fitting a model, is then over. Time that other phases
    count in between is subtracted.
    """

    def __init__(self, clock: PhaseClock) -> None:
        super().__init__()
        self._clock = clock
        self._began: tuple[float, float] | None = None

    def _count(self) -> None:
        if self._began is not None:
            began, claimed = self._began
            elapsed = time.perf_counter() - began
            self._clock.add("agent_train", elapsed - (self._clock.claimed_seconds - claimed))
            self._began = None

    def _on_rollout_end(self) -> None:
        self._began = (time.perf_counter(), self._clock.claimed_seconds)

    def _on_rollout_start(self) -> None:
        self._count()

    def _on_training_end(self) -> None:
        self._count()

    def _on_step(self) -> bool:
        return True
