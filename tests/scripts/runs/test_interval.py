"""The interquartile mean and its bootstrap interval against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.runs.interval import interquartile_mean, stratified_bootstrap


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], 3.0),  # nothing is dropped below four scores
        ([100.0, 2.0, 4.0, -50.0], 3.0),
        ([5.0, 1.0, 2.0, 3.0, 90.0], 10.0 / 3.0),  # of five, one at each end
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0], 3.5),
    ],
)
def test_interquartile_mean(scores: list[float], expected: float) -> None:
    assert interquartile_mean(scores) == pytest.approx(expected, abs=1e-12)


def test_interquartile_mean_along_an_axis() -> None:
    scores = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [100.0, -7.0]])
    np.testing.assert_allclose(interquartile_mean(scores, axis=0), [2.5, 15.0])


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [np.inf]])
def test_scores_must_be_there_and_finite(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        interquartile_mean(scores)


def test_two_seeds_span_from_one_to_the_other() -> None:
    # Resamples are (0,0), (0,1), (1,0), (1,1): means 0, 1/2, 1/2, 1. The outer two have probability 1/4 each.
    assert stratified_bootstrap([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert stratified_bootstrap([0.0, 1.0], level=0.4) == (0.5, 0.5, 0.5)


def test_equal_seeds_have_no_width() -> None:
    assert stratified_bootstrap([3.0] * 5) == (3.0, 3.0, 3.0)


def test_tasks_are_strata() -> None:
    # Every resample holds both tasks once per seed, so seeds that agree within a task leave nothing to vary. A
    # bootstrap over all four scores would give an interval from 0 to 10.
    assert stratified_bootstrap([[0.0, 10.0], [0.0, 10.0]]) == (5.0, 5.0, 5.0)


def test_interval_is_reproducible_and_holds_the_value() -> None:
    scores = [3.1, 2.0, 8.5, 4.4, 3.9]
    first, second = stratified_bootstrap(scores, seed=1), stratified_bootstrap(scores, seed=1)
    assert first == second
    assert first.low <= first.value <= first.high


def test_known_quantiles_of_three_seeds() -> None:
    # Means of 27 equally likely resamples of (0, 3, 6): 0 and 6 have probability 1/27 = 3.7 % each, beyond 2.5 %.
    interval = stratified_bootstrap([0.0, 3.0, 6.0], resamples=20_000)
    assert interval == (3.0, 0.0, 6.0)
    # At 90 %, 5 % is cut at each end: 1/27 lies below 1, so 1 is the 5 % quantile.
    assert stratified_bootstrap([0.0, 3.0, 6.0], level=0.9, resamples=20_000) == (3.0, 1.0, 5.0)


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds"):
        stratified_bootstrap(np.zeros((2, 2, 2)))
