"""The roots of search trees: the starts of a problem, and subtrees of an earlier search that contain them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch as th
from torch import Tensor

from controllers.plan import WarmStart
from controllers.problem import PlanningProblem
from controllers.search.counted_model import CountedModel
from controllers.search.node import Node, SearchTree
from controllers.search.outcomes import PROBE_STEPS, PROBES, Kind, Outcomes, kind_of, observed
from controllers.search.state_pool import StatePool
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.seeding import draw_seed
from mbrl_wrappers.types import Prediction

S = TypeVar("S")


class Stored(NamedTuple):
    """A row of a search's pool: the model's state, and the observation ``(B, O)`` that goes with it."""

    state: Any
    obs: Tensor


class TreeMemory(NamedTuple):
    """The search tree that one row of a plan passes to the next plan.

    Attributes:
        tree: the tree, no longer modified.
        pool: where its states are.
        actions: numbers of the planned actions.
        steps: how many of them have been executed since.
        planner: the planner that grew it; another one starts afresh.
    """

    tree: SearchTree
    pool: StatePool[Stored]
    actions: tuple[int, ...]
    steps: int
    planner: object

    def shifted(self, steps: int) -> TreeMemory:
        """The memory once ``steps`` more actions have been executed."""
        return self._replace(steps=self.steps + steps)

    def arrived(self, obs: bytes) -> Node | None:
        """The most visited node with observation ``obs`` after the executed actions; None if the tree has none."""
        nodes = [self.tree.root]
        if not 0 < self.steps <= len(self.actions):
            return None
        for action in self.actions[: self.steps]:
            nodes = [o.node for node in nodes if node.edges for o in node.edges[action].outcomes.values()]
        found = [node for node in nodes if node.obs == obs and not node.terminal]
        return max(found, key=lambda node: node.visits, default=None)


def begin(
    problem: PlanningProblem[S], model: CountedModel[S], outcomes: Outcomes, warm: WarmStart | None, planner: object
) -> tuple[list[SearchTree], StatePool[Stored]]:
    """A tree per problem, on the remembered subtree where there is one, and the pool of their states."""
    copies = PROBES if outcomes.kind == "auto" else problem.particles
    count = problem.num_problems
    state = model.starts(copies)
    shown = problem.start if isinstance(problem.start, Tensor) else getattr(problem.start, "obs", None)
    size = problem.model.observation_space.shape[0]
    obs = th.zeros(count, size, device=problem.device) if shown is None else shown
    pool: StatePool[Stored] = StatePool(Stored(state, obs))
    slots = list(pool.add(Stored(state, obs.repeat_interleave(copies, 0))))
    kinds: list[Kind] = _probed(problem, model, state) if outcomes.kind == "auto" else [outcomes.kind] * count
    seed = draw_seed(model.generator)
    trees = []
    for row, (kind, key) in enumerate(zip(kinds, observed(obs), strict=True)):
        rng = random.Random(seed + row)
        memory = _remembered(warm, row, planner)
        arrived = None if memory is None or shown is None else memory.arrived(key)
        if memory is None or arrived is None:
            tree = SearchTree(Node(0, key, False), kind, rng)
        else:
            old = memory.pool
            tree = memory.tree.below(arrived, lambda numbers, old=old: pool.add(old.take(numbers)), rng)  # type: ignore[misc]
            if outcomes.kind == "auto" and tree.outcomes == "one":
                tree.outcomes = kind
        tree.root.slots = slots[row * copies : (row + 1) * copies]
        trees.append(tree)
    return trees, pool


def _remembered(warm: WarmStart | None, row: int, planner: object) -> TreeMemory | None:
    if warm is None or warm.memory is None or not bool(warm.known[row]):
        return None
    memory = next(iter(warm.memory[th.tensor([row])]))
    return memory if isinstance(memory, TreeMemory) and memory.planner == planner else None


def _probed(problem: PlanningProblem[S], model: CountedModel[S], state: S) -> list[Kind]:
    """The kind that copies of each start show, along one random sequence after each first action, for a few steps."""
    count, size = problem.num_problems, problem.codec.size
    horizon = min(problem.horizon, PROBE_STEPS)
    drawn = th.randint(size, (count, size, horizon), generator=model.generator, device=problem.device)
    drawn[:, :, 0] = th.arange(size, device=problem.device)
    actions = th.eye(size, device=problem.device)[drawn.flatten(0, 1)].repeat_interleave(PROBES, 0)
    copies = th.arange(count * PROBES, device=problem.device).view(count, 1, PROBES).expand(-1, size, -1)
    state = take_rows(state, copies.flatten())  # (N * A * PROBES) rows
    groups = count * size
    kinds: list[Kind | None] = [None] * groups
    for t in range(1 if model.rolls_whole else horizon):
        if model.rolls_whole:
            seen = model.roll(state, actions)
        else:
            state, one = model.step(state, actions[:, t])
            seen = Prediction(*(field[:, None] for field in one))
        seen = Prediction(*(field.unflatten(0, (groups, PROBES)) for field in seen))  # (N * A, PROBES, T, ...)
        for row in [row for row, kind in enumerate(kinds) if kind is None]:
            kinds[row] = _parted(Prediction(*(field[row] for field in seen)))
        settled = [kinds[row * size : (row + 1) * size] for row in range(count)]
        if all("drawn" in mine or "widening" in mine or None not in mine for mine in settled):
            break
    return [_coarsest(kinds[row * size : (row + 1) * size]) for row in range(count)]


def _coarsest(kinds: Sequence[Kind | None]) -> Kind:
    for kind in ("widening", "drawn"):
        if kind in kinds:
            return kind
    return "one"


def _parted(seen: Prediction) -> Kind | None:
    """The kind of a model by the predictions ``(PROBES, T, ...)`` of its copies; None while undecided."""
    differs = (seen.next_obs != seen.next_obs[:1]).any(-1) | (seen.reward != seen.reward[:1])
    same = ~(differs | (seen.terminated != seen.terminated[:1])).any(0)  # (T,)
    over = (~same | seen.terminated.any(0)).nonzero()
    if not len(over):
        return None
    first = int(over[0])
    if same[first]:
        return "one"
    return kind_of(max(2, len(set(observed(seen.next_obs[:, first])))))
