"""Tests of how returns of particles become one score, against hand-computed values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers import CVaR, Mean, MeanMinusStd, Worst

RETURNS = th.tensor([[4.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 8.0]])


def test_mean_spread_and_worst() -> None:
    assert Mean()(RETURNS).tolist() == [2.5, 2.0]
    assert Worst()(RETURNS).tolist() == [1.0, 0.0]
    th.testing.assert_close(MeanMinusStd(2.0)(RETURNS), th.tensor([2.5 - 2 * math.sqrt(1.25), 2 - 2 * math.sqrt(12)]))
    assert MeanMinusStd(0.0)(RETURNS).tolist() == [2.5, 2.0]
    assert MeanMinusStd()(th.tensor([[3.0]])).tolist() == [3.0], "one particle has no spread, not NaN"


@pytest.mark.parametrize(
    ("fraction", "scores"),
    [
        (0.25, [1.0, 0.0]),
        (0.5, [1.5, 0.0]),
        (1.0, [2.5, 2.0]),
        (0.1, [1.0, 0.0]),  # less than one particle is that particle
        (0.375, [(1 + 0.5 * 2) / 1.5, 0.0]),
        (0.9, [(1 + 2 + 3 + 0.6 * 4) / 3.6, 0.6 * 8 / 3.6]),
    ],
)
def test_cvar_is_the_mean_of_the_worst_share_with_a_fraction_of_the_last(fraction: float, scores: list[float]) -> None:
    th.testing.assert_close(CVaR(fraction)(RETURNS), th.tensor(scores))


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12), st.integers(1, 40))
def test_cvar_is_the_integral_of_the_quantiles(returns: list[int], percent: int) -> None:
    # A hundred copies of each particle make every share whole.
    fraction = percent / 40
    many = sorted(returns * 400)
    share = many[: round(fraction * len(many))]
    got = CVaR(fraction)(th.tensor([returns], dtype=th.float64)).item()
    assert got == pytest.approx(sum(share) / len(share), abs=1e-9)


def test_risks_are_differentiable() -> None:
    returns = RETURNS[:1].clone().requires_grad_()
    for risk, gradient in (
        (Mean(), [0.25] * 4),
        (Worst(), [0, 1, 0, 0]),
        (CVaR(0.375), [0, 1 / 1.5, 0, 0.5 / 1.5]),
    ):
        (got,) = th.autograd.grad(risk(returns).sum(), returns)
        th.testing.assert_close(got, th.tensor([gradient], dtype=th.float32))
    equal = th.ones(1, 3, requires_grad=True)
    (got,) = th.autograd.grad(MeanMinusStd()(equal).sum(), equal)
    assert got.isfinite().all(), "equal particles have a spread of zero and a gradient"


@pytest.mark.parametrize("make", [lambda: CVaR(0.0), lambda: CVaR(1.5), lambda: MeanMinusStd(-1.0)])
def test_impossible_numbers_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"fraction|weight"):
        make()
