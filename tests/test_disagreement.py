"""Measures of disagreement against hand-computed cases of two members."""

from __future__ import annotations

import math

import pytest
import torch as th

from mbrl_wrappers.disagreement import MemberGaussians, bhattacharyya, fuse, information_loss, mixture_std


def two(means: tuple[float, float], variances: tuple[float, float]) -> MemberGaussians:
    """Two members, one row, one dimension."""
    return MemberGaussians(
        th.tensor(means, dtype=th.float64).view(2, 1, 1), th.tensor(variances, dtype=th.float64).view(2, 1, 1)
    )


def test_bhattacharyya_by_hand() -> None:
    # (1 - 3)^2 / (4 (1 + 4)) + 1/2 ln(5 / (2 * 2)) = 0.2 + 0.5 ln 1.25
    assert float(bhattacharyya(two((1, 3), (1, 4)))) == pytest.approx(0.2 + 0.5 * math.log(1.25))
    assert float(bhattacharyya(two((2, 2), (3, 3)))) == 0


def test_bhattacharyya_is_the_overlap_of_the_densities() -> None:
    """The distance is -ln of the integral of sqrt(p q), taken here on a grid."""
    members = two((0.3, -0.4), (0.5, 1.7))
    x = th.linspace(-15, 15, 200_001, dtype=th.float64)
    mean, variance = (column.view(2, 1) for column in members)
    density = th.exp(-((x - mean) ** 2) / (2 * variance)) / (2 * math.pi * variance).sqrt()
    overlap = th.trapezoid(density.prod(0).sqrt(), x)
    assert float(bhattacharyya(members)) == pytest.approx(-math.log(float(overlap)), rel=1e-6)


def test_bhattacharyya_adds_dimensions_and_averages_pairs() -> None:
    generator = th.Generator().manual_seed(0)
    members = MemberGaussians(
        th.randn(4, 5, 3, generator=generator, dtype=th.float64),
        th.rand(4, 5, 3, generator=generator, dtype=th.float64) + 0.1,
    )
    slow = th.zeros(5, dtype=th.float64)
    for first in range(4):
        for second in range(first):
            for dimension in range(3):
                pair = MemberGaussians(*(c[[first, second], :, dimension : dimension + 1] for c in members))
                slow += bhattacharyya(pair) / 6
    th.testing.assert_close(bhattacharyya(members), slow)
    scaled = MemberGaussians(members.mean * 7, members.variance * 49)
    th.testing.assert_close(bhattacharyya(scaled), bhattacharyya(members))


def test_a_single_member_agrees_with_itself() -> None:
    one = MemberGaussians(th.randn(1, 4, 2), th.ones(1, 4, 2))
    assert bhattacharyya(one).tolist() == [0] * 4
    assert fuse(one).gain.eq(1).all()


def test_fusing_two_members_by_hand() -> None:
    # precisions 1 and 1/4: v_f = 1 / mean = 1 / 0.625 = 1.6; mu_f = 1.6 * (1 * 1 + 3 / 4) / 2 = 1.4
    # error = ((1 - 1.4)^2 + (3 - 1.4)^2) / 2 = 1.36; K = 1.6 / 2.96
    fused = fuse(two((1, 3), (1, 4)))
    assert float(fused.variance) == pytest.approx(1.6)
    assert float(fused.mean) == pytest.approx(1.4)
    assert float(fused.gain) == pytest.approx(1.6 / 2.96)
    # (1 - K) v_f = 1.36 / 2.96 * 1.6
    bits = 0.5 * math.log2(2 * math.pi * math.e * 1.36 / 2.96 * 1.6) + 6 * math.log2(10)
    assert float(information_loss(fused)) == pytest.approx(bits)


def test_members_that_agree_lose_no_information() -> None:
    assert information_loss(fuse(two((1, 1), (2, 2)))).tolist() == [[0]]


def test_the_mixture_has_noise_and_disagreement() -> None:
    # mean variance 2.5, variance of the means 1
    assert float(mixture_std(two((1, 3), (1, 4)))) == pytest.approx(math.sqrt(3.5))
    assert mixture_std(MemberGaussians(th.zeros(2, 3, 0), th.zeros(2, 3, 0))).tolist() == [0] * 3
