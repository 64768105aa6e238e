"""The double integrator's optimum, by every shooting planner."""

from __future__ import annotations

from typing import Any

import pytest
import torch as th

from controllers import CEM, ICEM, MPPI, GradientShooting, Planner, RandomShooting
from tests.controllers.linear import (
    cost_of,
    linear_problem,
    optimal_actions,
    optimal_cost,
)

LARGE: dict[str, Any] = dict(population=400, iterations=20)
SAMPLERS: dict[str, Planner] = {
    "CEM": CEM(**LARGE),
    # Smooth noise cannot draw the sharp first action, so less colour, and a population that stays.
    "ICEM": ICEM(**LARGE, noise_exponent=0.25, decay=1.0, init_std=1.0),
    "MPPI": MPPI(**LARGE),
}


def gap(planner: Planner, horizon: int, seed: int) -> float:
    """How much more than the optimum the plan costs, in percent."""
    plan = planner.plan(linear_problem(horizon), generator=th.Generator().manual_seed(seed))
    cost = cost_of(plan.actions[0].double().numpy())
    assert cost == pytest.approx(-plan.value.item(), rel=1e-5)
    return 100 * (cost / optimal_cost(horizon) - 1)


def test_the_optimum_is_the_published_one() -> None:
    assert optimal_cost(10) == pytest.approx(9.077323, abs=1e-6)
    assert optimal_cost(30) == pytest.approx(13.234546, abs=1e-6)
    assert optimal_actions(30)[0, 0] == pytest.approx(-2.56177, abs=1e-5)
    for horizon in (10, 30):
        assert cost_of(optimal_actions(horizon)) == pytest.approx(optimal_cost(horizon), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_come_within_a_percent(name: str, seed: int) -> None:
    assert -1e-4 < gap(SAMPLERS[name], 10, seed) < 0.1
    assert -1e-4 < gap(SAMPLERS[name], 30, seed) < 1.5


def test_random_shooting_is_worse_at_the_same_cost() -> None:
    for seed in range(3):
        assert gap(RandomShooting(population=8000), 30, seed) > 5


def test_bounded_optima_are_found_by_all() -> None:
    # |u| <= 1 at horizon 8: the answer by a bounded quasi-Newton method is checked in test_gradient.py.
    best = GradientShooting(population=2, iterations=60, step_size=0.2)
    costs = [
        -planner.plan(linear_problem(8, bound=1.0), generator=th.Generator().manual_seed(0)).value.item()
        for planner in (best, *SAMPLERS.values())
    ]
    assert costs[1:] == pytest.approx([costs[0]] * 3, rel=2e-3)
