"""Prioritized sweeping: planning where values are about to change, as a Stable-Baselines3 agent."""

from __future__ import annotations

import heapq
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.states import StateDict, require_keys
from sb3_ext.agents.tabular_agent import TabularAgent
from sb3_ext.agents.tabular_policy import TabularPolicy


class PriorityQueue:
    """Priority queue of pairs: highest priority first, ties in order of arrival, each pair at most once.

    A pair whose priority is raised gets a second entry in the heap, and the first one becomes stale: popping passes
    over it. Once most entries are stale the heap is built anew, so it never holds more than twice as many entries as
    there are pairs, at a constant cost per push.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int]] = []  # minus the priority, the arrival, the pair
        self._current: dict[int, tuple[float, int, int]] = {}  # the entry of each pair that is not stale
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._current)

    def push(self, pair: int, priority: float) -> None:
        """Insert a pair or raise its priority; a lower priority than its present one is ignored."""
        known = self._current.get(pair)
        if known is not None and priority <= -known[0]:
            return
        self._arrivals += 1
        entry = self._current[pair] = (-priority, self._arrivals, pair)
        heapq.heappush(self._heap, entry)
        self._drop_stale_entries()

    def pop(self) -> int:
        """Take out the pair of the highest priority."""
        while True:
            entry = heapq.heappop(self._heap)
            pair = entry[2]
            if self._current.get(pair) == entry:
                del self._current[pair]
                self._drop_stale_entries()
                return pair

    def keep(self, pairs: Container[int]) -> None:
        """Take out all other pairs."""
        self._current = {pair: entry for pair, entry in self._current.items() if pair in pairs}
        self._drop_stale_entries()

    def state_dict(self) -> StateDict:
        """The pairs with their priorities and arrivals, in the order in which they would be popped."""
        entries = sorted(self._current.values())
        return {
            "priorities": np.array([-entry[0] for entry in entries]),
            "arrived": np.array([entry[1] for entry in entries], np.int64),
            "pairs": np.array([entry[2] for entry in entries], np.int64),
            "arrivals": self._arrivals,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold what ``state`` has in place of one's own.

        Raises:
            ValueError: if it is no state of a queue; nothing is changed then.
        """
        require_keys(state, ("priorities", "arrived", "pairs", "arrivals"), "a PriorityQueue")
        columns = (-state["priorities"]).tolist(), state["arrived"].tolist(), state["pairs"].tolist()
        self._heap = list(zip(*columns, strict=True))
        heapq.heapify(self._heap)
        self._current = {entry[2]: entry for entry in self._heap}
        self._arrivals = int(state["arrivals"])

    def _drop_stale_entries(self) -> None:
        if len(self._heap) > 2 * len(self._current):
            self._heap = list(self._current.values())
            heapq.heapify(self._heap)


class PrioritizedSweeping(TabularAgent):
    r"""Prioritized sweeping (Sutton and Barto 2018, section 8.4; Moore and Atkeson 1993).

    A real step is remembered, and its pair enters a queue with the priority

    .. math:: P = |r + \gamma \max_{a'} Q(s', a') - Q(s, a)|

    if that exceeds ``threshold``; as in the book it has no update of its own. Then up to ``planning_steps`` times the
    first pair of the queue is updated, and every pair that is remembered to lead to its state enters with its own
    priority. So planning works backwards from large errors and skips pairs whose value would not change. Where several
    outcomes of a pair are kept, the target is their mean.

    Args:
        policy: ``"TabularPolicy"``.
        env: Discrete observations and actions; one or several.
        learning_rate: alpha, or a schedule.
        gamma: discount.
        planning_steps: the most updates per real transition, at least 1.
        threshold: the least priority that is worth an update.
        **arguments: as in :class:`~sb3_ext.agents.DynaQ`.

    Raises:
        TypeError: for spaces that are not Discrete, naming what to do instead, and for VecNormalize.
        ValueError: for impossible numbers.
    """

    def __init__(
        self,
        policy: str | type[TabularPolicy] = "TabularPolicy",
        env: GymEnv | str | None = None,
        learning_rate: float | Schedule = 0.5,
        gamma: float = 0.95,
        planning_steps: int = 50,
        *,
        threshold: float = 1e-4,
        **arguments: Any,
    ) -> None:
        self.threshold = within("threshold", threshold, 0.0)
        self.queue = PriorityQueue()
        self._predecessors: dict[int, set[int]] | None = None
        super().__init__(policy, env, learning_rate, gamma, at_least("planning_steps", planning_steps), **arguments)

    def _setup_model(self) -> None:
        super()._setup_model()
        self._predecessors = None

    def _update_from_step(self, pair: int, reward: float, next_state: int, alive: float) -> float:
        """Only measures the error: the pair's update comes from the queue."""
        best = max(self._tables.q[next_state * self._num_actions : (next_state + 1) * self._num_actions])
        return float(reward + self.gamma * alive * best - self._tables.q[pair])

    def _plan(self, state: int, pair: int) -> tuple[float, int]:
        self._link(pair)
        self._enqueue(pair)
        total, updates = 0.0, 0
        while len(self.queue) and updates < self.planning_steps:
            first = self.queue.pop()
            error = self._error(first)
            self._tables.q[first] += self._step_size * error
            total, updates = total + abs(error), updates + 1
            for before in self._leading_to(first // self._num_actions):
                self._enqueue(before)
        return total, updates

    def _enqueue(self, pair: int) -> None:
        priority = abs(self._error(pair))
        if priority > self.threshold:
            self.queue.push(pair, priority)

    def _error(self, pair: int) -> float:
        """The remembered target of a pair, less its value."""
        t, actions, slots = self._tables, self._num_actions, self._slots(pair)
        target = 0.0
        for slot in slots:
            best = max(t.q[t.next_state[slot] * actions : (t.next_state[slot] + 1) * actions])
            target += t.reward[slot] + self.gamma * t.alive[slot] * best
        return float(target / len(slots) - t.q[pair])

    # --- predecessors -----------------------------------------------------------------------------------------------

    def _leading_to(self, state: int) -> list[int]:
        """The predecessors of a state: pairs with a stored, non-terminal transition to it, in ascending order."""
        found = self._linked().get(state, set())
        found.difference_update([pair for pair in found if not self._leads(pair, state)])
        return sorted(found)

    def _leads(self, pair: int, state: int) -> bool:
        t = self._tables
        return any(t.next_state[slot] == state and t.alive[slot] for slot in self._slots(pair))

    def _link(self, pair: int) -> None:
        """Record a pair as a predecessor of the successor in its newest outcome."""
        newest = (self._tables.tries[pair] - 1) % self.outcomes_kept
        self._linked().setdefault(self._tables.next_state[pair * self.outcomes_kept + newest], set()).add(pair)

    def _linked(self) -> dict[int, set[int]]:
        """For each state the pairs that ever led to it; rebuilt after an agent was loaded."""
        if self._predecessors is None:
            self._predecessors = {}
            for pair in np.flatnonzero(self._arrays.tries).tolist():
                for slot in self._slots(pair):
                    self._predecessors.setdefault(self._tables.next_state[slot], set()).add(pair)
        return self._predecessors

    def _slots(self, pair: int) -> range:
        """The rows in which the outcomes of a pair are stored."""
        first = pair * self.outcomes_kept
        return range(first, first + min(self._tables.tries[pair], self.outcomes_kept))

    def own_state(self) -> StateDict:
        """As the base class's, and the queue."""
        return {"tabular": super().own_state(), "queue": self.queue.state_dict(), "threshold": self.threshold}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """As the base class's; predecessors are rebuilt."""
        require_keys(state, ("tabular", "queue", "threshold"), "PrioritizedSweeping")
        if state["threshold"] != self.threshold:
            raise ValueError(f"The state is of an agent with threshold={state['threshold']}, not {self.threshold}.")
        super().load_own_state(state["tabular"])
        self.queue.load_state_dict(state["queue"])
        self._predecessors = None

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """As SB3's; predecessors are rebuilt, and the queue keeps only pairs of the new memory."""
        super().set_parameters(load_path_or_dict, exact_match, device)
        self._predecessors = None
        self.queue.keep(set(np.flatnonzero(self._arrays.tries).tolist()))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_predecessors"]
