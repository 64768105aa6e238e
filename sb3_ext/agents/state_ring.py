"""The newest states that a policy visits inside a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.states import StateDict, require_keys


class StateRing:
    """A ring of observations in raw units, from which updates start; nothing else of a rollout is kept.

    Args:
        capacity: observations kept, the newest.

    Raises:
        ValueError: for a capacity below 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = at_least("capacity", capacity)
        self._rows: Tensor | None = None
        self._next = 0
        self._stored = 0

    def __len__(self) -> int:
        return self._stored

    def push(self, obs: Tensor) -> None:
        """Store ``obs (B, O)`` in place of the oldest; of more than the capacity, the last ones."""
        obs = obs.detach()[-self.capacity :]
        if self._rows is None or self._rows.dtype != obs.dtype or self._rows.shape[1:] != obs.shape[1:]:
            self._rows, self._next, self._stored = obs.new_empty(self.capacity, *obs.shape[1:]), 0, 0
        until_end = min(len(obs), self.capacity - self._next)
        self._rows[self._next : self._next + until_end] = obs[:until_end]
        self._rows[: len(obs) - until_end] = obs[until_end:]
        self._next = (self._next + len(obs)) % self.capacity
        self._stored = min(self._stored + len(obs), self.capacity)

    def sample(self, count: int, *, generator: Generator) -> Tensor:
        """``count`` stored observations ``(count, O)``, uniform and with replacement.

        Raises:
            ValueError: if none is stored.
        """
        if self._rows is None or not self._stored:
            raise ValueError("The ring is empty: push observations before any are drawn.")
        if self._rows.device != generator.device:  # rows of a checkpoint are on the CPU at first
            self._rows = self._rows.to(generator.device)
        index = th.randint(self._stored, (count,), generator=generator, device=self._rows.device)
        return self._rows.index_select(0, index)

    def state_dict(self) -> StateDict:
        """The rows by slot, which decides what is drawn, and the slot that the next one goes to."""
        rows = None if self._rows is None else self._rows[: self._stored].cpu().clone()
        return {"capacity": self.capacity, "next": self._next, "rows": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold the rows of ``state`` in place of one's own.

        Raises:
            ValueError: if it is the state of a ring of another size; nothing is changed then.
        """
        require_keys(state, ("capacity", "next", "rows"), "a ring of states")
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"The ring of states that was saved keeps {state['capacity']}, and this one {self.capacity}: build it "
                "as it was when it was saved."
            )
        rows: Tensor | None = state["rows"]
        self._rows, self._next, self._stored = None, state["next"], 0 if rows is None else len(rows)
        if rows is not None:
            self._rows = th.empty(self.capacity, *rows.shape[1:], dtype=rows.dtype)
            self._rows[: len(rows)] = rows
