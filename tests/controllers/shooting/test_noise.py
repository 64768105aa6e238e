"""Tests of the noise that action sequences are made of: its variance, its spectrum, its seeds and its knots."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from controllers.shooting.noise import coloured_noise, knot_matrix


def draw(shape: tuple[int, ...], exponent: float, seed: int = 0) -> th.Tensor:
    return coloured_noise(shape, exponent, generator=th.Generator().manual_seed(seed))


@pytest.mark.parametrize("exponent", [0.0, 0.25, 2.0, 3.5])
@pytest.mark.parametrize("length", [1, 2, 3, 8, 15])
def test_every_entry_has_mean_zero_and_variance_one(length: int, exponent: float) -> None:
    noise = draw((40_000, length, 1), exponent)[..., 0]
    # A variance of Gaussians over n rows has a deviation of sqrt(2 / n) = 0.007.
    assert noise.var(0) == pytest.approx(np.ones(length), abs=0.035)
    assert noise.mean(0) == pytest.approx(np.zeros(length), abs=0.025)


@pytest.mark.parametrize("exponent", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("length", [64, 65])
def test_the_spectrum_falls_with_the_exponent(length: int, exponent: float) -> None:
    noise = draw((4000, length, 2), exponent)
    power = th.fft.rfft(noise, dim=1).abs().square().mean((0, 2))[1:]
    frequency = th.fft.rfftfreq(length)[1:]
    slope = np.polyfit(frequency.log().numpy(), power.log().numpy(), 1)[0]
    assert -slope == pytest.approx(exponent, abs=0.05)
    # The constant has the power of the lowest frequency.
    constant = th.fft.rfft(noise, dim=1)[:, 0].abs().square().mean()
    assert constant.item() == pytest.approx(power[0].item(), rel=0.1)


def test_colour_correlates_along_time_and_nowhere_else() -> None:
    noise = draw((20_000, 10, 2), 2.0)
    along = (noise[:, :-1, 0] * noise[:, 1:, 0]).mean()
    across = (noise[:, :, 0] * noise[:, :, 1]).mean()
    rows = (noise[::2] * noise[1::2]).mean()
    assert along > 0.6
    assert abs(across) < 0.02
    assert abs(rows) < 0.02


def test_seeds_repeat_and_differ() -> None:
    for exponent in (0.0, 2.0):
        assert draw((2, 3, 5, 2), exponent).equal(draw((2, 3, 5, 2), exponent))
        assert not draw((2, 3, 5, 2), exponent).equal(draw((2, 3, 5, 2), exponent, seed=1))
        assert draw((2, 3, 5, 2), exponent).shape == (2, 3, 5, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_knots_are_met_and_polynomials_are_kept(length: int, knots: int) -> None:
    knots = min(knots, length)
    matrix = knot_matrix(length, knots).numpy()
    assert matrix.shape == (length, knots)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)  # a constant stays one
    if knots > 1:
        np.testing.assert_allclose(matrix[[0, -1]] @ np.arange(knots), [0, knots - 1], atol=1e-4)
        np.testing.assert_allclose(matrix @ np.linspace(0, 1, knots), np.linspace(0, 1, length), atol=1e-5)


def test_the_spline_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=6)
    wanted = CubicSpline(np.linspace(0, 1, 6), values)(np.linspace(0, 1, 30))
    np.testing.assert_allclose(knot_matrix(30, 6).numpy() @ values, wanted, atol=1e-5)


def test_as_many_knots_as_steps_change_nothing() -> None:
    np.testing.assert_allclose(knot_matrix(7, 7).numpy(), np.eye(7), atol=1e-6)


@pytest.mark.parametrize("knots", [1, 2, 4, 6])
def test_splines_between_knots_vary_no_more_than_at_them_by_much(knots: int) -> None:
    variance = knot_matrix(30, knots).square().sum(1)
    assert variance[0].item() == pytest.approx(1)
    assert variance[-1].item() == pytest.approx(1)
    assert variance.min().item() > 0.45
    assert variance.max().item() < 1.4
