"""RRT*: near the shortest path, shorter with more nodes, rewired as it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

from controllers import MotionProblem, RRTStar
from controllers.motion.collision import Checker
from controllers.motion.rrt_star import _Grower, optimal_radius
from controllers.motion.space import Region
from controllers.motion.tree import Tree
from tests.controllers.motion.disc import SHORTEST, assert_is_tree, disc_problem, finely_free


def seeded(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


@pytest.mark.parametrize(("informed", "seed"), [(True, 0), (True, 1), (False, 0)])
def test_within_three_percent_of_the_shortest_path(informed: bool, seed: int) -> None:
    plan = RRTStar(max_nodes=1500, informed=informed).plan(disc_problem(), generator=seeded(seed))
    assert SHORTEST <= plan.cost <= 1.03 * SHORTEST
    assert finely_free(plan.path)
    assert_is_tree(plan)


def test_more_nodes_of_the_same_seed_never_give_a_longer_path() -> None:
    costs = [RRTStar(max_nodes=n).plan(disc_problem(), generator=seeded()).cost for n in (200, 400, 800)]
    assert costs[0] >= costs[1] >= costs[2]
    assert costs[0] > costs[2]


def test_a_new_node_takes_the_best_parent_and_rewires_its_neighbours() -> None:
    checker = Checker(Region([-9, -9], [9, 9], lambda points: ~(np.abs(points - [3, 0.05]) < 0.004).all(1)))
    tree = Tree(np.zeros(2))
    detour = tree.add(np.array([1.0, 2.0]), 0)
    far = tree.add(np.array([4.0, 0.0]), detour)
    below = tree.add(np.array([4.0, 1.0]), far)  # too far from the new node to be rewired itself
    hidden = tree.add(np.array([4.0, 0.1]), detour)  # behind the obstacle as seen from the new node
    before = tree.costs[hidden]
    node = _Grower(tree, checker, step=2.05, gamma=100.0).insert(np.array([2.0, 0.0]), far)
    assert node == 5
    assert tree.parents.tolist() == [-1, 0, 5, 2, 1, 0]
    assert tree.costs[[node, far, below]].tolist() == [2, 4, 5]
    assert tree.costs[hidden] == before


def test_a_parent_behind_something_thin_is_passed_over() -> None:
    checker = Checker(Region([-9, -9], [9, 9], lambda points: ~(np.abs(points - [1.02, 0]) < 0.004).all(1)))
    tree = Tree(np.zeros(2))
    detour = tree.add(np.array([0.5, 0.5]), 0)
    here = np.array([2.0, 0.0])
    assert checker.roughly_valid(np.zeros((1, 2)), here[None]).all()
    node = _Grower(tree, checker, step=9.0, gamma=100.0).insert(here, 0)
    assert tree.parents[node] == detour


def test_rewiring_straightens_the_tree() -> None:
    free = MotionProblem([0, 0], [1, 1], [0.5, 0.5], [0.95, 0.95])
    detours = []
    for factor in (1e-6, 1.1):  # next to nothing is near with the first
        star = RRTStar(max_nodes=600, informed=False, radius_factor=factor).plan(free, generator=seeded())
        detours.append(np.mean(star.costs - np.linalg.norm(star.nodes - [0.5, 0.5], axis=1)))
    assert detours[1] < detours[0] / 4


def test_informed_nodes_could_all_have_helped() -> None:
    plan = RRTStar(max_nodes=700).plan(disc_problem(), generator=seeded())
    sums = np.linalg.norm(plan.nodes, axis=1) + np.linalg.norm(plan.nodes - 1, axis=1)
    blind = RRTStar(max_nodes=700, informed=False).plan(disc_problem(), generator=seeded())
    theirs = np.linalg.norm(blind.nodes, axis=1) + np.linalg.norm(blind.nodes - 1, axis=1)
    assert (sums > 1.7).mean() < 0.1 < (theirs > 1.7).mean()


def test_a_straight_line_ends_the_search() -> None:
    plan = RRTStar(step=2.0).plan(MotionProblem([0, 0], [1, 1], [0, 0], [1, 0.3]), generator=seeded())
    assert len(plan.nodes) == 2
    assert plan.cost == pytest.approx(np.hypot(1, 0.3))


def test_the_radius_of_karaman_and_frazzoli() -> None:
    assert optimal_radius(Region([0, 0], [1, 1])) == pytest.approx(2 * np.sqrt(1.5 / np.pi))
    assert optimal_radius(Region([0, 0], [2, 1], weights=[1, 8])) == pytest.approx(4 * 2 * np.sqrt(1.5 / np.pi))
    volume = 4 / 3 * np.pi
    assert optimal_radius(Region([0] * 3, [1] * 3)) == pytest.approx(2 * (4 / 3 / volume) ** (1 / 3))
