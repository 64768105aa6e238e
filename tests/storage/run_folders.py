"""A ring that is written to slot by slot, and states of a run around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.states import Ring

WIDTH = 3


class CountingRing:
    """Slot ``i`` in life holds the number ``i`` (plus ``offset``), as a float row and as an integer."""

    def __init__(self, capacity: int, offset: int = 0) -> None:
        self.rows = np.zeros((capacity, WIDTH), dtype=np.float32)
        self.numbers = np.zeros(capacity, dtype=np.int64)
        self.written, self.offset = 0, offset

    def add(self, count: int) -> None:
        for number in range(self.written, self.written + count):
            self.rows[number % len(self.rows)] = number + self.offset
            self.numbers[number % len(self.rows)] = number + self.offset
        self.written += count

    def ring(self) -> Ring:
        filled = min(self.written, len(self.rows))
        return Ring({"rows": self.rows[:filled], "numbers": self.numbers[:filled]}, self.written, len(self.rows))


def run_state(step: int, ring: CountingRing) -> dict[str, Any]:
    """The state of a run at ``step``."""
    return {
        "agent": {"weights": th.full((2, 3), float(step)), "names": ["a", None, 0.5]},
        "replay": {"real": ring.ring(), "position": step},
        "parts": [{"ring": ring.ring()}, step],
    }


def plain(state: Any) -> Any:
    """``state`` as something that compares, keys sorted."""
    if isinstance(state, Ring):
        return "ring", state.written, state.capacity, plain(dict(state.columns))
    if isinstance(state, dict):
        return {key: plain(state[key]) for key in sorted(state)}
    return [plain(item) for item in state] if isinstance(state, list) else comparable(state)


def files_below(folder: Path) -> list[Path]:
    """All plain files below a folder but the lock, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
