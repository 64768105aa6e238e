"""Closing a gap: to the goal, within the bounds, no shorter than possible, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

from controllers import KinodynamicPlan, KinodynamicRRT, close_gap
from controllers.motion.kinodynamic_path import KinodynamicReport
from tests.controllers.motion.integrator import rest_to_rest
from tests.controllers.motion.test_kinodynamic import replayed, seeded


def test_a_closed_plan_ends_at_the_goal_and_the_model_repeats_it() -> None:
    problem = rest_to_rest(1.0)
    plan = KinodynamicRRT(sparsity=0.0, goal_tolerance=0.2).plan(problem, generator=seeded())
    closed = close_gap(problem, plan, 1e-4, generator=seeded())
    assert plan.gap > 1e-3
    assert closed.gap <= 1e-4
    assert closed.cost == plan.cost
    assert closed.actions.abs().max() <= 1
    np.testing.assert_allclose(replayed(problem, closed), closed.path, atol=1e-6)


def bang_bang(steps: int) -> KinodynamicPlan:
    """Full force forwards, then backwards."""
    actions = th.cat([th.ones(steps // 2, 1), -th.ones(steps - steps // 2, 1)])
    report = KinodynamicReport(0, 0, 0, 0.0, 0.0)
    nothing = np.zeros(0, np.int64)
    plan = KinodynamicPlan(actions, np.zeros((1, 2)), False, 1.0, np.zeros((0, 2)), nothing, nothing, report)
    return plan._replace(path=replayed(rest_to_rest(1.0), plan))


def test_a_plan_that_is_too_short_gets_as_many_steps_as_it_needs() -> None:
    closed = close_gap(rest_to_rest(1.0), bang_bang(36), generator=seeded())
    assert closed.solved
    assert closed.cost == 40  # 2 seconds, the shortest time


def test_a_gap_that_cannot_be_closed_leaves_the_plan_as_it_was() -> None:
    plan = bang_bang(20)
    assert close_gap(rest_to_rest(1.0), plan, extra_steps=3, generator=seeded()) is plan
    walled = rest_to_rest(1.0, valid=lambda places: np.abs(places[:, 0] - 0.5) > 0.01)
    whole = bang_bang(39)
    assert close_gap(walled, whole, generator=seeded()) is whole


def test_a_plan_that_is_at_the_goal_is_returned_as_it_is() -> None:
    plan = bang_bang(40)._replace(gap=0.0)
    assert close_gap(rest_to_rest(1.0), plan, generator=seeded()) is plan


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="extra_steps must be an integer"):
        close_gap(rest_to_rest(1.0), bang_bang(20), extra_steps=-1, generator=seeded())
