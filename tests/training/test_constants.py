"""Fits to data with dimensions that never change, and the limits of predictions that follow from data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import (
    EnsembleDynamics,
    FitConfig,
    Trainer,
    Transitions,
    WithReward,
    branched_rollout,
)
from mbrl_wrappers.rollout import Rollout
from mbrl_wrappers.tasks import never_terminates
from tests.training.fits import fit, oracle_rows


def test_limits_cover_successors_too() -> None:
    rows = oracle_rows(100)
    rows = rows._replace(next_obs=rows.next_obs + 50.0)
    model, _ = fit(rows, FitConfig(max_epochs=1), termination_fn=never_terminates)
    assert (model.limits.obs_high > 50).all()


def test_constant_and_all_terminal_data_can_be_fitted() -> None:
    rows = oracle_rows(40)
    constant = Transitions(
        th.ones(40, 3), rows.action, th.ones(40), th.ones(40, 3), th.ones(40, dtype=th.bool), th.ones(40, dtype=th.bool)
    )
    model, report = fit(constant, FitConfig(max_epochs=5))
    assert all(np.isfinite(report.holdout_error))
    g = th.Generator()
    with th.no_grad():
        _, prediction = model.step(model.reset(constant.obs, generator=g), constant.action, generator=g)
    assert prediction.next_obs.isfinite().all()


def rows_with_constants(unit: float, count: int = 600) -> Transitions:
    """Dimension 0 moves; 1 is a goal that each episode draws anew; 2 is one number for good; 3 is a clock."""
    g = th.Generator().manual_seed(0)
    obs = unit * (2 * th.rand(count, 4, generator=g) - 1)
    obs[:, 2] = 0.3 * unit
    action = 2 * th.rand(count, 1, generator=g) - 1
    next_obs = obs + 0.1 * unit * action * th.tensor([1.0, 0.0, 0.0, 0.0])
    obs[:, 3] = unit * th.arange(count) / 128  # exact in binary, so that the clock's change is one number
    next_obs[:, 3] = obs[:, 3] + unit / 128
    never = th.zeros(count, dtype=th.bool)
    return Transitions(obs, action, th.full((count,), 0.7 * unit), next_obs, never, never)


@pytest.mark.parametrize("unit", [2.0**-30, 2.0**-10, 1.0, 2.0**10])
@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean", "infoprop"])
def test_what_never_changes_in_the_data_is_predicted_not_to_change(unit: float, propagation: str) -> None:
    rows = rows_with_constants(unit)
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (4,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
        num_members=2,
        num_elites=2,
        hidden=(16,),
        device="cpu",
        propagation=propagation,  # type: ignore[arg-type]
        termination_fn=never_terminates,
    )
    report = Trainer(model, FitConfig(batch_size=64)).fit(rows, max_gradient_steps=60)
    assert report.constant == ("obs1", "obs2", "obs3", "reward")
    assert np.isnan(report.holdout_r2).tolist() == [False, True, True, True, True]
    assert np.isnan(report.coverage_90).tolist() == [False, True, True, True, True]
    state, g = model.reset(rows.obs, generator=th.Generator().manual_seed(0)), th.Generator().manual_seed(1)
    with th.no_grad():
        for step in range(1, 6):
            state, prediction = model.step(state, rows.action, generator=g)
            assert th.equal(prediction.next_obs[:, 1:3], rows.obs[:, 1:3])
            assert th.equal(prediction.next_obs[:, 3], rows.obs[:, 3] + step * unit / 128)
            assert th.equal(prediction.reward, rows.reward)
            assert model.limits.accepts(prediction).all()
    assert float((prediction.next_obs[:, 0] - rows.obs[:, 0]).std()) > 0.01 * unit  # the first dimension does change
    shared = model.step_shared(state, rows.action, generator=g, groups=2)[1]
    assert th.equal(shared.next_obs[:, 1:3], rows.obs[:, 1:3])


def test_an_input_that_had_one_value_has_no_influence_elsewhere() -> None:
    rows = rows_with_constants(1.0)
    rows.obs[:, 3] = rows.next_obs[:, 3] = 0.0
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (4,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
        hidden=(16,),
        device="cpu",
        propagation="mean",
        termination_fn=never_terminates,
    )
    Trainer(model, FitConfig(batch_size=64)).fit(rows, max_gradient_steps=20)
    elsewhere = rows.obs.clone()
    elsewhere[:, 2:] += th.tensor([500.0, -3.0])
    g = th.Generator()
    with th.no_grad():
        here = model.step(model.reset(rows.obs, generator=g), rows.action, generator=g)[1]
        there = model.step(model.reset(elsewhere, generator=g), rows.action, generator=g)[1]
    assert th.equal(here.next_obs[:, :2], there.next_obs[:, :2])
    assert th.equal(there.next_obs[:, 2:], elsewhere[:, 2:])


def test_a_known_reward_is_no_reason_to_drop_a_row() -> None:
    def goal(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        return 100.0 * (next_obs[:, 0] > 1.05)

    g = th.Generator().manual_seed(0)
    obs, action = 2 * th.rand(600, 1, generator=g) - 1, 2 * th.rand(600, 1, generator=g) - 1
    never = th.zeros(600, dtype=th.bool)
    rows = Transitions(obs, action, th.zeros(600), obs + 0.04 * action, never, never)
    box = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    model, learned = (
        EnsembleDynamics(
            box,
            spaces.Box(-1, 1, (1,), np.float32),
            num_members=2,
            num_elites=2,
            hidden=(16,),
            device="cpu",
            reward_fn=reward_fn,
            termination_fn=lambda obs, action, next_obs: next_obs[:, 0] > 1.05,
        )
        for reward_fn in (goal, None)
    )
    config = FitConfig(batch_size=64, max_gradient_steps=400)
    for each in (model, learned):
        Trainer(each, config).fit(rows)
    starts = th.full((100, 1), 1.04)

    def roll(model: Any, starts: th.Tensor = starts) -> Rollout:
        right = lambda obs, generator: th.ones(len(obs), 1)  # noqa: E731
        return branched_rollout(model, right, starts, 4, generator=th.Generator().manual_seed(0))

    reached = roll(model)
    assert reached.num_dropped == 0
    assert set(reached.branch[reached.transitions.terminated].tolist()) == set(range(100))
    assert reached.transitions.reward[reached.transitions.terminated].unique().tolist() == [100.0]
    again = roll(WithReward(learned, goal))  # a learned reward gave way to a known one
    assert again.num_dropped == 0
    assert again.transitions.reward.max() == 100.0
    assert float(learned.limits.reward_high) == 1.0  # a learned one is limited still
    assert roll(model, th.full((100, 1), 3.5)).num_dropped == 100  # and so are observations
