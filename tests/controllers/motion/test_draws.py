"""Draws: where they lie, how they are spread, and where they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from controllers.motion.controls import draw_controls
from controllers.motion.draws import InformedPoints, UniformPoints, numpy_stream, unit_ball_volume
from controllers.motion.space import Region
from mbrl_wrappers.spaces import ActionCodec


def test_uniform_points_fill_the_metric_box() -> None:
    points = UniformPoints(Region([0, -1], [1, 1], weights=[1, 10]), np.random.default_rng(0))
    drawn = np.array([points.draw() for _ in range(4000)])
    np.testing.assert_allclose(drawn.min(0), [0, -10], atol=0.03)
    np.testing.assert_allclose(drawn.mean(0), [0.5, 0], atol=0.3)


@pytest.mark.parametrize("dimensions", [2, 3, 5])
def test_informed_points_fill_the_ellipsoid_and_nothing_else(dimensions: int) -> None:
    region = Region([-2.0] * dimensions, [2.0] * dimensions)
    start, goal = np.full(dimensions, -0.4), np.linspace(0.1, 0.5, dimensions)
    informed = InformedPoints(region, start, goal, np.random.default_rng(0))
    cost = 1.2 * informed.shortest
    drawn = np.array([informed.draw(cost) for _ in range(4000)])
    sums = np.linalg.norm(drawn - start, axis=1) + np.linalg.norm(drawn - goal, axis=1)
    assert sums.max() <= cost
    # Evenly: along the long axis the mean square of a ball's coordinate is 1 / (D + 2).
    along = (drawn - (start + goal) / 2) @ ((goal - start) / informed.shortest) / (cost / 2)
    assert np.mean(along**2) == pytest.approx(1 / (dimensions + 2), rel=0.1)
    # And across: so is that of every direction at right angles, in units of the short half axes.
    across = np.square(drawn - (start + goal) / 2).sum(1) - (along * cost / 2) ** 2
    short = (cost**2 - informed.shortest**2) / 4
    assert np.mean(across) / short == pytest.approx((dimensions - 1) / (dimensions + 2), rel=0.1)


def test_points_drawn_ahead_are_forgotten_when_the_cost_falls() -> None:
    informed = InformedPoints(Region([-1, -1], [2, 1]), np.zeros(2), np.array([1.0, 0]), np.random.default_rng(0))
    informed.draw(1.8)
    drawn = np.array([informed.draw(1.01) for _ in range(200)])
    assert (np.linalg.norm(drawn, axis=1) + np.linalg.norm(drawn - [1, 0], axis=1)).max() <= 1.01


def test_informed_points_stay_inside_the_bounds() -> None:
    informed = InformedPoints(Region([0, 0], [1, 1]), np.zeros(2), np.ones(2), np.random.default_rng(0))
    drawn = np.array([informed.draw(1.6) for _ in range(500)])
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_volumes_of_unit_balls() -> None:
    assert [unit_ball_volume(d) for d in (1, 2, 3)] == pytest.approx([2, np.pi, 4 / 3 * np.pi])


def test_a_numpy_stream_is_used_as_it_is_and_a_torch_generator_seeds_one() -> None:
    rng = np.random.default_rng(3)
    assert numpy_stream(rng) is rng
    first, second = (numpy_stream(th.Generator().manual_seed(5)).random() for _ in range(2))
    assert first == second


def test_controls_of_a_box_lie_in_its_bounds_and_some_of_them_on_these() -> None:
    codec = ActionCodec(spaces.Box(np.array([-3.0, 0], np.float32), np.array([1.0, 5], np.float32)))
    drawn = draw_controls(codec, 2000, 0.25, np.random.default_rng(0))
    assert drawn.dtype == th.float32
    assert drawn.abs().max() == 1
    assert (drawn.abs() == 1).all(1).float().mean() == pytest.approx(0.25, abs=0.03)


def test_controls_of_discrete_spaces_are_one_hot() -> None:
    rng = np.random.default_rng(0)
    single = draw_controls(ActionCodec(spaces.Discrete(3)), 300, 0.5, rng)
    assert single.sum(0).tolist() == pytest.approx([100, 100, 100], abs=30)
    assert (single.sum(1) == 1).all()
    both = draw_controls(ActionCodec(spaces.MultiDiscrete([2, 3])), 50, 0.5, rng)
    assert both.shape == (50, 5)
    assert (both[:, :2].sum(1) == 1).all()
    assert (both[:, 2:].sum(1) == 1).all()
