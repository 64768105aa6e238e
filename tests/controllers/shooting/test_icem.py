"""Tests of iCEM: what it scores in each iteration, and what it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from torch import Tensor

from controllers import ICEM
from controllers.shooting.noise import coloured_noise
from tests.controllers.linear import linear_problem
from tests.controllers.recording import RecordingProblem


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def contains(candidates: Tensor, sequence: Tensor) -> bool:
    """Whether ``sequence (H, A)`` is among ``candidates (P, H, A)``."""
    return bool((candidates == sequence).all(2).all(1).any())


@pytest.mark.parametrize(
    ("planner", "sizes"),
    [
        (ICEM(), [40, 32, 26]),
        (ICEM(population=40, iterations=6), [40, 32, 26, 20, 20, 20]),
        (ICEM(population=15, iterations=2, num_elites=10), [15, 15]),
        (ICEM(population=100, iterations=3, decay=1.0), [100, 100, 100]),
        (ICEM(population=1, iterations=2), [1, 1]),
    ],
)
def test_the_population_shrinks_and_is_all_that_a_plan_costs(planner: ICEM, sizes: list[int]) -> None:
    problem = RecordingProblem.of(linear_problem(5, particles=2))
    plan = planner.plan(problem, generator=generator())
    assert [batch.shape[1] for batch in problem.candidates] == sizes
    assert plan.report.model_calls == sum(sizes) * 5 * 2


def test_elites_reenter_and_the_last_iteration_holds_the_mean() -> None:
    problem = RecordingProblem.of(linear_problem(5))
    planner = ICEM(iterations=4, momentum=0.2)
    plan = planner.plan(problem, generator=generator())
    mean = np.zeros((5, 1))
    for i in range(3):
        best = problem.scores[i][0].argsort(descending=True)
        for place in best[:3]:
            assert contains(problem.candidates[i + 1][0], problem.candidates[i][0, place])
        assert not contains(problem.candidates[i + 1][0], problem.candidates[i][0, best[5]])
        mean = 0.2 * mean + 0.8 * problem.candidates[i][0, best[:10]].mean(0).numpy()
    np.testing.assert_allclose(problem.candidates[3][0, -1], mean, atol=1e-6)
    assert not contains(problem.candidates[2][0], problem.candidates[3][0, -1])
    values = [float(scores.max()) for scores in problem.scores]
    assert values == sorted(values), "the best never gets lost in a deterministic model"
    assert plan.value.item() == values[-1]


def test_elites_are_kept_for_the_next_plan_and_shifted() -> None:
    problem = RecordingProblem.of(linear_problem(5))
    planner = ICEM()
    plan = planner.plan(problem, generator=generator())
    top = problem.candidates[-1][0, problem.scores[-1][0].argsort(descending=True)[:3]]
    assert plan.next_start.elites is not None
    assert plan.next_start.elites[0].equal(top)
    shifted = plan.next_start.shifted(2, problem)
    planner.plan(problem, shifted, generator=generator(1))
    seen = problem.candidates[3][0]
    assert seen[0].equal(shifted.actions[0])
    for kept, elite in zip(seen[1:4], top, strict=True):
        assert kept[:3].equal(elite[2:])
        assert (kept[3:] == 0).all(), "filled up with the middle"
    assert not contains(seen[4:], seen[1])


def test_nothing_is_kept_when_nothing_shall_be() -> None:
    problem = RecordingProblem.of(linear_problem(5))
    plan = ICEM(keep_ratio=0.0).plan(problem, generator=generator())
    best = problem.candidates[0][0, problem.scores[0][0].argmax()]
    assert not contains(problem.candidates[1][0], best)
    assert plan.next_start.elites is not None
    assert plan.next_start.elites.equal(plan.actions[:, None]), "but the best is"


def test_candidates_are_coloured_noise_around_the_mean() -> None:
    problem = RecordingProblem.of(linear_problem(5))
    ICEM(init_std=0.3, noise_exponent=2.0).plan(problem, generator=generator(4))
    noise = coloured_noise((1, 40, 5, 1), 2.0, generator=generator(4))
    th.testing.assert_close(problem.candidates[0][:, 1:], 0.3 * noise[:, 1:])


@pytest.mark.parametrize(
    "numbers",
    [{"num_elites": 0}, {"decay": 0.5}, {"keep_ratio": 2.0}, {"noise_exponent": -1.0}, {"momentum": 2.0}],
)
def test_impossible_numbers_are_refused(numbers: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        ICEM(**numbers)
