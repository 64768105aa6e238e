"""Who is extended: the quickest near a point, and the quickest of each witness."""

from __future__ import annotations

import numpy as np
import torch as th

from controllers.motion.sparse_tree import SparseTree, Way


def add(tree: SparseTree, place: list[float], steps: int, *, kept: bool = True) -> int:
    at = np.array(place)
    return tree.add(Way(None, th.zeros(1), steps, at[None]), at, 0, kept=kept)


def rooted(sparsity: float) -> SparseTree:
    return SparseTree(None, np.zeros(2), np.array([1.0, 10.0]), sparsity)


def test_of_the_nodes_near_a_point_the_quickest_is_selected() -> None:
    tree = rooted(0.1)
    add(tree, [1.0, 0.0], 9)
    quick = add(tree, [1.15, 0.0], 5)
    assert tree.select(np.array([1.0, 0.0])) == quick  # 0.15 away: within twice the sparsity
    assert tree.select(np.array([1.5, 0.0])) == quick  # nothing is near: the nearest
    assert tree.select(np.array([0.9, 0.0])) == 1  # the quick one is too far


def test_a_witness_keeps_its_quickest_node() -> None:
    tree = rooted(0.1)
    slow = add(tree, [1.0, 0.0], 9)
    assert not tree.wants(np.array([1.05, 0.0]), 9)
    assert tree.wants(np.array([1.05, 0.0]), 8)
    assert tree.wants(np.array([1.0, 0.02]), 50)  # in the metric, 0.2 away
    quick = add(tree, [1.05, 0.0], 8)
    assert tree.select(np.array([1.0, 0.0])) == quick
    assert tree.chain(slow) == [0, 1]


def test_without_sparsity_each_node_is_a_witness_and_the_nearest_is_selected() -> None:
    tree = rooted(0.0)
    near = add(tree, [1.0, 0.0], 9)
    add(tree, [1.01, 0.0], 1)
    assert tree.select(np.array([0.9, 0.0])) == near
    assert not tree.wants(np.array([1.0, 0.0]), 9)
    assert tree.wants(np.array([1.001, 0.0]), 99)


def test_what_is_not_kept_is_never_selected() -> None:
    tree = rooted(0.1)
    end = add(tree, [1.0, 0.0], 1, kept=False)
    assert tree.select(np.array([1.0, 0.0])) == 0
    assert tree.costs[end] == 1
