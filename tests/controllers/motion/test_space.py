"""Motion problems: what they refuse, and their metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th

from controllers import RRT, MotionProblem
from tests.controllers.motion.disc import disc_problem, outside


def problem(**changes: Any) -> MotionProblem:
    options = {"low": [0, 0], "high": [1, 1], "start": [0, 0], "goal": [1, 1], "valid": outside, **changes}
    return MotionProblem(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": [0.5, 0.5]}, r"start \[0.5 0.5\] is not valid: it lies in an obstacle"),
        ({"goal": [0.5, 0.6]}, r"goal \[0.5 0.6\] is not valid"),
        ({"goal": [1.0, 1.1]}, r"goal \[1.  1.1\] lies outside the bounds .* widen them or move it"),
        ({"start": [0, 0, 0]}, "start has 3 coordinates and the bounds have 2"),
        ({"goal": [0.9]}, "goal has 1 coordinates and the bounds have 2"),
        ({"goal": [[0.9, 0.9]]}, "goal must be a vector of finite numbers"),
        ({"start": [0, np.nan]}, "start must be a vector of finite numbers"),
        ({"high": [1, np.inf]}, "high must be a vector of finite numbers"),
        ({"high": [1, 0]}, "low must be below high in every coordinate"),
        ({"high": [1, 1, 1]}, "low must be below high in every coordinate"),
        ({"weights": [1, 0]}, "weights must be positive"),
        ({"weights": [1, 1, 1]}, "weights has 3 coordinates"),
        ({"resolution": 0.0}, "resolution must be above 0"),
        ({"resolution": -1.0}, "resolution must be a finite number of at least 0"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problem(**changes)


@pytest.mark.parametrize(
    "valid",
    [
        lambda points: True,
        lambda points: np.ones((len(points), 1), bool),
        lambda points: np.ones(len(points)),
        lambda points: np.square(points - 0.5).sum(1),
    ],
)
def test_a_validity_function_that_is_not_batched_is_refused_at_once(valid: Any) -> None:
    with pytest.raises(TypeError, match=r"one bool per point, shape \(1,\) .* many points at once"):
        problem(valid=valid)


@pytest.mark.parametrize(
    "valid",
    [lambda point: (point[0] - 0.5) ** 2 + (point[1] - 0.5) ** 2 > 0.06, lambda point: math.hypot(*point) > 0.1],
)
def test_a_validity_function_of_one_point_is_named(valid: Any) -> None:
    with pytest.raises(TypeError, match="called with many points at once"):
        problem(valid=valid)


def test_a_validity_function_may_be_torch() -> None:
    made = problem(valid=lambda points: (th.from_numpy(points) - 0.5).square().sum(1).numpy() >= 0.0625)
    ours = RRT().plan(made, generator=th.Generator().manual_seed(0))
    theirs = RRT().plan(disc_problem(), generator=th.Generator().manual_seed(0))
    np.testing.assert_array_equal(ours.path, theirs.path)


def test_the_metric_weighs_coordinates() -> None:
    made = problem(weights=[2, 1])
    np.testing.assert_allclose(made.distance(np.array([[1.0, 0], [0, 1]]), np.zeros(2)), [2, 1])
    assert made.diagonal == pytest.approx(np.sqrt(5))
    assert made.resolution == pytest.approx(1e-4 * np.sqrt(5))


def test_the_way_to_the_metric_and_back_never_leaves_the_bounds() -> None:
    made = problem(low=[0.1, 0.1], high=[0.7, 0.9], start=[0.1, 0.1], goal=[0.7, 0.9], weights=[1 / 3, 7.1], valid=None)
    for corner in (made.low, made.high):
        back = made.from_metric(made.to_metric(corner))
        assert ((back >= made.low) & (back <= made.high)).all()
