"""Costs in a tree follow its edges, whatever is rewired."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.motion.tree import Tree, steer


def test_steering_stops_after_a_step_or_at_the_target() -> None:
    start, target = np.zeros(2), np.array([3.0, 4.0])
    np.testing.assert_allclose(steer(start, target, 5.0, 1.0), [0.6, 0.8])
    assert steer(start, target, 5.0, 5.0) is target


def test_rewiring_moves_the_costs_of_all_below() -> None:
    tree = Tree(np.zeros(2))
    detour = tree.add(np.array([0.0, 3.0]), 0)
    corner = tree.add(np.array([4.0, 0.0]), detour)
    below = tree.add(np.array([4.0, 2.0]), corner)
    assert tree.costs.tolist() == [0, 3, 8, 10]
    tree.rewire(corner, 0)
    assert tree.costs.tolist() == [0, 3, 4, 6]
    assert tree.parents.tolist() == [-1, 0, 0, 2]
    np.testing.assert_array_equal(tree.chain(below), [[0, 0], [4, 0], [4, 2]])
    tree.rewire(below, 0)  # its old parent has forgotten it
    tree.rewire(corner, detour)
    assert tree.costs[below] == np.sqrt(20)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16))
def test_costs_are_always_the_lengths_of_the_ways(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = Tree(rng.random(2))
    for _ in range(100):
        node = tree.add(rng.random(2), int(rng.integers(len(tree))))
        for other in rng.integers(1, len(tree), 2):
            above = node
            while above not in (0, other):
                above = int(tree.parents[above])
            if above != other:  # no way may lead through itself
                tree.rewire(int(other), node)
    for node in range(len(tree)):
        way = tree.chain(node)
        np.testing.assert_allclose(tree.costs[node], np.linalg.norm(np.diff(way, axis=0), axis=1).sum(), atol=1e-12)
