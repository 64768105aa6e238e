"""Tests of what a plan says of its particles: dealt evenly, and told apart into members and noise."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import CEM, GradientShooting, MPCPolicy, PlanningProblem, Worst
from controllers.search.counted_model import CountedModel
from controllers.spread import return_spread
from mbrl_wrappers import WithReward
from mbrl_wrappers.models.ensemble import EnsembleDynamics, Propagation
from mbrl_wrappers.types import MemberModel
from tests.controllers.scripted import SCALAR, Members, Particle, SharedMembers

BOX = spaces.Box(-1, 1, (1,), np.float32)


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def ensemble(propagation: Propagation = "tsinf", elites: int = 5) -> EnsembleDynamics:
    model = EnsembleDynamics(
        SCALAR, BOX, num_members=7, num_elites=elites, hidden=(8,), propagation=propagation, device="cpu"
    )
    model.elites.copy_(th.tensor([6, 2, 5, 0, 3])[:elites])
    return model


class DealtMembers(SharedMembers):
    """Members that are dealt out evenly and followed to the horizon."""

    def reset_particles(self, obs: Tensor, particles: int, *, generator: th.Generator) -> Particle:
        rows = obs.repeat_interleave(particles, 0)
        return Particle(rows, th.arange(len(rows)) % particles % len(self.factors))

    def lasting_members(self, state: Particle) -> Tensor:
        return state.member


# --- dealing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 2, 5, 7, 20])
@pytest.mark.parametrize("starts", [1, 4])
def test_elites_are_dealt_out_evenly_to_the_particles_of_every_start(particles: int, starts: int) -> None:
    model = ensemble()
    first: list[int] = []
    for seed in range(30):
        problem = PlanningProblem(model, th.zeros(starts, 1), 2, particles=particles)
        members = problem.evaluate(th.zeros(starts, 3, 2, 1), generator=generator(seed)).members
        assert members is not None
        assert members.shape == (starts, particles)
        counts = (members[:, :, None] == model.elites).sum(1)  # (N, elites)
        assert counts.sum(1).tolist() == [particles] * starts
        assert (counts.amax(1) - counts.amin(1) <= (particles % 5 > 0)).all()
        first += members[:, 0].tolist()
    assert set(first) == set(model.elites.tolist()), "which elite comes first is drawn"


def test_starts_are_dealt_their_members_independently() -> None:
    problem = PlanningProblem(ensemble(), th.zeros(20, 1), 1, particles=2)
    members = problem.evaluate(th.zeros(20, 1, 1, 1)).members
    assert members is not None
    assert len(members.unique(dim=0)) > 3


def test_tree_search_deals_members_evenly_too() -> None:
    model: Any = ensemble()
    model.action_space = spaces.Discrete(2)
    counted = CountedModel(PlanningProblem(model, th.zeros(3, 1), 2), generator())
    members = counted.starts(5).member.view(3, 5)
    assert [len(row.unique()) for row in members] == [5, 5, 5]


class Unobserved(NamedTuple):
    """``member (B,)`` alone."""

    member: Tensor


class UnobservedMembers(DealtMembers):
    """Members whose state does not keep the observation."""

    def reset_particles(self, obs: Tensor, particles: int, *, generator: th.Generator) -> Any:
        return Unobserved(super().reset_particles(obs, particles, generator=generator).member)


@pytest.mark.parametrize("model", [ensemble(), UnobservedMembers(0.5, 1.5)], ids=["ensemble", "unobserved"])
def test_another_reward_leaves_members_dealt_out_as_they_were(model: Any) -> None:
    wrapped = WithReward(model, lambda obs, action, next_obs: obs[:, 0])
    state = wrapped.reset_particles(th.tensor([[1.0], [2.0]]), 4, generator=generator(3))
    inner = model.reset_particles(th.tensor([[1.0], [2.0]]), 4, generator=generator(3))
    assert wrapped.lasting_members(state).equal(model.lasting_members(inner))
    assert state.obs[:, 0].tolist() == [1.0] * 4 + [2.0] * 4
    assert not isinstance(WithReward(Members(1.0), wrapped.reward_fn), MemberModel)


def test_observations_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(B, 1\)"):
        ensemble().reset_particles(th.zeros(2, 3), 2, generator=generator())


def test_observations_stay_with_their_particles() -> None:
    start = th.tensor([[1.0], [2.0], [3.0]])
    state = ensemble().reset_particles(start, 4, generator=generator())
    assert state.obs[:, 0].tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4


@pytest.mark.parametrize("propagation", ["ts1", "mean"])
def test_particles_that_follow_no_member_to_the_end_have_none(propagation: Propagation) -> None:
    problem = PlanningProblem(ensemble(propagation), th.zeros(1, 1), 2, particles=10)
    assert problem.evaluate(th.zeros(1, 1, 2, 1)).members is None


# --- spread -----------------------------------------------------------------------------------------------------------


def test_the_spread_follows_the_law_of_total_variance() -> None:
    """Two members with three and two particles, by hand: the estimators of a one-way analysis of variance."""
    returns = th.tensor([[1.0, 2.0, 3.0, 10.0, 12.0]])
    members = th.tensor([[4, 4, 4, 1, 1]])
    spread = return_spread(returns, members)
    within = (1 + 0 + 1 + 1 + 1) / (5 - 2)
    between = 3 * (2 - 5.6) ** 2 + 2 * (11 - 5.6) ** 2
    assert spread.total.item() == pytest.approx(np.std([1, 2, 3, 10, 12]))
    assert spread.aleatoric.item() == pytest.approx(math.sqrt(within))
    assert spread.epistemic.item() == pytest.approx(math.sqrt((between - within) / 5))
    assert spread.total.item() ** 2 == pytest.approx(
        spread.epistemic.item() ** 2 + spread.aleatoric.item() ** 2 * (1 - 1 / 5)
    )


def test_members_that_agree_have_no_epistemic_spread_and_quiet_ones_no_aleatoric() -> None:
    noisy = th.randn(400, 20, generator=generator())
    members = (th.arange(20) % 5).expand(400, -1)
    spread = return_spread(noisy, members)
    assert spread.aleatoric.square().mean().item() == pytest.approx(1, rel=0.03)
    assert spread.epistemic.square().mean().item() < 0.06  # without the correction it would be 0.2
    quiet = return_spread(members.float() * 2, members)
    assert quiet.aleatoric.tolist() == [0.0] * 400
    th.testing.assert_close(quiet.epistemic, th.full((400,), math.sqrt(8)))  # of 0, 2, 4, 6, 8
    th.testing.assert_close(quiet.total, quiet.epistemic)


@pytest.mark.parametrize(
    ("returns", "members", "total"),
    [
        ([[1.0, 3.0]], None, 1.0),
        ([[1.0, 3.0]], [[0, 1]], 1.0),  # every particle has a member of its own
        ([[2.0]], [[0]], math.nan),
        ([[1.0, -math.inf, 2.0]], [[0, 0, 1]], math.nan),
    ],
)
def test_what_cannot_be_told_apart_is_nan(returns: Any, members: Any, total: float) -> None:
    spread = return_spread(th.tensor(returns), None if members is None else th.tensor(members))
    assert spread.total.item() == pytest.approx(total, nan_ok=True)
    assert math.isnan(spread.epistemic.item())
    assert math.isnan(spread.aleatoric.item())


def test_a_single_member_leaves_only_noise() -> None:
    spread = return_spread(th.tensor([[1.0, 3.0, 5.0]]), th.zeros(1, 3, dtype=th.int64))
    assert (spread.epistemic.item(), spread.aleatoric.item()) == (0.0, 2.0)


@pytest.mark.parametrize("returns", ["best", "mean"])
def test_a_plan_reports_the_spread_of_the_sequence_that_it_returns(returns: Any) -> None:
    # x' = a x + u, so that after one step the return is a + u: the members 0.5, 1.5 and 4 disagree whatever u is.
    model: Any = DealtMembers(0.5, 1.5, 4.0)
    model.action_space = BOX
    problem = PlanningProblem(model, th.tensor([[1.0], [2.0]]), 1, particles=6, risk=Worst())
    plan = CEM(population=20, iterations=2, returns=returns).plan(problem, generator=generator())
    assert plan.report.spread is not None
    np.testing.assert_allclose(plan.report.spread.epistemic, np.std([0.5, 1.5, 4.0]) * np.array([1, 2]), rtol=1e-5)
    np.testing.assert_allclose(plan.report.spread.aleatoric, 0, atol=1e-5)
    np.testing.assert_allclose(plan.report.spread.total, plan.report.spread.epistemic, rtol=1e-5)


def test_noise_is_reported_as_aleatoric() -> None:
    model: Any = DealtMembers(1.0, 1.0, noise=0.7)
    model.action_space = BOX
    policy = MPCPolicy(model, CEM(population=4, iterations=1), 1, particles=4000)
    policy.predict(np.zeros(1, np.float32))
    assert policy.last_plan is not None
    spread = policy.last_plan.report.spread
    assert spread is not None
    assert spread.aleatoric.item() == pytest.approx(0.7, rel=0.05)
    assert spread.epistemic.item() < 0.05


def test_planners_with_gradients_report_the_spread_too() -> None:
    problem = PlanningProblem(ensemble(), th.zeros(1, 1), 2, particles=10)
    plan = GradientShooting(population=2, iterations=2).plan(problem, generator=generator())
    assert plan.report.spread is not None
    assert all(part.isfinite().all() for part in plan.report.spread)
    returns = problem.evaluate(plan.actions[:, None]).returns
    assert plan.report.spread.total.item() == pytest.approx(returns.std(correction=0).item(), rel=1.5)


def test_members_without_a_way_to_deal_them_are_reset_as_rows() -> None:
    model = Members(0.5, 1.5)
    problem = PlanningProblem(model, th.ones(2, 1), 1, particles=3)
    found = problem.evaluate(th.zeros(2, 2, 1, 1))
    assert found.members is None
    assert found.returns.shape == (2, 2, 3)
    assert len(model.resets[0]) == 6
