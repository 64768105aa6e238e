"""Bounds of values by hand."""

from __future__ import annotations

import pytest
import torch as th

from sb3_ext.agents.value_bounds import ValueBounds


def follow(bounds: ValueBounds, rewards: list[float], quantile: float = 0.0, rate: float = 0.1) -> tuple[float, float]:
    bounds.follow(th.tensor(rewards), discount=0.9, quantile=quantile, rate=rate)
    return float(bounds.low), float(bounds.high)


def test_the_first_rewards_set_the_bounds_and_later_ones_move_them() -> None:
    bounds = ValueBounds()
    assert follow(bounds, [-2.0, 1.0, 3.0]) == pytest.approx((-20, 30))
    assert follow(bounds, [-4.0, 1.0]) == pytest.approx((-20 - 0.1 * 20, 30 - 0.1 * 20))
    assert follow(bounds, []) == pytest.approx((-22, 28))


def test_the_value_of_an_end_is_always_inside() -> None:
    assert follow(ValueBounds(), [1.0, 2.0]) == pytest.approx((0, 20))
    assert follow(ValueBounds(), [-1.0, -2.0]) == pytest.approx((-20, 0))


def test_outliers_are_left_out() -> None:
    rewards = [float(number) for number in range(101)]
    assert follow(ValueBounds(), rewards, quantile=0.01) == pytest.approx((0, 990))
    assert follow(ValueBounds(), [-reward for reward in rewards], quantile=0.1) == pytest.approx((-900, 0))


def test_scaled_outputs_and_clipped_values() -> None:
    bounds = ValueBounds()
    values = th.tensor([-500.0, 3.0, 500.0])
    assert bounds.clipped(values).tolist() == values.tolist()  # nothing is known yet
    follow(bounds, [-1.0, 3.0])
    assert bounds.scaled(th.tensor([-1.0, 0.0, 1.0, 2.0])).tolist() == pytest.approx([-10, 10, 30, 50])
    assert bounds.clipped(values).tolist() == pytest.approx([-10, 3, 30])


def test_bounds_are_part_of_the_state() -> None:
    bounds, other = ValueBounds(), ValueBounds()
    follow(bounds, [-1.0, 3.0])
    other.load_state_dict(bounds.state_dict())
    assert follow(other, [-2.0, 3.0], rate=0.5) == pytest.approx((-15, 30))
