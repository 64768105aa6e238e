"""What a fit says about itself, against numbers computed by hand."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import EnsembleDynamics, EnsembleOptions, FitConfig, FitReport, Trainer, Transitions
from mbrl_wrappers.models.gaussian_ensemble import Examples, Outputs
from mbrl_wrappers.tasks import never_terminates
from mbrl_wrappers.training.report import calibrate_termination, holdout_quality, termination_problem

SPACE, ACTIONS = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)


def linear_model(outputs: list[list[float]], **kwargs: object) -> EnsembleDynamics:
    """Members that return the given numbers for every input, ``(E, columns)``."""
    model = EnsembleDynamics(
        SPACE,
        ACTIONS,
        num_members=len(outputs),
        num_elites=2,
        hidden=(4,),
        device="cpu",
        reward_fn=lambda obs, action, next_obs: obs[:, 0],
        **kwargs,  # type: ignore[arg-type]
    )
    with th.no_grad():
        for layer in model.net.linear_layers():
            layer.weight.zero_()
        model.net.linear_layers()[-1].bias.copy_(th.tensor(outputs)[..., None])
    return model


def test_r2_and_coverage_are_those_of_the_elites() -> None:
    # The elites 0 and 2 of three members predict 0.5 and -0.1 in the first dimension, so 0.2 in the mean.
    model = linear_model(
        [[0.5, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0], [-0.1, 0.0, 0.0, 0.0]],
        termination_fn=never_terminates,
        options=EnsembleOptions(log_variance_low=-0.01, log_variance_high=0.01),
    )
    model.elites.copy_(th.tensor([0, 2]))
    targets = th.tensor([[1.0, 2.0], [-1.0, 2.0], [2.0, -2.0], [0.0, -2.0]])
    quality = holdout_quality(model, Examples(th.zeros(4, 3), targets, th.zeros(4)))
    unexplained = (0.8**2 + 1.2**2 + 1.8**2 + 0.2**2) / 4
    assert quality.holdout_r2 == pytest.approx((1 - unexplained / 1.25, 0.0), abs=1e-6)
    # The limits, which are soft, make the standard deviation 1.22, so the half widths are 0.82 and 2.01.
    # Distances from 0.5: 0.5, 1.5, 1.5, 0.5; from -0.1: 1.1, 0.9, 2.1, 0.1.
    assert quality.coverage_50 == pytest.approx((3 / 8, 0.0))
    assert quality.coverage_90 == pytest.approx((7 / 8, 1.0))


def test_a_dimension_that_never_changed_in_training_has_no_r2() -> None:
    model = linear_model([[0.5, 0.0, 0.0, 0.0]] * 2, termination_fn=never_terminates)
    model.target_normalizer.std.copy_(th.tensor([1.0, 0.0]))
    targets = th.tensor([[1.0, 0.0], [-1.0, 0.0]])
    still = holdout_quality(model, Examples(th.zeros(2, 3), targets, th.zeros(2)))
    assert math.isnan(still.holdout_r2[1])
    assert math.isnan(still.coverage_50[1])
    assert math.isnan(still.coverage_90[1])
    assert still.holdout_r2[0] == pytest.approx(1 - (0.25 + 2.25) / 2)
    targets[1, 1] = 1e-4  # it changes after all, and the model misses all of it
    assert holdout_quality(model, Examples(th.zeros(2, 3), targets, th.zeros(2))).holdout_r2[1] == 0.0


def test_precision_and_recall_count_every_elite_on_every_row() -> None:
    model = linear_model([[0.0] * 5] * 2)
    with th.no_grad():  # logits: 2 x and x of the first input, member by member
        first, last = model.net.linear_layers()
        first.weight[:, 0, 0] = 1.0
        last.weight[0, 4, 0], last.weight[1, 4, 0] = 4.0, 2.0
    inputs = th.zeros(4, 3)
    inputs[:, 0] = th.tensor([3.0, 2.0, 1.0, 0.5])
    quality = calibrate_termination(model, Examples(inputs, th.zeros(4, 2), th.tensor([1.0, 0.0, 0.0, 1.0])), seen=True)
    # silu(x) = 2.86, 1.76, 0.73, 0.31; logits 11.4, 7.0, 2.9, 1.2 and 5.7, 3.5, 1.5, 0.6: the four highest fire.
    assert (quality.precision, quality.recall, quality.base_rate, quality.events) == (0.5, 0.5, 0.5, 2)
    assert 3.5 > float(model.termination_threshold) > 2.9


def test_without_a_termination_none_is_predicted_and_nothing_is_known() -> None:
    model = linear_model([[0.0, 0.0, 0.0, 0.0, 50.0]] * 2)
    rows = Examples(th.zeros(4, 3), th.zeros(4, 2), th.zeros(4))
    unseen = calibrate_termination(model, rows, seen=False)
    assert (unseen.threshold, unseen.base_rate, unseen.events) == (1.0, 0.0, 0)
    assert unseen.precision is not None
    assert math.isnan(unseen.precision)
    seen = calibrate_termination(model, rows, seen=True)  # among the training rows: all elites fire, and are wrong
    assert (seen.threshold, seen.precision) == (0.5, 0.0)
    assert seen.recall is not None
    assert math.isnan(seen.recall)
    known = linear_model([[0.0] * 4] * 2, termination_fn=never_terminates)
    assert set(vars(calibrate_termination(known, rows, seen=True)).values()) == {None}


REPORT = FitReport(
    epochs=1,
    gradient_steps=1,
    rows_seen=1,
    train_rows=400,
    holdout_rows=100,
    holdout_error=(0.5,),
    initial_error=(1.0,),
    dimensions=("obs0", "obs1", "reward"),
    holdout_r2=(0.5, math.nan, 0.9),
    coverage_50=(0.5, math.nan, 0.3),
    coverage_90=(0.9, math.nan, 0.7),
    log_variance_spread=(1.0,) * 3,
    log_variance_low=(-10.0,) * 3,
    log_variance_high=(0.5,) * 3,
    elites=(0,),
    diverged_members=(),
    termination_threshold=0.4,
    termination_precision=0.9,
    termination_recall=0.8,
    termination_base_rate=0.2,
    termination_events=20,
    seconds=0.0,
)


def test_means_leave_out_what_is_constant() -> None:
    assert REPORT.constant == ("obs1",)
    assert (REPORT.r2_mean, REPORT.r2_min) == pytest.approx((0.7, 0.5))
    assert (REPORT.coverage_50_mean, REPORT.coverage_90_mean) == pytest.approx((0.4, 0.8))
    nothing = replace(REPORT, holdout_r2=(math.nan,) * 3)
    assert math.isnan(nothing.r2_mean)
    assert math.isnan(nothing.r2_min)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, None),
        ({"termination_recall": 0.7, "termination_precision": 0.7, "termination_events": 10}, None),
        ({"termination_recall": 0.69}, "poor"),
        ({"termination_precision": 0.69}, "poor"),
        ({"termination_precision": math.nan}, "poor"),
        ({"termination_events": 9}, "too few"),
        ({"termination_events": 0, "termination_threshold": 1.0}, "none seen"),
        ({f"termination_{name}": None for name in ("threshold", "precision", "recall", "base_rate", "events")}, None),
    ],
)
def test_a_termination_that_cannot_be_relied_on_is_a_problem(changes: dict[str, float], kind: str | None) -> None:
    problem = termination_problem(replace(REPORT, **changes))  # type: ignore[arg-type]
    assert (problem and problem.kind) == kind


def rows_that_end(count: int, rate: float, *, learnable: bool) -> Transitions:
    """Rows of which a share terminates: where the first number is high, or by chance."""
    g = th.Generator().manual_seed(0)
    obs, action = th.rand(count, 2, generator=g) * 2 - 1, th.rand(count, 1, generator=g) * 2 - 1
    chance = th.rand(count, generator=g)
    ends = obs[:, 0] > 1 - 2 * rate if learnable else chance < rate
    return Transitions(obs, action, th.zeros(count), obs + 0.1 * action, ends, ends)


def fit(rows: Transitions, **config: int) -> tuple[FitReport, list[str]]:
    model = EnsembleDynamics(SPACE, ACTIONS, num_members=2, num_elites=2, hidden=(32,), device="cpu")
    trainer = Trainer(model, FitConfig(batch_size=64, **config))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(rows)
        report = trainer.fit(rows)
    return report, [str(warning.message) for warning in caught]


def test_a_learned_termination_that_is_worthless_says_so_once() -> None:
    report, messages = fit(rows_that_end(1000, 0.1, learnable=False), max_gradient_steps=100)
    assert report.r2_min > 0.5  # everything else looks fine
    assert report.termination_recall is not None
    assert report.termination_recall < 0.5
    assert len(messages) == 1
    assert "The learned termination is poor" in messages[0]
    assert "Give termination_fn" in messages[0]


def test_a_learned_termination_that_is_good_is_silent() -> None:
    report, messages = fit(rows_that_end(1500, 0.2, learnable=True), max_gradient_steps=300)
    assert report.termination_recall is not None
    assert report.termination_recall > 0.9
    assert report.termination_base_rate == pytest.approx(0.2, abs=0.05)
    assert messages == []


@pytest.mark.parametrize(("rate", "said"), [(0.01, "cannot be judged"), (0.0, "no transition has terminated yet")])
def test_too_few_terminations_to_know_is_said(rate: float, said: str) -> None:
    _, messages = fit(rows_that_end(600, rate, learnable=True), max_gradient_steps=5)
    assert len(messages) == 1
    assert said in messages[0]


def test_the_spread_of_the_log_variance_is_over_rows_and_a_mean_over_elites() -> None:
    model = linear_model([[0.0] * 4] * 2, termination_fn=never_terminates)
    first = th.tensor([[0.0, 3.0], [2.0, 3.0], [0.0, 3.0], [2.0, 3.0]])
    second = th.tensor([[0.0, 5.0], [4.0, 5.0], [0.0, 5.0], [4.0, 5.0]])
    outputs = Outputs(th.zeros(2, 4, 2), th.stack([first, second]), None)
    model.elite_outputs = lambda inputs: outputs  # type: ignore[method-assign]
    quality = holdout_quality(model, Examples(th.zeros(4, 3), th.randn(4, 2), th.zeros(4)))
    assert quality.log_variance_spread == pytest.approx((1.5, 0.0))
