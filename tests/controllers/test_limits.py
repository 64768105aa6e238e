"""Tests of limits: no planner relies on a prediction outside of what the model was fitted to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import (
    CEM,
    ICEM,
    ILQR,
    LQR,
    MCTS,
    MPPI,
    GradientShooting,
    MPCPolicy,
    PlanningProblem,
    Proposals,
    RandomShooting,
    Rollouts,
)
from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.models import FunctionModel
from mbrl_wrappers.types import Limits
from tests.controllers.scripted import SCALAR, scripted_model

EDGE = 1.0


def limits(obs: float = EDGE, reward: float = 1e6) -> Limits:
    return Limits(th.tensor([-obs]), th.tensor([obs]), th.tensor(-reward), th.tensor(reward))


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def line(space: Any = None, limited: Limits | None = None) -> Any:
    """``x' = x + a / 2`` for a Box, ``x' = x + (a - 1) / 2`` for a Discrete space; the reward is ``x'``."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        push = action if action.ndim == 2 else action[:, None].to(obs) - 1
        following = obs + 0.5 * push
        return following, following[:, 0], th.zeros(len(obs), dtype=th.bool)

    model: Any = FunctionModel(SCALAR, space or spaces.Box(-1, 1, (1,), np.float32), step)
    model.limits = limited or limits()
    return model


def visited(problem: PlanningProblem[Any], actions: Tensor) -> Tensor:
    """Observations ``(N, H)`` after each action of plans ``(N, H, A)``."""
    state = problem.model.reset(problem.start, generator=generator())
    seen = []
    for t in range(actions.shape[1]):
        state, prediction = problem.model.step(state, actions[:, t], generator=generator())
        seen.append(prediction.next_obs[:, 0])
    return th.stack(seen, 1)


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 3])
def test_a_candidate_that_leaves_the_limits_fails(particles: int) -> None:
    problem = PlanningProblem(line(), th.zeros(1, 1), 3, particles=particles)
    inside, on_the_edge, outside, comes_back = (
        th.tensor(plan)[:, None] for plan in ([1.0, 0, 0], [1.0, 1, 0], [1.0, 1, 0.01], [1.0, 1, 0.01])
    )
    comes_back = th.cat([th.tensor([[1.0], [1.0], [1.0]])[:2], th.tensor([[-1.0]])])
    scores = problem.score(th.stack([inside, on_the_edge, outside, comes_back])[None])
    assert scores.tolist() == [[1.5, 2.5, -math.inf, 0.5 + 1 + 0.5]]
    beyond = PlanningProblem(line(), th.zeros(1, 1), 4, particles=particles)
    assert beyond.score(th.tensor([1.0, 1, 1, -1])[None, None, :, None]).item() == -math.inf


def test_limits_of_the_reward_count_and_a_number_on_them_is_inside() -> None:
    problem = PlanningProblem(line(limited=limits(9, reward=0.25)), th.zeros(1, 1), 1)
    scores = problem.score(th.tensor([[[[0.5]], [[0.5 + 1e-6]], [[-0.5]], [[-1.0]]]]))
    assert scores.tolist() == [[0.25, -math.inf, -0.25, -math.inf]]


def test_what_follows_a_termination_may_lie_anywhere() -> None:
    model: Any = scripted_model()
    model.limits = limits(5)
    problem = PlanningProblem(model, th.zeros(1, 1), 2)
    ends, goes_on, ends_outside = [[1, 1, 0], [1, 0, 9]], [[1, 0, 0], [1, 0, 9]], [[1, 1, 9], [1, 0, 0]]
    actions = th.tensor([[ends, goes_on, ends_outside]], dtype=th.float32)
    assert problem.score(actions).tolist() == [[1, -math.inf, -math.inf]]


def test_limits_are_read_when_a_plan_is_scored() -> None:
    model = line()
    problem, far = PlanningProblem(model, th.zeros(1, 1), 4), th.ones(1, 1, 4, 1)
    assert problem.score(far).item() == -math.inf
    model.limits = limits(2)  # as after another fit
    assert problem.score(far).item() == 5
    model.limits = limits(1.99)
    assert problem.score(far).item() == -math.inf
    model.limits = None
    assert problem.score(far).item() == 5


def test_a_start_outside_of_the_limits_may_lead_back_and_out_by_little() -> None:
    problem = PlanningProblem(line(), th.tensor([[3.0]]), 2)
    # The limits are 2 wide, so a tenth of that may lie beyond the start: 3.15 may be reached and 3.25 may not.
    back, little, further = th.tensor([-1.0, -1.0]), th.tensor([0.3, -1.0]), th.tensor([0.5, -1.0])
    assert problem.score(th.stack([back, little, further])[None, :, :, None])[0].tolist() == pytest.approx(
        [4.5, 5.8, -math.inf]
    )


def test_a_start_outside_of_the_limits_widens_them_for_no_other_start() -> None:
    starts = th.tensor([[0.8], [3.0], [-3.0]])
    far = th.ones(1, 2, 1, 1).expand(3, -1, -1, -1)  # from 0.8 to 1.3, and two times out of the limits or back
    assert PlanningProblem(line(), starts[:1], 1).score(far[:1]).tolist() == [[-math.inf, -math.inf]]
    for particles in (1, 3):
        problem = PlanningProblem(line(), starts, 1, particles=particles)
        assert problem.score(far).tolist() == [[-math.inf] * 2, [-math.inf] * 2, [-2.5] * 2]


def test_planners_with_derivatives_keep_a_start_inside_beside_one_outside() -> None:
    problem = PlanningProblem(line(), th.tensor([[0.8], [3.0]]), 4)
    assert visited(problem, ILQR().plan(problem, generator=generator()).actions)[0].max() <= EDGE


def test_policies_that_propose_from_a_start_inside_never_see_what_another_start_allows() -> None:
    seen: list[Tensor] = []

    def ahead(obs: Tensor, *, generator: th.Generator) -> Tensor:
        seen.append(obs.clone())
        return th.ones(len(obs), 1)

    Proposals(ahead, 2).draw(PlanningProblem(line(), th.tensor([[0.8], [3.0]]), 4), generator=generator())
    assert all(obs[:2].max() <= EDGE for obs in seen)


def test_a_learned_model_has_limits_once_it_is_fitted() -> None:
    model = EnsembleDynamics(SCALAR, spaces.Box(-1, 1, (1,), np.float32), hidden=(8,), num_members=2, num_elites=2)
    problem = PlanningProblem(model, th.zeros(1, 1), 2, particles=4)
    actions = th.zeros(1, 3, 2, 1)
    assert problem.score(actions).isfinite().all()
    model.limit_obs_low.fill_(1.0)
    model.limit_obs_high.fill_(1.0)
    assert (problem.score(actions) == -math.inf).all()


# --- planners ---------------------------------------------------------------------------------------------------------

SHOOTING = [CEM(), ICEM(), MPPI(), RandomShooting(), CEM(returns="mean"), GradientShooting(population=16)]


@pytest.mark.parametrize("planner", SHOOTING, ids=lambda planner: f"{type(planner).__name__}-{vars(planner)}"[:24])
@pytest.mark.parametrize("starts", [[[0.0]], [[0.0], [-0.9], [0.8]]])
def test_shooting_planners_stay_inside(planner: Any, starts: Any) -> None:
    problem = PlanningProblem(line(), th.tensor(starts), 6)
    plan = planner.plan(problem, generator=generator())
    assert visited(problem, plan.actions).abs().max() <= EDGE
    assert (plan.value <= 6).all()
    assert (plan.value > -1).all()
    free = PlanningProblem(line(limited=limits(99)), th.tensor(starts), 6)
    assert visited(free, planner.plan(free, generator=generator()).actions).max() > 2 * EDGE


@pytest.mark.parametrize("planner", [ILQR(), LQR()], ids=["ILQR", "LQR"])
def test_planners_with_derivatives_stay_inside(planner: Any) -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = obs + 0.5 * action
        return following, -(following[:, 0] - 3).square() - 0.01 * action[:, 0].square(), obs[:, 0] > 99

    model: Any = FunctionModel(SCALAR, spaces.Box(-1, 1, (1,), np.float32), step)
    problem = PlanningProblem(model, th.zeros(1, 1), 6)
    assert visited(problem, planner.plan(problem, generator=generator()).actions).max() > 2
    model.limits = limits()
    plan = planner.plan(problem, generator=generator())
    assert visited(problem, plan.actions).abs().max() <= EDGE
    assert plan.value.isfinite().all()
    th.testing.assert_close(plan.value.float(), problem.score(plan.actions[:, None].float())[:, 0])


@pytest.mark.parametrize("rollouts", [Rollouts(0), Rollouts(2)], ids=["no rollouts", "rollouts"])
@pytest.mark.parametrize("batch", [1, 4])
def test_tree_search_stays_inside(rollouts: Rollouts, batch: int) -> None:
    problem = PlanningProblem(line(spaces.Discrete(3)), th.zeros(2, 1), 4)
    plan = MCTS(simulations=400, batch=batch, rollouts=rollouts).plan(problem, generator=generator())
    assert visited(problem, plan.actions).max() <= EDGE
    assert (plan.value <= 3.5).all()
    assert plan.actions[:, 0].argmax(-1).tolist() == [2, 2]  # 0.5, 1, 1, 1
    assert plan.report.num_invalid > 0
    at_the_edge = PlanningProblem(line(spaces.Discrete(3)), th.ones(1, 1), 2)
    plan = MCTS(simulations=30, batch=batch, rollouts=rollouts).plan(at_the_edge, generator=generator())
    assert plan.scores[0, 2] == -math.inf
    assert plan.actions[0, 0].tolist() == [0, 1, 0]


def test_a_rollout_of_a_tree_search_that_leaves_the_limits_counts_as_failed() -> None:
    """Up is the best first action, unless what the rollout policy does after it leads outside."""
    always_up = lambda obs, generator: th.tensor([[0.0, 0, 1]]).expand(len(obs), -1)  # noqa: E731
    problem = PlanningProblem(line(spaces.Discrete(3)), th.zeros(1, 1), 3)
    planner = MCTS(simulations=3, rollouts=Rollouts(1, always_up))
    plan = planner.plan(problem, generator=generator())
    # Down: -0.5, 0, 0.5. Stay: 0, 0.5, 1. Up: 0.5 and then 1, 1.5, which fails and is worth the worst that was seen.
    assert plan.scores[0, 2] <= 0.5 + max(plan.scores[0, :2].tolist())
    assert plan.scores[0, 1].item() == 1.5


def test_policies_that_propose_never_see_what_lies_outside() -> None:
    seen: list[Tensor] = []

    def up(obs: Tensor, *, generator: Any) -> Tensor:
        seen.append(obs)
        return th.ones(len(obs), 1)

    policy = MPCPolicy(line(), RandomShooting(population=4), 5, proposals=Proposals(up, 2))
    policy.predict(np.zeros(1, np.float32))
    assert th.cat(seen).max() == EDGE


def test_where_nothing_stays_inside_the_warm_start_is_kept_and_the_report_says_so() -> None:
    model = line(limited=Limits(th.tensor([5.0]), th.tensor([9.0]), th.tensor(-1e6), th.tensor(1e6)))
    problem, warm = PlanningProblem(model, th.zeros(1, 1), 2), th.full((1, 2, 1), -0.25)
    plan = CEM(population=20, iterations=2).plan(problem, warm, generator=generator())
    # The start lies below the limits: -0.25 leads further out, and to reach 5 takes longer than the horizon.
    assert plan.value.item() > -math.inf
    plan = CEM(population=20, iterations=2).plan(
        PlanningProblem(line(limited=limits(9, reward=1e-9)), th.ones(1, 1), 1), warm[:, :1], generator=generator()
    )
    assert plan.actions.equal(warm[:, :1])
    assert plan.value.item() == -math.inf
    assert plan.report.num_invalid == 40
