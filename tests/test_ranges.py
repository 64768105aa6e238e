"""Rows inside a box, against comparing each number."""

from __future__ import annotations

import math

import torch as th

from mbrl_wrappers.ranges import distance_to_edge, finite_rows

VALUES = [-math.inf, -3.0, math.nextafter(-1, -2), -1.0, 0.0, 1e-38, 1.0, 1 + 1e-7, 3.4e38, math.inf, math.nan]


def test_room_has_the_sign_of_the_comparison_for_every_number() -> None:
    rows = th.cartesian_prod(th.tensor(VALUES), th.tensor(VALUES))
    largest = th.finfo(th.float32).max
    for low, high in [
        ((-1.0, -1.0), (1.0, 2.0)),
        ((0.0, -largest), (1.0, largest)),
        ((-math.inf, 0.0), (0.0, math.inf)),
    ]:
        bottom, top = th.tensor(low), th.tensor(high)
        inside = ((rows >= bottom) & (rows <= top) & rows.isfinite()).all(1)
        within = ((rows > bottom) & (rows < top) & rows.isfinite()).all(1)
        distance = distance_to_edge(rows, bottom, top)
        assert th.equal((distance >= 0) & rows.isfinite().all(1), inside)
        assert th.equal((distance > 0) & rows.isfinite().all(1), within)
        # An infinite number has no distance to an infinite edge, or is outside of the box.
        assert not (distance[~rows.isfinite().all(1)] >= 0).any()


def test_room_is_the_distance_to_the_nearest_edge() -> None:
    rows = th.tensor([[0.25, 5.0], [0.5, 9.5], [2.0, 5.0]])
    assert distance_to_edge(rows, th.tensor([0.0, 0.0]), th.tensor([1.0, 10.0])).tolist() == [0.25, 0.5, -1.0]


def test_finite_rows() -> None:
    rows = th.tensor([[0.0, 3.4e38], [3.4e38, 3.4e38], [math.inf, 0.0], [-math.inf, math.inf], [0.0, math.nan]])
    assert finite_rows(rows).tolist() == [True, True, False, False, False]
