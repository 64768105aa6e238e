"""The combination of two estimators: by hand, and where the pathwise one is wrong."""

from __future__ import annotations

import math

import pytest
import torch as th

from mbrl_wrappers.alpha_order import alpha_order
from tests.unrolled_line import generator


def test_the_least_variance_by_hand() -> None:
    # Means 2 and 3, variances of the means 2 / 2 = 1 and 8 / 2 = 4: alpha 1 / 5. The radius sqrt(1 / 0.5) allows it.
    found = alpha_order(th.tensor([[1.0], [3.0]]), th.tensor([[1.0], [5.0]]), confidence=0.5)
    assert found.alpha == pytest.approx(0.2)
    assert found.gradient.tolist() == pytest.approx([2.2])
    assert found.radius == pytest.approx(math.sqrt(2))
    assert found.gap == pytest.approx(1.0)


def test_the_bound_by_hand() -> None:
    # Means 2 and 12 with a variance of zero for the second: alpha 1 would move by 10, the radius allows sqrt(2).
    found = alpha_order(th.tensor([[1.0], [3.0]]), th.tensor([[12.0], [12.0]]), confidence=0.5)
    assert found.alpha == pytest.approx(math.sqrt(2) / 10)
    assert found.gradient.tolist() == pytest.approx([2 + math.sqrt(2)])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_pathwise_gradient_that_is_not_finite_does_not_count(broken: float) -> None:
    found = alpha_order(th.tensor([[1.0, 0.0], [3.0, 0.0]]), th.tensor([[1.0, broken], [2.0, 1.0]]))
    assert found.alpha == 0
    assert found.gradient.tolist() == [2, 0]


def test_estimators_without_variance_that_agree() -> None:
    found = alpha_order(th.ones(3, 2), th.ones(3, 2))
    assert found.gradient.tolist() == [1, 1]


def test_a_step_does_not_fool_it() -> None:
    """``E 1[theta + 0.5 x > 0]``: the pathwise gradient is zero in every row, the true one the density at ``theta``.

    The least variance alone would be alpha = 1 and a gradient of zero. The bound holds in at least the share of trials
    that it promises, and with more samples the error falls and so does alpha.
    """
    theta, std, trials = 0.3, 0.5, 300
    true = math.exp(-0.5 * (theta / std) ** 2) / (std * math.sqrt(2 * math.pi))
    draws = generator(1)
    errors, alphas = [], []
    for rows in (100, 10_000):
        kept, error, alpha = 0, 0.0, 0.0
        for _ in range(trials):
            noise = th.randn(rows, 1, generator=draws, dtype=th.float64)
            scores = (theta + std * noise > 0) * noise / std
            found = alpha_order(scores, th.zeros_like(scores), confidence=0.9)
            distance = abs(float(found.gradient) - true)
            kept += distance <= 2 * found.radius
            error, alpha = error + distance / trials, alpha + found.alpha / trials
        assert kept >= 0.9 * trials
        errors.append(error)
        alphas.append(alpha)
    assert errors[1] < 0.2 * errors[0]
    assert alphas[1] < 0.2 * alphas[0]
    assert errors[1] < 0.1 * true  # the error of the least variance alone is all of it


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Both must have shape \(N, P\)"):
        alpha_order(th.zeros(3, 2), th.zeros(3, 1))
    with pytest.raises(ValueError, match="at least two gradients"):
        alpha_order(th.zeros(3, 2), th.zeros(1, 2))
    with pytest.raises(ValueError, match="confidence must be below 1"):
        alpha_order(th.zeros(3, 2), th.zeros(3, 2), confidence=1.0)
