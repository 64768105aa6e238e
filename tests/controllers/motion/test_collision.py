"""Edges are checked where they say they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from controllers.motion.collision import BLOCK, COARSE, Checker
from controllers.motion.space import Region

SPACING = 0.01


def checker_of(valid: Any, **options: Any) -> Checker:
    return Checker(Region([0, 0], [1, 1], valid, resolution=SPACING, **options))


def edge(*ends: tuple[float, float]) -> tuple[Any, Any]:
    return np.array([ends[0]], float), np.array([ends[1]], float)


def test_the_points_of_an_edge_are_a_resolution_apart_and_include_its_ends() -> None:
    seen: list[Any] = []
    checker = checker_of(lambda points: seen.append(points.copy()) or np.ones(len(points), bool))
    assert checker.finely_valid(*edge((0, 0.5), (0.095, 0.5))).all()
    (points,) = seen
    np.testing.assert_allclose(points[:, 0], np.linspace(0, 0.095, 11))
    assert checker.points == 11


@pytest.mark.parametrize("width", [2 * SPACING, 40 * SPACING])
def test_an_obstacle_wider_than_the_resolution_is_never_jumped(width: float) -> None:
    rng = np.random.default_rng(0)
    for left in rng.uniform(0.1, 0.5, 50):
        checker = checker_of(lambda p, left=left: (p[:, 0] <= left) | (p[:, 0] >= left + width))
        assert not checker.edges_valid(*edge((0, 0), (1, 1))).any()
        assert not checker.edges_valid(*edge((1, 0.3), (0, 0.2))).any()


def test_a_rough_look_sees_every_sixteenth_point() -> None:
    checker = checker_of(lambda p: np.abs(p[:, 0] - 0.42) > SPACING)
    ends = edge((0.505 - COARSE * SPACING, 0), (0.5, 0))
    assert checker.roughly_valid(*ends).all()
    assert not checker.edges_valid(*ends).any()


def test_edges_of_many_lengths_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    starts, ends = rng.random((200, 2)), rng.random((200, 2))
    ends[::7] = starts[::7]  # without a length
    checker = checker_of(lambda p: np.square(p - 0.5).sum(1) > 0.04)
    alone = [checker.edge_valid(a, b) for a, b in zip(starts, ends, strict=True)]
    assert checker.edges_valid(starts, ends).tolist() == alone
    assert 20 < sum(alone) < 180


def test_what_is_outside_the_bounds_is_not_valid_and_never_asked_about() -> None:
    def valid(points: Any) -> Any:
        assert ((points >= 0) & (points <= 1)).all()
        return np.ones(len(points), bool)

    checker = checker_of(valid)
    assert checker.points_valid(np.array([[0.5, 0.5], [1.1, 0.5]])).tolist() == [True, False]
    assert not checker.edge_valid(np.array([0.5, 0.5]), np.array([0.5, 1.01]))
    assert checker.edge_valid(np.array([0.1, 0.7]), np.array([1.0, 1.0]))


def test_the_function_gets_units_of_the_problem_in_blocks() -> None:
    sizes = []

    def valid(points: Any) -> Any:
        sizes.append(len(points))
        assert points.max() <= 1
        return np.ones(len(points), bool)

    checker = checker_of(valid, weights=[100, 100])
    checker.points_valid(np.full((BLOCK + 5, 2), 90.0))
    assert sizes == [BLOCK, 5]


def test_no_edges_are_no_error() -> None:
    assert len(checker_of(None).edges_valid(np.empty((0, 2)), np.empty((0, 2)))) == 0
