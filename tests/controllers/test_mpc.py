"""Tests of the controller behind ``predict``: what travels in the state, who is cleared, what is refused."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import CEM, ICEM, CVaR, MPCPolicy, Plan, PlanningProblem, Proposals, RandomShooting
from mbrl_wrappers.models import FunctionModel
from tests.controllers.scripted import SCALAR
from tests.oracle import OracleEnv, oracle_model

OBS = np.float32([[0.1, 0.2, -0.3], [-0.4, 0.1, 0.2], [0.3, -0.2, 0.0]])


class Spy:
    """A planner that remembers what it was asked and answered."""

    def __init__(self, planner: Any = None) -> None:
        self.planner = planner or ICEM(population=12, iterations=2, num_elites=4)
        self.problems: list[PlanningProblem[Any]] = []
        self.warm_starts: list[Any] = []
        self.plans: list[Plan] = []

    def plan(self, problem: PlanningProblem[Any], warm_start: Any = None, *, generator: th.Generator) -> Plan:
        self.problems.append(problem)
        self.warm_starts.append(warm_start)
        self.plans.append(self.planner.plan(problem, warm_start, generator=generator))
        return self.plans[-1]


def policy_of(planner: Any = None, horizon: int = 6, **options: Any) -> MPCPolicy[Any]:
    return MPCPolicy(oracle_model(OracleEnv()), planner or Spy(), horizon, **options)


def test_one_observation_and_a_batch() -> None:
    policy = policy_of()
    action, state = policy.predict(OBS[0])
    assert (action.shape, action.dtype) == ((2,), np.float32)
    batch, _ = policy.predict(OBS)
    assert batch.shape == (3, 2)
    again, _ = policy.predict(OBS[:1])
    np.testing.assert_array_equal(again[0], action)
    assert state.steps.tolist() == [1]


def test_equal_arguments_give_equal_results_and_change_nothing() -> None:
    policy = policy_of(execute=2)
    _, state = policy.predict(OBS)
    _, state = policy.predict(OBS, state, np.zeros(3, bool))
    copy = deepcopy(state)
    global_state = th.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = policy.predict(OBS, state, np.array([False, True, False]))
    second = policy.predict(OBS, state, np.array([False, True, False]))
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1].actions.equal(second[1].actions)
    assert state.actions.equal(copy.actions)
    assert state.warm_start.actions.equal(copy.warm_start.actions)
    assert state.warm_start.elites.equal(copy.warm_start.elites)
    assert state.age.equal(copy.age)
    assert th.get_rng_state().equal(global_state[0])
    assert (np.random.get_state()[1] == global_state[1]).all()  # noqa: NPY002


def test_seeds_and_calls_select_the_draws() -> None:
    actions = [policy_of(seed=seed).predict(OBS)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (actions[0] != actions[2]).any()
    spy = Spy(RandomShooting(population=5))
    policy = policy_of(spy)
    _, state = policy.predict(OBS)
    policy.predict(OBS, state)
    # The first two of the second plan are its warm start and the best sequence of the first.
    assert not spy.plans[0].candidates[:, 2:].equal(spy.plans[1].candidates[:, 2:])


@pytest.mark.parametrize("execute", [1, 2, 4, 6])
def test_chunks_are_executed_before_the_next_plan_which_starts_from_the_rest(execute: int) -> None:
    spy = Spy()
    policy = policy_of(spy, execute=execute)
    state, taken = None, []
    for _ in range(2 * execute):
        action, state = policy.predict(OBS, state, np.zeros(3, bool))
        taken.append(policy.codec.from_env(action))
    assert len(spy.plans) == 2
    for number, plan in enumerate(spy.plans):
        chunk = th.stack(taken[number * execute : (number + 1) * execute], 1)
        th.testing.assert_close(chunk, plan.actions[:, :execute], atol=1e-5, rtol=0)
    left, warm = spy.plans[0].next_start, spy.warm_starts[1]
    assert not spy.warm_starts[0].known.any()
    assert warm.known.all()
    assert warm.actions[:, : 6 - execute].equal(left.actions[:, execute:])
    assert warm.elites[:, :, : 6 - execute].equal(left.elites[:, :, execute:])  # type: ignore[index]
    assert (warm.actions[:, 6 - execute :] == 0).all()


@pytest.mark.parametrize("execute", [1, 3])
def test_a_beginning_clears_its_own_row_and_no_other(execute: int) -> None:
    policy = policy_of(execute=execute)
    state = None
    for _ in range(2):
        _, state = policy.predict(OBS, state, np.zeros(3, bool))
    spy = policy.planner = Spy()
    going, kept = policy.predict(OBS, state, np.zeros(3, bool))
    plans_without = len(spy.plans)
    reset, cleared = policy.predict(OBS, state, np.array([False, True, False]))
    np.testing.assert_array_equal(going[[0, 2]], reset[[0, 2]])
    others = th.tensor([0, 2])
    for name in ("actions", "age", "steps"):
        assert getattr(kept, name)[others].equal(getattr(cleared, name)[others])
    assert kept.warm_start.actions[others].equal(cleared.warm_start.actions[others])
    assert kept.warm_start.elites[others].equal(cleared.warm_start.elites[others])
    assert (kept.steps.tolist(), cleared.steps.tolist()) == ([3, 3, 3], [3, 1, 3])
    assert plans_without == (1 if execute == 1 else 0), "in the middle of a chunk nobody else plans"
    assert len(spy.plans) == plans_without + 1
    warm = spy.warm_starts[-1]
    assert warm.known.tolist() == ([True, False, True] if execute == 1 else [False])
    assert cleared.age.tolist() == ([1, 1, 1] if execute == 1 else [3, 1, 3])


def test_a_reset_row_plans_as_if_it_had_no_past() -> None:
    # One planner draw for all rows, so the fresh policy must be at the same call to see the same draws.
    policy = policy_of(CEM(population=10, iterations=2))
    _, state = policy.predict(OBS)
    reset, _ = policy.predict(OBS[::-1].copy(), state, np.ones(3, bool))
    blank = state._replace(warm_start=state.warm_start._replace(actions=state.warm_start.actions * math.nan))
    fresh, _ = policy.predict(OBS[::-1].copy(), blank, np.ones(3, bool))
    np.testing.assert_array_equal(reset, fresh)


def test_no_plan_looks_past_the_end_of_an_episode() -> None:
    spy = Spy()
    policy = policy_of(spy, horizon=4, episode_steps=5)
    state = None
    for step in range(6):
        first = np.array([step == 0, step == 3, step == 0])
        _, state = policy.predict(OBS, state, first)
    horizons = [problem.horizon for problem in spy.problems]
    rows = [problem.num_problems for problem in spy.problems]
    # Steps left of row 1, which began anew at step 3: 5 4 3 | 5 4 3; of the others 5 4 3 2 1 and then one at least.
    assert list(zip(horizons, rows, strict=True)) == [
        (4, 3), (4, 3), (3, 3), (2, 2), (4, 1), (1, 2), (4, 1), (1, 2), (3, 1)
    ]  # fmt: skip


def test_the_objective_reaches_the_problem() -> None:
    spy, value = Spy(), lambda obs: obs[:, 0]
    objective: Any = dict(discount=0.9, particles=3, risk=CVaR(0.5), terminal_value=value, terminal_reward=-2.0)
    policy = policy_of(spy, **objective)
    policy.predict(OBS)
    problem = spy.problems[0]
    for name, wanted in objective.items():
        assert getattr(problem, name) == wanted
    assert policy.last_problem is problem
    assert policy.last_plan is spy.plans[0]


def test_proposals_are_candidates() -> None:
    def agent(obs: Tensor, *, generator: th.Generator) -> Tensor:
        return th.stack([-obs[:, 0], 0 * obs[:, 0] + 5], 1)

    spy = Spy()
    policy = policy_of(spy, horizon=3, proposals=Proposals(agent, count=2))
    policy.predict(OBS)
    proposals = spy.warm_starts[0].proposals
    assert proposals.shape == (3, 2, 3, 2)
    state, model = th.tensor(OBS), policy.model
    for t in range(3):  # closed loop, with the action clipped to the bounds
        action = agent(state, generator=th.Generator()).clamp(-1, 1)
        th.testing.assert_close(proposals[:, 0, t], action)
        state = model.step(model.reset(state, generator=th.Generator()), action, generator=th.Generator())[1].next_obs
    with pytest.raises(ValueError, match="model actions of shape"):
        policy_of(proposals=Proposals(lambda obs, generator: obs[:, 0])).predict(OBS)  # type: ignore[arg-type, misc]


def test_proposals_of_nan_are_replaced_before_the_model_sees_them() -> None:
    seen: list[Tensor] = []

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(action)
        return obs / 0, action[:, 0], obs[:, 0] > 9

    def agent(obs: Tensor, *, generator: th.Generator) -> Tensor:
        assert obs.isfinite().all()
        return th.full((len(obs), 1), math.nan)

    model = FunctionModel(SCALAR, spaces.Box(1.0, 3.0, (1,)), step)
    policy = MPCPolicy(model, RandomShooting(population=6), 2, proposals=Proposals(agent, 2))
    action, _ = policy.predict(np.float32([1.0]))
    assert action.tolist() == [2.0]
    assert th.cat(seen).isfinite().all()


def test_proposals_start_from_the_digits_that_a_model_keeps() -> None:
    """Float32 numbers near 5.5e6 lie half a unit apart: the change from the start would be lost in them."""
    starts: list[Tensor] = []

    class Far(FunctionModel):
        obs_dtype = th.float64

        def reset(self, obs: Tensor, *, generator: Any) -> Any:
            starts.append(obs)
            return super().reset(obs, generator=generator)

    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    model = Far(space, spaces.Box(-1, 1, (1,), np.float32), lambda obs, a: (obs + a, obs[:, 0], obs[:, 0] < 0))
    agent: Any = lambda obs, generator: th.zeros(len(obs), 1)  # noqa: E731
    MPCPolicy(model, RandomShooting(population=2), 2, proposals=Proposals(agent, 2)).predict(np.array([5.5e6 + 0.125]))
    assert len(starts) > 1
    assert all((obs == 5.5e6 + 0.125).all() for obs in starts if obs.any() and len(obs) > 1)
    assert any(len(obs) == 2 for obs in starts)
