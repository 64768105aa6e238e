"""Tests of random shooting: the best of what was drawn, nothing learned."""

from __future__ import annotations

import torch as th

from controllers import RandomShooting
from tests.controllers.linear import linear_problem
from tests.controllers.recording import RecordingProblem


def test_the_best_of_all_batches_is_returned() -> None:
    problem = RecordingProblem.of(linear_problem(5, bound=2.0))
    plan = RandomShooting(population=50, iterations=3).plan(problem, generator=th.Generator().manual_seed(0))
    scores, candidates = th.cat(problem.scores, 1)[0], th.cat(problem.candidates, 1)[0]
    assert len(scores) == 150
    assert plan.value.item() == scores.max().item()
    assert plan.actions[0].equal(candidates[scores.argmax()])
    assert plan.next_start.actions.equal(plan.actions)
    assert plan.report.model_calls == 150 * 5


def test_batches_do_not_learn_from_each_other() -> None:
    problem = RecordingProblem.of(linear_problem(5, bound=2.0))
    RandomShooting(population=5000, iterations=2).plan(problem, generator=th.Generator().manual_seed(0))
    for batch in problem.candidates:
        th.testing.assert_close(batch.mean(), th.tensor(0.0), atol=0.02, rtol=0)
        th.testing.assert_close(batch.var(), th.tensor(1 / 3), atol=0.02, rtol=0)


def test_the_warm_start_is_the_first_candidate() -> None:
    problem = RecordingProblem.of(linear_problem(5, bound=2.0))
    warm = th.full((1, 5, 1), 0.5)
    plan = RandomShooting(population=3).plan(problem, warm, generator=th.Generator().manual_seed(0))
    assert problem.candidates[0][:, 0].equal(warm)
    assert plan.report.warm_start_value.item() == problem.scores[0][0, 0].item()
