"""Tests of what a candidate scores: discount, terminations, failures, particles and the ways of rolling a model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from controllers import CEM, ICEM, ILQR, LQR, MCTS, MPPI, GradientShooting, PlanningProblem, Proposals, RandomShooting
from mbrl_wrappers.models import EnsembleDynamics, FunctionModel
from mbrl_wrappers.types import Prediction
from tests.controllers.linear import cost_of, linear_model, linear_problem, optimal_actions, optimal_cost
from tests.controllers.scripted import (
    SCALAR,
    Members,
    Particle,
    ScriptedBreaks,
    SequenceMembers,
    scripted_problem,
)


def candidate(*steps: tuple[float, float, float]) -> Tensor:
    """One candidate ``(1, 1, H, 3)`` of :func:`scripted_problem`."""
    return th.tensor(steps, dtype=th.float32)[None, None]


def test_the_return_is_the_discounted_sum() -> None:
    problem = scripted_problem(3, discount=0.5)
    assert problem.score(candidate((1, 0, 0), (10, 0, 0), (100, 0, 0))).tolist() == [[1 + 5 + 25]]


def test_nothing_counts_after_a_termination_but_its_own_reward_does() -> None:
    problem = scripted_problem(4, discount=0.5, terminal_reward=-8.0)
    score = problem.score(candidate((1, 0, 0), (10, 1, 0), (1000, 1, 0), (1000, 0, 0)))
    assert score.item() == 1 + 0.5 * (10 - 8)
    # Ending at the very last step ends too; not ending brings no terminal reward.
    assert problem.score(candidate((1, 0, 0), (0, 0, 0), (0, 0, 0), (4, 1, 0))).item() == 1 + 0.125 * (4 - 8)
    assert problem.score(candidate((1, 0, 0), (0, 0, 0), (0, 0, 0), (4, 0, 0))).item() == 1.5


def test_the_terminal_value_is_asked_of_living_rows_alone() -> None:
    asked: list[Tensor] = []

    def value(obs: Tensor) -> Tensor:
        asked.append(obs)
        return 100 * obs[:, 0]

    problem = scripted_problem(2, discount=0.5, terminal_value=value)
    ends, lives, ends_last = (
        candidate((1, 1, 3), (5, 0, 4)),
        candidate((1, 0, 3), (2, 0, 4)),
        candidate((1, 0, 3), (2, 1, 4)),
    )
    scores = problem.score(th.cat([ends, lives, ends_last], 1))
    assert scores.tolist() == [[1, 1 + 1 + 0.25 * 400, 2]]
    assert [obs.tolist() for obs in asked] == [[[4]]]
    problem.score(ends)
    assert len(asked) == 1, "nobody lives, nobody is asked"


def test_the_discount_may_be_zero() -> None:
    problem = scripted_problem(2, discount=0.0, terminal_value=lambda obs: obs[:, 0])
    assert problem.score(candidate((3, 0, 1), (5, 0, 1))).item() == 3


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_prediction_that_is_not_finite_ranks_last_and_never_as_zero(kind: int) -> None:
    problem = PlanningProblem(ScriptedBreaks(), th.zeros(1, 1), 3)
    broken = candidate((-5, 0, 0), (-5, 0, kind), (-5, 0, 0))
    fine = candidate((-5, 0, 0), (-5, 0, 0), (-5, 0, 0))
    assert problem.score(th.cat([broken, fine], 1)).tolist() == [[-math.inf, -15]]
    # On the step that terminates it still counts, later it does not.
    on_it, after_it = candidate((1, 0, 0), (1, 1, kind), (1, 0, 0)), candidate((1, 0, 0), (1, 1, 0), (1, 0, kind))
    assert problem.score(th.cat([on_it, after_it], 1)).tolist() == [[-math.inf, 2]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_action_that_is_not_finite_fails_and_no_model_sees_it(bad: float) -> None:
    seen: list[Tensor] = []

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(action)
        return obs, action.sum(1), th.zeros(len(obs), dtype=th.bool)

    problem = PlanningProblem(FunctionModel(SCALAR, SCALAR, step), th.zeros(1, 1), 2)
    actions = th.tensor([[[[1.0], [bad]], [[1.0], [2.0]]]])
    assert problem.score(actions).tolist() == [[-math.inf, 3]]
    assert th.cat(seen).isfinite().all()


def test_a_terminal_value_that_is_not_finite_ranks_last() -> None:
    for bad in (math.nan, math.inf):
        problem = scripted_problem(1, terminal_value=lambda obs, bad=bad: th.where(obs[:, 0] > 1, bad, 0.0))
        scores = problem.score(th.cat([candidate((1, 0, 0)), candidate((1, 0, 2)), candidate((1, 1, 2))], 1))
        assert scores.tolist() == [[1, -math.inf, 1]]


def test_sums_that_overflow_rank_last() -> None:
    assert scripted_problem(2).score(candidate((3e38, 0, 0), (3e38, 0, 0))).item() == -math.inf


def slow_score(steps: list[list[float]], discount: float, terminal_reward: float, bonus: float) -> float:
    """The formula of the docstring, one candidate of :class:`ScriptedBreaks`."""
    total, obs = 0.0, 0
    for t, (reward, ends, breaks) in enumerate(steps):
        if breaks != 0:
            return -math.inf
        obs += 1
        total += discount**t * (reward + terminal_reward * (ends > 0.5))
        if ends > 0.5:
            return total
    return total + discount ** len(steps) * bonus * obs


entries = st.tuples(st.integers(-9, 9), st.sampled_from([0, 0, 0, 1]), st.sampled_from([0] * 9 + [1, 2, 3, 4]))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda horizon: st.lists(st.lists(entries, min_size=horizon, max_size=horizon), min_size=2, max_size=6)
    ),
    st.sampled_from([0.0, 0.5, 0.97, 1.0]),
    st.sampled_from([0.0, -3.0]),
)
def test_scores_follow_the_formula(plans: list[Any], discount: float, terminal_reward: float) -> None:
    problem = PlanningProblem(
        ScriptedBreaks(),
        th.zeros(2, 1),
        len(plans[0]),
        discount=discount,
        terminal_reward=terminal_reward,
        terminal_value=lambda obs: 2 * obs[:, 0],
    )
    half = len(plans) // 2
    actions = th.tensor(plans[: 2 * half], dtype=th.float32).view(2, half, len(plans[0]), 3)
    wanted = [[slow_score(plans[n * half + p], discount, terminal_reward, 2.0) for p in range(half)] for n in range(2)]
    np.testing.assert_allclose(problem.score(actions).numpy(), wanted, rtol=1e-5, atol=1e-5)


# --- ways of rolling --------------------------------------------------------------------------------------------------


def test_rolling_sequences_scores_like_stepping() -> None:
    actions = th.randn(2, 5, 4, 1, generator=th.Generator().manual_seed(0))
    options: Any = dict(discount=0.9, particles=2, terminal_value=lambda obs: obs[:, 0])
    stepped = PlanningProblem(Members(0.5, 1.5, noise=0.1), th.ones(2, 1), 4, **options)
    rolled = PlanningProblem(SequenceMembers(0.5, 1.5, noise=0.1), th.ones(2, 1), 4, **options)
    th.testing.assert_close(rolled.score(actions), stepped.score(actions), rtol=0, atol=0)


def test_a_state_can_be_the_start() -> None:
    state = Particle(th.tensor([[1.0], [2.0]]), th.tensor([1, 0]))
    problem = PlanningProblem(Members(0.5, 3.0), state, 1, particles=2)
    assert (problem.num_problems, problem.sequence_shape) == (2, (1, 1))
    assert problem.score(th.zeros(2, 2, 1, 1)).tolist() == [[3, 3], [1, 1]]


def test_scores_are_those_of_the_linear_system() -> None:
    rng = np.random.default_rng(0)
    plans = rng.normal(size=(6, 10, 1))
    scores = linear_problem(10).score(th.tensor(plans, dtype=th.float32)[None])
    np.testing.assert_allclose(-scores[0].numpy(), [cost_of(plan) for plan in plans], rtol=1e-5)
    best = linear_problem(10).score(th.tensor(optimal_actions(10), dtype=th.float32)[None, None])
    assert -best.item() == pytest.approx(optimal_cost(10), rel=1e-6)
    assert optimal_cost(10) == pytest.approx(9.077323, abs=1e-6)


def test_gradients_flow_through_scores_and_stop_at_failures() -> None:
    actions = th.tensor(optimal_actions(10), dtype=th.float32)[None, None].requires_grad_()
    (gradient,) = th.autograd.grad(linear_problem(10).score(actions).sum(), actions)
    assert gradient.abs().max() < 1e-5
    off = (actions.detach() + 1).requires_grad_()
    linear_problem(10).score(off).sum().backward()
    step = 1e-3 * th.eye(10)[None, :, :, None]
    score = lambda a: linear_problem(10).score(a.double().expand(-1, 10, -1, -1) + step)  # noqa: E731
    down = linear_problem(10).score(off.detach().double() - step)
    th.testing.assert_close(off.grad[0, 0, :, 0].double(), (score(off.detach()) - down)[0] / 2e-3, rtol=1e-4, atol=1e-4)  # type: ignore[index]


def test_the_precision_is_the_higher_of_starts_and_actions() -> None:
    exact = PlanningProblem(linear_model(), th.tensor([[1.0, 0.0]], dtype=th.float64), 10)
    plan = th.tensor(optimal_actions(10))[None, None]
    assert -exact.score(plan).item() == pytest.approx(optimal_cost(10), abs=1e-12)
    assert exact.score(plan.float()).dtype == th.float64
    assert linear_problem(10).score(plan).dtype == th.float64


FLOAT64_PLANNERS = [
    CEM(population=6, iterations=2),
    ICEM(population=6, iterations=2),
    MPPI(population=6),
    RandomShooting(population=6),
    GradientShooting(population=2, iterations=2),
    ILQR(iterations=2),
    LQR(),
]


@pytest.mark.parametrize("planner", FLOAT64_PLANNERS, ids=lambda planner: type(planner).__name__)
@pytest.mark.parametrize("dtype", [th.float64, th.float16, th.int64])
@pytest.mark.parametrize("propagation", ["mean", "tsinf"])
def test_starts_of_any_precision_are_cast_to_that_of_the_model(planner: Any, dtype: Any, propagation: Any) -> None:
    obs, act = spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,))
    model = EnsembleDynamics(obs, act, hidden=(8,), propagation=propagation, device="cpu")
    start, generator = th.tensor([[1, -2]]), lambda: th.Generator().manual_seed(0)
    wanted = planner.plan(PlanningProblem(model, start.float(), 3), generator=generator())
    plan = planner.plan(PlanningProblem(model, start.to(dtype), 3), generator=generator())
    assert plan.actions.equal(wanted.actions)
    assert plan.value.equal(wanted.value)


@pytest.mark.parametrize("dtype", [th.float64, th.float16, th.int64])
def test_a_tree_search_takes_starts_of_any_precision(dtype: Any) -> None:
    model = EnsembleDynamics(spaces.Box(-9, 9, (2,)), spaces.Discrete(2), hidden=(8,), device="cpu")
    problem = PlanningProblem(model, th.tensor([[1, -2]]).to(dtype), 3)
    assert MCTS(simulations=5).plan(problem, generator=th.Generator().manual_seed(0)).value.isfinite().all()


def test_policies_propose_from_starts_in_float64() -> None:
    model = EnsembleDynamics(spaces.Box(-9, 9, (2,)), spaces.Box(-1, 1, (1,)), hidden=(8,), device="cpu")
    problem = PlanningProblem(model, th.zeros(1, 2, dtype=th.float64), 3)
    policy: Any = lambda obs, generator: obs[:, :1]  # noqa: E731
    assert Proposals(policy, 2).draw(problem, generator=th.Generator().manual_seed(0)).shape == (1, 2, 3, 1)


# --- borders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 3, 1), (2, 4, 2, 1), (1, 4, 2, 2), (4, 2, 1)])
def test_actions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, P, 2, 1\)"):
        PlanningProblem(Members(1.0), th.zeros(1, 1), 2).score(th.zeros(shape))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (th.zeros(1, 3), "another environment"),
        (th.zeros(2), "another environment"),
        (th.zeros(0, 2), "shape"),
        (th.tensor([[0.0, math.nan]]), "finite"),
        (th.tensor([[math.inf, 0.0]]), "finite"),
    ],
)
def test_starts_that_are_not_the_models_are_refused(start: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlanningProblem(linear_model(), start, 2)


@pytest.mark.parametrize(
    "options",
    [{"horizon": 0}, {"discount": 1.1}, {"discount": -0.1}, {"particles": 0}, {"terminal_reward": math.nan}],
)
def test_impossible_numbers_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PlanningProblem(linear_model(), th.zeros(1, 2), **{"horizon": 3, **options})


def test_an_action_space_that_cannot_be_planned_in_is_refused() -> None:
    model = Members(1.0)
    model.action_space = spaces.MultiBinary(3)  # type: ignore[assignment]
    with pytest.raises(TypeError, match="MultiBinary"):
        PlanningProblem(model, th.zeros(1, 1), 2)


class _Columns(Members):
    def step(self, state: Particle, action: Tensor, **rest: Any) -> Any:
        state, prediction = super().step(state, action, **rest)
        return state, prediction._replace(reward=prediction.reward[:, None])


class _ShortSequences(SequenceMembers):
    def rollout(self, state: Particle, actions: Tensor, **rest: Any) -> Prediction:
        return super().rollout(state, actions[:, 1:], **rest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": _Columns(1.0)}, "must predict"),
        ({"model": _ShortSequences(1.0)}, "must predict"),
        ({"terminal_value": lambda obs: obs}, "terminal_value must return"),
        ({"risk": lambda returns: returns}, "risk must reduce"),
    ],
)
def test_functions_that_return_other_shapes_are_refused(options: Any, message: str) -> None:
    options = {"model": Members(1.0), **options}
    with pytest.raises(ValueError, match=message):
        PlanningProblem(options.pop("model"), th.zeros(1, 1), 2, **options).score(th.zeros(1, 4, 2, 1))
