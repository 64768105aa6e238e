"""Tests of particles: rows that follow different models or noise, shared by candidates, reduced by a risk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import CVaR, MeanMinusStd, PlanningProblem, Worst
from mbrl_wrappers.models.ensemble import EnsembleDynamics, Propagation
from mbrl_wrappers.models.gaussian_ensemble import EnsembleOptions
from tests.controllers.scripted import Members, SharedMembers


@pytest.mark.parametrize("particles", [1, 2, 3, 5])
def test_particles_are_rows_and_nothing_needs_to_divide_anything(particles: int) -> None:
    factors = (0.5, 1.0, 2.0)
    for risk, slow in (
        (None, lambda r: r.mean()),
        (Worst(), lambda r: r.min()),
        (MeanMinusStd(2.0), lambda r: r.mean() - 2 * r.std(correction=0)),
        (CVaR(0.4), lambda r: slow_cvar(r, 0.4)),
    ):
        model = Members(*factors)
        problem = PlanningProblem(model, th.tensor([[1.0], [-2.0]]), 2, particles=particles, risk=risk)
        scores = problem.score(th.zeros(2, 7, 2, 1))
        rows = [th.arange(particles), particles + th.arange(particles)]
        every = [
            th.tensor(factors)[row % 3] * start + th.tensor(factors)[row % 3].square() * start
            for row, start in zip(rows, (1.0, -2.0), strict=True)
        ]
        for n in range(2):
            th.testing.assert_close(scores[n], slow(every[n]).expand(7))
        assert len(model.resets) == 1
        assert len(model.resets[0]) == 2 * particles, "candidates share the states that reset gives"


def slow_cvar(returns: Tensor, fraction: float) -> Tensor:
    """The mean over the worst ``fraction`` of a thousand copies of each particle."""
    many = returns.repeat_interleave(1000).sort().values
    return many[: round(fraction * len(many))].mean()


def test_one_failed_particle_fails_its_candidate_under_any_risk() -> None:
    model = Members(1.0, math.inf)
    for risk in (None, Worst(), CVaR(0.5), CVaR(1.0), MeanMinusStd(), lambda returns: returns.amax(-1)):
        problem = PlanningProblem(model, th.ones(1, 1), 1, particles=2, risk=risk)
        assert problem.score(th.zeros(1, 1, 1, 1)).item() == -math.inf


def test_candidates_see_the_same_noise_where_the_model_shares_it() -> None:
    generator = lambda: th.Generator().manual_seed(3)  # noqa: E731
    actions = th.zeros(2, 6, 4, 1)
    shared = PlanningProblem(SharedMembers(0.9, noise=1.0), th.zeros(2, 1), 4, particles=3)
    scores = shared.score(actions, generator=generator())
    assert (scores == scores[:, :1]).all()
    assert scores[0, 0] != scores[1, 0], "problems differ"
    th.testing.assert_close(shared.score(actions[:, :1], generator=generator()), scores[:, :1], rtol=0, atol=0)
    separate = PlanningProblem(Members(0.9, noise=1.0), th.zeros(2, 1), 4, particles=3)
    assert len(separate.score(actions, generator=generator()).unique()) == 12


def test_scores_repeat_without_a_generator_and_follow_one_that_is_given() -> None:
    problem = PlanningProblem(Members(0.9, noise=1.0), th.zeros(1, 1), 4)
    actions = th.zeros(1, 3, 4, 1)
    assert problem.score(actions).equal(problem.score(actions))
    generator = th.Generator().manual_seed(1)
    assert not problem.score(actions, generator=generator).equal(problem.score(actions, generator=generator))


# --- members of an ensemble -------------------------------------------------------------------------------------------


class Moments:
    """A risk that remembers the returns it was given."""

    def __call__(self, returns: Tensor) -> Tensor:
        self.returns = returns.double()
        return returns.mean(-1)


def ensemble(propagation: Propagation, variance: float) -> EnsembleDynamics:
    """Two members ``x' = a x + N(0, variance)``, ``a`` in 0.5 and 1.5, with weights set by hand.

    ``silu(x) - silu(-x) = x`` makes a hidden layer of two units the identity.
    """
    space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    model = EnsembleDynamics(
        space,
        spaces.Box(-1, 1, (1,), np.float32),
        num_members=2,
        num_elites=2,
        hidden=(2,),
        propagation=propagation,
        reward_fn=lambda obs, action, following: 0 * obs[:, 0],
        termination_fn=lambda obs, action, following: th.zeros(len(obs), dtype=th.bool),
        options=EnsembleOptions(log_variance_low=-30.0, log_variance_high=5.0),
        device="cpu",
    )
    first, last = model.net.linear_layers()
    with th.no_grad():
        first.weight.copy_(th.tensor([[1.0, 0.0], [-1.0, 0.0]]).expand(2, -1, -1))
        last.weight.zero_()
        last.weight[:, 0] = th.tensor([-0.5, 0.5])[:, None] * th.tensor([1.0, -1.0])
        # The variance is exp(5) S(raw - 5) with the logistic function S, but for the lower limit.
        last.bias[:, 1] = 5.0 - math.log(math.exp(5.0) / variance - 1) if variance else -40.0
    return model


def moments(propagation: Propagation, variance: float) -> tuple[float, float]:
    """Mean and variance of ``x_5`` from 1 over 100 000 particles."""
    risk = Moments()
    problem = PlanningProblem(
        ensemble(propagation, variance),
        th.ones(1, 1),
        5,
        particles=100_000,
        risk=risk,
        terminal_value=lambda obs: obs[:, 0],
    )
    score = problem.score(th.zeros(1, 1, 5, 1), generator=th.Generator().manual_seed(0))
    assert score.item() == pytest.approx(risk.returns.mean().item(), rel=1e-4)
    return risk.returns.mean().item(), risk.returns.var().item()


@pytest.mark.parametrize(
    ("propagation", "mean", "variance", "tolerance"),
    [("tsinf", 3.8125, 14.29785, 0.05), ("ts1", 1.0, 2.05176, 0.1), ("mean", 1.0, 0.0, 1e-6)],
)
def test_members_are_fixed_or_drawn_anew_or_averaged(
    propagation: Propagation, mean: float, variance: float, tolerance: float
) -> None:
    got = moments(propagation, 0.0)
    assert got == pytest.approx((mean, variance), abs=tolerance)


@pytest.mark.parametrize(("propagation", "growth"), [("tsinf", (0.25, 2.25)), ("ts1", (1.25,))])
def test_noise_of_the_members_adds_to_the_variance(propagation: Propagation, growth: tuple[float, ...]) -> None:
    # Per particle sigma^2 sum_j a^(2j); a^2 is 0.25 or 2.25 for good, or 1.25 on average in each step.
    added = sum(sum(a**j for j in range(5)) for a in growth) / len(growth)
    got = moments(propagation, 0.5)[1] - moments(propagation, 0.0)[1]
    assert got == pytest.approx(0.5 * added, rel=0.05)
