"""The result of a search as arrays: visits and values of the first actions, and the principal line."""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor

from controllers.plan import Plan
from controllers.search.node import Edge, Node, SearchTree
from controllers.search.roots import TreeMemory


class RootStatistics(NamedTuple):
    """The actions at the roots of a search.

    Attributes:
        visits: ``(N, A)`` int64, simulations that took each action first, those of reused subtrees included.
        values: ``(N, A)`` what each is worth, NaN where there is none.
        prior: ``(N, A)``, or None without a prior.
    """

    visits: Tensor
    values: Tensor
    prior: Tensor | None

    @classmethod
    def of(cls, trees: list[SearchTree], guided: bool) -> RootStatistics:
        """Read the roots of ``trees``; ``guided`` says whether there was a prior."""
        edges = [tree.root.edges for tree in trees]
        return cls(
            th.tensor([[edge.visits for edge in row] for row in edges]),
            th.tensor([[edge.value for edge in row] for row in edges]),
            th.tensor([[edge.prior for edge in row] for row in edges]) if guided else None,
        )


def search_trees(plan: Plan) -> list[SearchTree]:
    """The trees behind a plan of :class:`~controllers.MCTS`, one per problem; look, do not change.

    Raises:
        ValueError: for the plan of another planner.
    """
    memories = [] if plan.next_start.memory is None else list(plan.next_start.memory)
    trees = [memory.tree for memory in memories if isinstance(memory, TreeMemory)]
    if not trees or len(trees) < len(memories):
        raise ValueError("The plan holds no search trees: it was not made by MCTS.")
    return trees


def root_statistics(plan: Plan) -> RootStatistics:
    """Visits, values and prior of the first actions of a plan of :class:`~controllers.MCTS`.

    Raises:
        ValueError: for the plan of another planner.
    """
    trees = search_trees(plan)
    guided = any(edge.prior for tree in trees for edge in tree.root.edges)
    return RootStatistics.of(trees, guided)


def principal_line(node: Node, edge: Edge | None) -> list[int]:
    """Action ``edge`` of ``node`` and then those visited most, each after the outcome visited most."""
    line = []
    while edge is not None:
        line.append(edge.action)
        if not edge.outcomes:
            break
        node = max(edge.outcomes.values(), key=lambda outcome: outcome.visits).node
        edge = node.best
    return line
