"""Shortcuts: shorter, valid, with the same ends."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch as th

from controllers import MotionProblem, RRTConnect, shortcut
from controllers.motion.path import path_length, path_valid
from tests.controllers.motion.disc import SHORTEST, disc_problem, finely_free

ROUND = np.array([[0, 0], [0, 0.5], [0, 1], [0.5, 1], [1, 1.0]])


def seeded(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_shortcut_is_shorter_valid_and_keeps_its_ends(seed: int) -> None:
    problem = disc_problem()
    plan = RRTConnect().plan(problem, generator=seeded(seed))
    path = shortcut(problem, plan.path, generator=seeded(seed))
    assert path[[0, -1]].tolist() == [[0, 0], [1, 1]]
    assert finely_free(path)
    assert path_valid(problem, path)
    assert SHORTEST <= path_length(problem, path) <= min(1.02 * SHORTEST, plan.cost)


def test_more_attempts_never_make_it_longer() -> None:
    lengths = [path_length(disc_problem(), shortcut(disc_problem(), ROUND, n, generator=seeded())) for n in range(20)]
    assert lengths[0] == 2
    assert all(later <= earlier for earlier, later in pairwise(lengths))


def test_a_path_without_a_shorter_one_stays() -> None:
    straight = np.array([[0, 0], [0.1, 0.1], [0.2, 0.2]])
    assert path_length(disc_problem(), shortcut(disc_problem(), straight, generator=seeded())) == pytest.approx(
        path_length(disc_problem(), straight)
    )
    still = np.zeros((2, 2))
    np.testing.assert_array_equal(shortcut(disc_problem(), still, generator=seeded()), still)
    np.testing.assert_array_equal(shortcut(disc_problem(), still[:1], generator=seeded()), still[:1])


def test_something_thin_is_not_cut_through() -> None:
    def valid(points: np.ndarray) -> np.ndarray:
        return (np.abs(points[:, 0] - 0.5) > 0.0003) | (points[:, 1] > 0.9)

    problem = MotionProblem([0, 0], [1, 1], [0, 0], [1, 0], valid)
    path = shortcut(problem, np.array([[0, 0], [0.5, 1], [1, 0.0]]), generator=seeded())
    assert path_length(problem, path) < 2.1  # it was 2.24, and 2.06 is shortest
    share = np.linspace(0, 1, 20_000)[:, None]
    assert all(valid(a + share * (b - a)).all() for a, b in pairwise(path))


def test_lengths_are_those_of_the_metric() -> None:
    assert path_length(disc_problem(weights=[3, 4]), np.array([[0, 0], [1, 0], [1, 1.0]])) == 7


def test_a_path_through_the_disc_is_not_valid() -> None:
    assert not path_valid(disc_problem(), np.array([[0, 0], [1, 1.0]]))
    assert path_valid(disc_problem(), ROUND)
