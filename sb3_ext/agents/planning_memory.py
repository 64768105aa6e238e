"""The memory of a tabular agent: its model and the state-action pairs that it plans with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import nn

from mbrl_wrappers.tabular_data import MAX_ENTRIES, TabularTransitions


class Tables(NamedTuple):
    """The memory and the action values as flat columns that share their bytes with the tensors.

    Memoryviews for plain Python (faster than arrays, item by item), arrays for compiled code. ``pair`` is
    ``state * A + action``, and its outcomes are in ``pair * K ... pair * K + K - 1``.

    Attributes:
        q: ``(S * A,)`` action values.
        next_state: ``(S * A * K,)``.
        reward: ``(S * A * K,)``.
        alive: ``(S * A * K,)``, 0 where the outcome terminated, else 1.
        tries: ``(S * A,)`` how often each pair was tried; the newest ``min(tries, K)`` outcomes are kept.
        last_try: ``(S * A,)`` the count of real steps when it was tried last, 0 for never.
        visited: ``(S,)``, the states in which an action was ever taken, in the order of their first time.
        tried: ``(S * A,)``, for each state the actions ever taken in it, likewise.
        num_tried: ``(S,)`` how many these are.
        size: ``(2,)``, how many states were visited and how many real steps taken.
    """

    q: Any
    next_state: Any
    reward: Any
    alive: Any
    tries: Any
    last_try: Any
    visited: Any
    tried: Any
    num_tried: Any
    size: Any


class PlanningMemory(nn.Module):
    """The last ``K`` outcomes of each state and action, as buffers that SB3 saves with the agent.

    With ``K = 1`` this is the deterministic model of Dyna-Q (Sutton and Barto 2018, section 8.2): it predicts the
    last outcome. With more, a planning step samples one of the last ``K``, so the estimated probabilities follow an
    environment that changes.

    Args:
        num_states: ``S``.
        num_actions: ``A``.
        outcomes_kept: ``K``.

    Raises:
        ValueError: if the tables would be too large.
    """

    def __init__(self, num_states: int, num_actions: int, outcomes_kept: int) -> None:
        super().__init__()
        pairs, kept = num_states * num_actions, num_states * num_actions * outcomes_kept
        if kept > MAX_ENTRIES:
            raise ValueError(f"{outcomes_kept} outcomes for each of {pairs:,} pairs are too many: keep fewer.")
        self.num_states, self.num_actions, self.outcomes_kept = num_states, num_actions, outcomes_kept
        whole = {"next_state": kept, "tries": pairs, "last_try": pairs, "visited": num_states, "tried": pairs}
        for name, length in {**whole, "num_tried": num_states, "size": 2}.items():
            self.register_buffer(name, th.zeros(length, dtype=th.int64))
        for name in ("reward", "alive"):
            self.register_buffer(name, th.zeros(kept, dtype=th.float64))

    def arrays(self, q_table: th.Tensor) -> Tables:
        """The columns as numpy arrays, with ``q_table (S, A)``."""
        columns = [q_table.reshape(-1) if name == "q" else getattr(self, name) for name in Tables._fields]
        return Tables(*(column.numpy() for column in columns))

    def transitions(self, first_state: int, first_action: int) -> TabularTransitions:
        """Everything that is kept, in the environment's numbers, to fit a ``TabularModel`` with."""
        known = self.arrays(th.zeros(0))
        kept = np.minimum(known.tries, self.outcomes_kept)
        pair = np.repeat(np.arange(len(kept)), kept)
        slot = pair * self.outcomes_kept + np.arange(len(pair)) - np.repeat(np.cumsum(kept) - kept, kept)
        state, action = np.divmod(pair, self.num_actions)
        return TabularTransitions.of(
            state + first_state,
            action + first_action,
            known.reward[slot],
            known.next_state[slot] + first_state,
            known.alive[slot] == 0,
        )


def views(arrays: Tables) -> Tables:
    """The same columns as memoryviews."""
    return Tables(*(memoryview(column) for column in arrays))


def remember(tables: Tables, kept: int, pair: int, state: int, reward: float, next_state: int, alive: float) -> bool:
    """Write one real transition of ``pair``, which begins in ``state``, over the oldest of ``kept`` outcomes.

    Returns:
        Whether the outcome differs from the pair's previous one.
    """
    num_actions = len(tables.tries) // len(tables.visited)
    tables.size[1] += 1
    if tables.tries[pair] == 0:
        if tables.num_tried[state] == 0:
            tables.visited[tables.size[0]] = state
            tables.size[0] += 1
        tables.tried[state * num_actions + tables.num_tried[state]] = pair - state * num_actions
        tables.num_tried[state] += 1
    last, slot = pair * kept + (tables.tries[pair] - 1) % kept, pair * kept + tables.tries[pair] % kept
    before = tables.next_state[last], tables.reward[last], tables.alive[last]
    surprise = tables.tries[pair] > 0 and before != (next_state, reward, alive)
    tables.next_state[slot], tables.reward[slot], tables.alive[slot] = next_state, reward, alive
    tables.tries[pair] += 1
    tables.last_try[pair] = tables.size[1]
    return bool(surprise)
