"""Timed paths keep to their limits and to the path."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from controllers import Pace

CORNERS = np.array([[0, 0], [1, 0], [1, 1.5], [0, 2.0]])
SECONDS = 0.01


def test_a_straight_line_is_a_trapezoid() -> None:
    # Up in 1 s over 0.5 m, 1 m at full speed in 1 s, down in 1 s over 0.5 m.
    places, speeds = Pace(speed=1.0, acceleration=1.0).reference([[0.0], [2.0]], 0.5)
    np.testing.assert_allclose(places[:, 0], [0, 0.125, 0.5, 1.0, 1.5, 1.875, 2.0], atol=1e-12)
    np.testing.assert_allclose(speeds[:, 0], [0, 0.5, 1, 1, 1, 0.5, 0], atol=1e-12)


def test_a_short_line_never_reaches_full_speed() -> None:
    places, speeds = Pace(speed=9.0, acceleration=1.0).reference([[0.0], [1.0]], SECONDS)
    assert speeds.max() == pytest.approx(1.0, abs=SECONDS)  # v^2 = 2 a / 2
    assert len(places) * SECONDS == pytest.approx(2.0, abs=2 * SECONDS)


def test_a_right_angle_is_taken_at_the_speed_of_its_arc() -> None:
    pace = Pace(speed=9.0, acceleration=2.0, deviation=0.1)
    radius = 0.1 / (math.sqrt(2) - 1)
    speeds = pace.at_corners(np.array([[0, 0], [10, 0], [10, 10.0]]))
    assert speeds.tolist() == pytest.approx([0, math.sqrt(2.0 * radius), 0])
    there_and_back = pace.at_corners(np.array([[0.0], [10], [0]]))
    assert there_and_back.tolist() == [0, 0, 0]
    straight = pace.at_corners(np.array([[0.0], [100], [200]]))
    assert straight.tolist() == [0, 9, 0]


def test_the_reference_keeps_to_its_limits_and_to_the_path() -> None:
    pace = Pace(speed=1.0, acceleration=0.8, deviation=0.05)
    places, speeds = pace.reference(CORNERS, SECONDS)
    assert places[0].tolist() == [0, 0]
    assert places[-1].tolist() == [0, 2]
    assert speeds[[0, -1]].tolist() == [[0, 0], [0, 0]]
    pace_now = np.linalg.norm(speeds, axis=1)
    assert pace_now.max() <= 1 + 1e-9
    assert np.abs(np.diff(pace_now)).max() <= 0.8 * SECONDS + 1e-9
    moved = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert moved.max() <= SECONDS * (1 + 1e-9)
    share = np.linspace(0, 1, 2000)[:, None]
    way = np.concatenate([a + share * (b - a) for a, b in pairwise(CORNERS)])
    assert max(np.linalg.norm(way - place, axis=1).min() for place in places) < 2e-3
    # Between corners a step covers what its speed says.
    inner = [k for k in range(len(moved)) if np.allclose(*(v / np.linalg.norm(v) for v in speeds[k : k + 2] + 1e-15))]
    np.testing.assert_allclose(moved[inner], (pace_now[:-1] + pace_now[1:])[inner] * SECONDS / 2, atol=1e-4)


def test_corners_that_coincide_count_once() -> None:
    doubled = np.repeat(CORNERS, 2, 0)
    once, twice = (Pace(1.0, 1.0).reference(path, SECONDS) for path in (CORNERS, doubled))
    np.testing.assert_array_equal(once.places, twice.places)
    assert Pace(1.0, 1.0).reference(CORNERS[[0, 0]], SECONDS).places.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pace(0.0, 1.0), "speed must be above 0"),
        (lambda: Pace(1.0, 1.0, deviation=0.0), "deviation must be above 0"),
        (lambda: Pace(1.0, 1.0).reference([0.0, 1.0], SECONDS), "A path has finite corners"),
        (lambda: Pace(1.0, 1.0).reference([[0.0], [np.nan]], SECONDS), "A path has finite corners"),
        (lambda: Pace(1.0, 1.0).reference([[0.0], [1.0]], 0.0), "and a step some length"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
