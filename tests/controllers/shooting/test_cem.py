"""Tests of the cross-entropy method: each refit by hand, what the last iteration holds, discrete optima."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import CEM, PlanningProblem, RandomShooting
from mbrl_wrappers.models import FunctionModel
from mbrl_wrappers.spaces import AnySpace
from tests.controllers.linear import linear_problem
from tests.controllers.recording import RecordingProblem
from tests.controllers.scripted import SCALAR
from tests.oracle import DiscreteOracleEnv, oracle_model


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def test_each_iteration_refits_to_the_elites_of_the_last() -> None:
    problem = RecordingProblem.of(linear_problem(4))
    planner = CEM(population=50, iterations=3, elite_ratio=0.2, momentum=0.3, min_std=0.01, returns="best")
    plan = planner.plan(problem, generator=generator())
    mean, std = np.zeros((4, 1)), np.full((4, 1), 0.5)
    assert problem.candidates[0][0, 0].tolist() == mean.tolist(), "the middle comes first"
    for candidates, scores in zip(problem.candidates, problem.scores, strict=True):
        elites = candidates[0][scores[0].argsort(descending=True)[:10]].numpy()
        final_mean = mean
        mean = 0.3 * mean + 0.7 * elites.mean(0)
        std = np.maximum(np.sqrt(0.3 * std**2 + 0.7 * elites.var(0)), 0.01)
    np.testing.assert_allclose(plan.next_start.actions[0], mean, atol=1e-6)
    np.testing.assert_allclose(problem.candidates[2][0, 0], final_mean, atol=1e-6)
    assert plan.candidates.equal(problem.candidates[2])
    assert plan.scores.equal(problem.scores[2])
    assert plan.report.effective_sample_size.tolist() == [10]
    assert (plan.report.model_calls, plan.report.iterations, plan.report.num_invalid) == (3 * 50 * 4, 3, 0)


def test_the_distribution_narrows_to_its_elites() -> None:
    problem = RecordingProblem.of(linear_problem(4))
    CEM(population=2000, iterations=2, elite_ratio=0.05, momentum=0.0, min_std=0.0).plan(problem, generator=generator())
    first, second = problem.candidates[:2]
    elites = first[0, problem.scores[0][0].topk(100).indices]
    np.testing.assert_allclose(second[0, 1:].std(0), elites.std(0), rtol=0.1)
    np.testing.assert_allclose(first[0, 1:].std(0), 0.5, rtol=0.1)


def test_the_best_is_the_best_of_all_iterations() -> None:
    problem = RecordingProblem.of(linear_problem(4))
    plan = CEM(population=30, iterations=4).plan(problem, generator=generator(1))
    best = max(float(scores.max()) for scores in problem.scores)
    assert plan.value.item() == best == plan.report.best_value.item()
    assert problem.score(plan.actions[:, None]).item() == best


@pytest.mark.parametrize(("exact", "returned"), [(True, "best"), (False, "mean")])
def test_an_exact_model_gets_its_best_and_a_learned_one_the_mean(exact: bool, returned: str) -> None:
    problem = linear_problem(4)
    problem.model.exact = exact  # type: ignore[attr-defined]
    planner = CEM(population=30, iterations=3)
    plan = planner.plan(problem, generator=generator())
    same = CEM(population=30, iterations=3, returns=returned).plan(problem, generator=generator())  # type: ignore[arg-type]
    assert plan.actions.equal(same.actions)
    if not exact:
        assert plan.actions.equal(plan.next_start.actions)
        assert plan.value.equal(problem.score(plan.actions[:, None])[:, 0])


def rosenbrock_problem() -> PlanningProblem[Any]:
    """One step, two actions in [-2, 2]; the optimum 0 is at (1, 1)."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y = action.unbind(1)
        return obs, -((1 - x).square() + 100 * (y - x.square()).square()), th.zeros(len(obs), dtype=th.bool)

    return PlanningProblem(FunctionModel(SCALAR, spaces.Box(-2, 2, (2,)), step), th.zeros(20, 1), 1)


def test_rosenbrocks_valley_is_followed_to_its_end() -> None:
    # Twenty problems of one batch are twenty independent searches. Ten elites are few: from half the range, which is
    # what mbrl-lib starts with, one search in ten narrows too early; from the whole range none does.
    numbers: Any = dict(population=1000, iterations=5, elite_ratio=0.01, momentum=0.1, min_std=0.0)
    plan = CEM(**numbers, init_std=1.0).plan(rosenbrock_problem(), generator=generator())
    assert plan.value.min() > -1e-3
    assert len(plan.value.unique()) == 20
    th.testing.assert_close(2 * plan.actions[:, 0], th.ones(20, 2), atol=0.06, rtol=0)
    half = CEM(**numbers).plan(rosenbrock_problem(), generator=generator())
    assert half.value.median() > -2e-4
    assert (half.value > -1e-3).sum() >= 16


@pytest.mark.parametrize("start", [0, 7])
def test_the_best_of_all_discrete_sequences_is_found(start: int) -> None:
    env = DiscreteOracleEnv(start=start)
    problem = PlanningProblem(oracle_model(env), th.tensor([[0.4, -0.3, 0.2], [-0.5, 0.5, 0.0]]), 5)
    every = th.tensor(list(itertools.product(range(3), repeat=5)))
    sequences = th.nn.functional.one_hot(every, 3).float()
    scores = problem.score(sequences.expand(2, -1, -1, -1))
    for planner in (CEM(population=100, iterations=8), RandomShooting(population=3000)):
        plan = planner.plan(problem, generator=generator())
        assert plan.actions.equal(sequences[scores.argmax(1)])
        th.testing.assert_close(plan.value, scores.amax(1))


def multidiscrete_problem(space: AnySpace, weights: Tensor) -> PlanningProblem[Any]:
    """The reward of a step is the number of digits of ``space`` that hit, each weighted."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time = obs[:, 0].long()
        return obs + 1, (action == weights[time]).float() @ th.tensor([1.0, 2.0, 4.0]), obs[:, 0] > 90

    return PlanningProblem(FunctionModel(SCALAR, space, step), th.zeros(1, 1), len(weights))


def test_the_only_multidiscrete_optimum_is_found() -> None:
    space = spaces.MultiDiscrete([3, 2, 4], start=[1, 0, -2])
    wanted = th.tensor([[1, 1, -2], [3, 0, 1], [2, 1, 0], [3, 0, -1]])
    problem = multidiscrete_problem(space, wanted)
    plan = CEM(population=200, iterations=10).plan(problem, generator=generator())
    assert plan.value.item() == 4 * 7
    assert problem.codec.decode(plan.actions[0]).tolist() == wanted.tolist()
    drawn = RandomShooting(population=500).plan(problem, generator=generator())
    assert drawn.value.item() >= 4 * 7 / 2
    assert (drawn.candidates.view(500, 4, 9).sum(-1) == 3).all()


def test_a_discrete_plan_starts_the_next_one() -> None:
    problem = RecordingProblem.of(multidiscrete_problem(spaces.MultiDiscrete([2, 2, 2]), th.zeros(3, 3).long()))
    planner = CEM(population=20, iterations=2)
    plan = planner.plan(problem, generator=generator())
    shifted = plan.next_start.shifted(1, problem)
    assert shifted.actions[0, :2].equal(plan.next_start.actions[0, 1:])
    assert shifted.actions[0, 2].equal(shifted.actions[0, 1]), "one-hot rows are filled up with the last one"
    planner.plan(problem, shifted, generator=generator(1))
    assert problem.candidates[2][0, 0].equal(shifted.actions[0])


@pytest.mark.parametrize(
    "numbers",
    [
        {"population": 0},
        {"iterations": 0},
        {"elite_ratio": 1.5},
        {"momentum": -0.1},
        {"init_std": -1.0},
        {"min_std": math.nan},
        {"smoothing": -1.0},
        {"returns": "worst"},
    ],
)
def test_impossible_numbers_are_refused(numbers: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        CEM(**numbers)
