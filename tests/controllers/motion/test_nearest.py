"""The growing set of points answers as a search through all of them does."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.motion.nearest import BUFFER, RATIO, NearestPoints


def filled(points: np.ndarray) -> NearestPoints:
    known = NearestPoints(points.shape[1])
    for index, point in enumerate(points):
        assert known.add(point) == index
    return known


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 6 * BUFFER),
    dimensions=st.integers(1, 4),
    grid=st.sampled_from([3, 10, 1000]),
    radius=st.integers(0, 12),
    seed=st.integers(0, 2**16),
)
def test_it_agrees_with_a_search_through_all(count: int, dimensions: int, grid: int, radius: int, seed: int) -> None:
    # Whole numbers, so that distances are exact, repeat, and lie exactly on the radius.
    rng = np.random.default_rng(seed)
    points = rng.integers(0, grid, (count, dimensions)).astype(float)
    known = filled(points)
    for query in rng.integers(-1, grid + 1, (5, dimensions)).astype(float):
        squares = np.square(points - query).sum(1)
        index, distance = known.nearest(query)
        assert squares[index] == squares.min()
        assert distance == pytest.approx(np.sqrt(squares.min()), rel=1e-15)
        np.testing.assert_array_equal(known.within(query, float(radius)), (squares <= radius**2).nonzero()[0])


def test_it_agrees_at_every_size_while_it_grows() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((3 * BUFFER, 3))
    known = NearestPoints(3)
    for count, point in enumerate(points, 1):
        known.add(point)
        query = rng.random(3)
        assert known.nearest(query)[0] == np.linalg.norm(points[:count] - query, axis=1).argmin()


def test_trees_shrink_geometrically() -> None:
    known = filled(np.random.default_rng(0).random((9000, 2)))
    firsts = [first for first, _ in known._trees]
    sizes = [tree.n for _, tree in known._trees]
    assert firsts == np.cumsum([0, *sizes])[:-1].tolist()  # one after the other, without a gap
    assert all(large >= RATIO * small for large, small in pairwise(sizes))
    assert len(known) - sum(sizes) < BUFFER


def test_an_empty_set_has_no_nearest_point_and_none_within() -> None:
    known = NearestPoints(2)
    with pytest.raises(ValueError, match="no nearest point before the first"):
        known.nearest(np.zeros(2))
    assert len(known.within(np.zeros(2), 1.0)) == 0


def test_points_are_copied() -> None:
    point = np.zeros(2)
    known = NearestPoints(2)
    known.add(point)
    point += 1
    assert known.nearest(np.zeros(2)) == (0, 0.0)
