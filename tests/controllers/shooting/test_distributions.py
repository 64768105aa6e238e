"""Tests of what cross-entropy methods fit: the spread drawn, the refit, one-hot rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import PlanningProblem
from controllers.plan import WarmStart
from controllers.shooting.distributions import CategoricalSequences, GaussianSequences
from controllers.shooting.random_shooting import uniform_sequences
from mbrl_wrappers.models import FunctionModel
from mbrl_wrappers.spaces import ActionCodec, AnySpace
from tests.controllers.scripted import SCALAR

LOW, HIGH = np.float32([-1.0, 0.0, 3.0, -np.inf, 5.0]), np.float32([3.0, 0.5, 3.0, np.inf, np.inf])
ODD_BOX = spaces.Box(LOW, HIGH)
"""Asymmetric, small, of no width, unbounded, and bounded below."""


def problem_of(space: AnySpace, horizon: int = 4, starts: int = 1) -> PlanningProblem[Any]:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs, obs[:, 0], th.zeros(len(obs), dtype=th.bool)

    return PlanningProblem(FunctionModel(SCALAR, space, step), th.zeros(starts, 1), horizon)


def in_env_units(problem: PlanningProblem[Any], actions: Tensor) -> Tensor:
    """``(..., A)`` in the bounds of the environment, flattened to rows."""
    return ActionCodec(problem.codec.action_space).decode(actions.flatten(0, -2))


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def test_the_middle_is_harmless() -> None:
    problem = problem_of(ODD_BOX)
    assert in_env_units(problem, problem.middle[None]).tolist() == [[1.0, 0.25, 3.0, 0.0, 5.0]]
    assert problem_of(spaces.Discrete(3)).middle.tolist() == [1, 0, 0]
    assert problem_of(spaces.MultiDiscrete([2, 3])).middle.tolist() == [1, 0, 1, 0, 0]


def test_the_spread_drawn_is_the_share_of_the_half_range_that_was_set() -> None:
    problem = problem_of(ODD_BOX, horizon=1)
    normal = GaussianSequences.around(problem, problem.middle.expand(1, 1, 5), 0.1, min_std=0.0)
    drawn = in_env_units(problem, normal.sample(200_000, generator=generator()))
    # Half the range is 2 and 0.25; nothing moves without a width; unbounded ones are in their own units.
    assert drawn[:, :4].std(0) == pytest.approx([0.2, 0.025, 0.0, 0.1], rel=0.01)
    assert drawn[:, :4].mean(0) == pytest.approx([1.0, 0.25, 3.0, 0.0], abs=0.002)
    assert (drawn[:, 4] >= 5).all(), "half of the draws are clipped to the bound, none is below"


def test_draws_stay_inside_the_bounds_however_wide_they_are() -> None:
    problem = problem_of(ODD_BOX)
    wide = GaussianSequences.around(problem, problem.middle.expand(1, 4, 5), 50.0, min_std=0.0)
    for drawn in (wide.sample(1000, generator=generator()), uniform_sequences(problem, 1000, generator=generator())):
        low, high = problem.bounds
        assert (drawn >= low).all()
        assert (drawn <= high).all()
        env = in_env_units(problem, drawn).numpy()
        assert ((env >= LOW) & (env <= HIGH)).all()
        assert np.isfinite(env).all()


def test_uniform_sequences_fill_the_box() -> None:
    problem = problem_of(ODD_BOX, horizon=1)
    drawn = in_env_units(problem, uniform_sequences(problem, 100_000, generator=generator()))
    assert drawn[:, :3].mean(0) == pytest.approx([1.0, 0.25, 3.0], abs=0.02)
    assert drawn[:, :3].std(0) == pytest.approx([4 / np.sqrt(12), 0.5 / np.sqrt(12), 0.0], rel=0.02)
    assert drawn[:, 3].std().item() == pytest.approx(1, rel=0.02)
    assert (drawn[:, 4] > 5).float().mean().item() == pytest.approx(0.5, abs=0.02), (
        "half-bounded: at or above the bound"
    )


def test_a_refit_is_the_weighted_mean_and_deviation() -> None:
    problem = problem_of(spaces.Box(-1, 1, (1,)), horizon=1, starts=3)
    old = GaussianSequences.around(problem, th.zeros(3, 1, 1), 0.4, min_std=0.05)
    elites = th.tensor([[0.2, 0.6, 99.0], [0.1, 0.1, 0.1], [0.5, 0.5, 0.5]])[:, :, None, None]
    weights = th.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    new = old.refit(elites, weights, 0.25)
    assert new.mean.flatten() == pytest.approx([0.75 * 0.4, 0.75 * 0.1, 0.0])
    assert new.std.flatten() == pytest.approx([np.sqrt(0.25 * 0.16 + 0.75 * 0.04), 0.5 * 0.4, 0.4])
    assert old.refit(elites, weights, 0.0).std.flatten() == pytest.approx([0.2, 0.05, 0.4]), "the floor holds"


def test_a_mean_of_bounds_does_not_leave_them() -> None:
    problem = problem_of(spaces.Box(-1, 1, (1,)), horizon=1)
    for count in range(1, 40):
        edge = th.ones(1, count, 1, 1)
        refit = GaussianSequences.around(problem, edge[:, 0], 0.5, 0.0).refit(edge, edge[:, :, 0, 0], 0.1)
        assert refit.mean.item() <= 1


def test_no_width_means_no_spread_whatever_the_floor() -> None:
    problem = problem_of(spaces.Box(np.float32([2.0, -1.0]), np.float32([2.0, 1.0])), horizon=1)
    old = GaussianSequences.around(problem, th.zeros(1, 1, 2), 0.5, min_std=0.05)
    new = old.refit(th.zeros(1, 3, 1, 2), th.ones(1, 3), 0.0)
    assert (old.std.tolist(), new.std.flatten().tolist()) == ([[[0, 0.5]]], [0, pytest.approx(0.05)])


@pytest.mark.parametrize(
    ("space", "groups"), [(spaces.Discrete(3, start=4), (3,)), (spaces.MultiDiscrete([2, 3]), (2, 3))]
)
def test_categories_are_drawn_as_often_as_they_are_likely(space: AnySpace, groups: tuple[int, ...]) -> None:
    problem = problem_of(space, horizon=2, starts=2)
    size = sum(groups)
    known = problem.codec.encode(th.as_tensor(np.array([space.sample() for _ in range(4)]))).view(2, 2, size)
    start = WarmStart(known, th.tensor([True, False]))
    distribution = CategoricalSequences.around(problem, start, smoothing=0.0)
    uniform = th.cat([th.full((n,), 1 / n) for n in groups]).expand(2, size)
    th.testing.assert_close(distribution.probabilities, th.stack([(uniform + known[0]) / 2, uniform]))
    th.testing.assert_close(distribution.mode[0], known[0])
    drawn = distribution.sample(20_000, generator=generator())
    assert drawn.shape == (2, 20_000, 2, size)
    assert all((part.sum(-1) == 1).all() and (part.max(-1).values == 1).all() for part in drawn.split(groups, -1))
    th.testing.assert_close(drawn.mean(1), distribution.probabilities, atol=0.015, rtol=0)


def test_categories_are_refitted_to_smoothed_counts() -> None:
    problem = problem_of(spaces.MultiDiscrete([2, 3]), horizon=1, starts=2)
    nowhere = WarmStart(th.zeros(2, 1, 5), th.zeros(2, dtype=th.bool))
    old = CategoricalSequences.around(problem, nowhere, smoothing=0.5)
    elites = problem.codec.encode(th.tensor([[0, 2], [0, 1], [1, 0]] * 2)).view(2, 3, 1, 5)
    new = old.refit(elites, th.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), 0.5)
    counts = th.tensor([2.5 / 3, 0.5 / 3, 0.5 / 3.5, 1.5 / 3.5, 1.5 / 3.5])
    uniform = th.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])
    th.testing.assert_close(new.probabilities[:, 0], th.stack([(uniform + counts) / 2, uniform]))
