"""Unrolling a policy in a model: values against branched rollouts and real steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers import EnsembleDynamics, FunctionModel, Limits, branched_rollout, unroll
from mbrl_wrappers.models.function import FunctionState
from mbrl_wrappers.types import DifferentiablePolicy
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model, oracle_reward, oracle_step, oracle_termination

STARTS = th.tensor(np.random.default_rng(0).uniform(-0.9, 0.9, (40, 3)), dtype=th.float32)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


class Feedback:
    """Model actions ``tanh(3 (v, z) + noise)`` of the last two dimensions of the observation."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        if not self.noise:
            return th.tanh(3 * obs[:, 1:]), None
        epsilon = th.randn((len(obs), 2), generator=generator)
        return th.tanh(3 * obs[:, 1:] + self.noise * epsilon), -(epsilon**2).sum(1)

    def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
        return self.sample(obs, generator=generator)[0]


class OneHot:
    """Any of three actions, drawn."""

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        index = th.randint(3, (len(obs),), generator=generator)
        return th.nn.functional.one_hot(index, 3).float(), None


def tiny_ensemble(propagation: str) -> EnsembleDynamics:
    space = OracleEnv()
    return EnsembleDynamics(
        space.observation_space,
        space.action_space,
        num_members=4,
        num_elites=3,
        hidden=(16,),
        propagation=propagation,  # type: ignore[arg-type]
        reward_fn=oracle_reward,
        termination_fn=lambda obs, action, next_obs: th.zeros_like(obs[..., 0], dtype=th.bool),
        device="cpu",
    )


def test_the_same_rows_as_a_branched_rollout_through_terminations_and_limits() -> None:
    model, policy = oracle_model(OracleEnv()), Feedback()
    limits = Limits.none(3)._replace(obs_high=th.tensor([np.inf, 0.8, np.inf]), reward_low=th.tensor(-0.2))
    branched = branched_rollout(model, policy, STARTS, 6, generator=generator(), limits=limits)
    found = unroll(model, policy, STARTS, 6, generator=generator(), limits=limits)
    assert found.obs.shape == (7, 40, 3)
    assert found.action.shape == (6, 40, 2)
    assert found.log_prob is None
    rows = found.valid
    assert int(rows.sum()) == branched.transitions.num_rows
    step, branch = rows.nonzero(as_tuple=True)
    assert step.tolist() == branched.step.tolist()
    assert branch.tolist() == branched.branch.tolist()
    assert found.obs[:-1][rows].equal(branched.transitions.obs)
    assert found.obs[1:][rows].equal(branched.transitions.next_obs)
    assert found.action[rows].equal(branched.transitions.action)
    assert found.reward[rows].equal(branched.transitions.reward)
    assert found.terminated[rows].equal(branched.transitions.terminated)
    ended_by_limits = ~found.alive[-1] & ~found.terminated.any(0)
    assert found.terminated.any()
    assert ended_by_limits.any()
    assert found.alive[-1].any()
    assert int(ended_by_limits.sum()) == branched.num_dropped


@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean", "infoprop"])
def test_the_draws_of_a_branched_rollout_while_every_row_lives(propagation: str) -> None:
    model, policy = tiny_ensemble(propagation), Feedback(noise=0.5)
    branched = branched_rollout(model, policy, STARTS, 4, generator=generator(3)).transitions
    with th.no_grad():
        sampled = unroll(model, policy, STARTS, 4, generator=generator(3))
    assert sampled.alive.all()
    assert sampled.obs[1:].flatten(0, 1).equal(branched.next_obs)
    assert sampled.action.flatten(0, 1).equal(branched.action)
    assert sampled.reward.flatten().equal(branched.reward)
    assert sampled.log_prob is not None
    assert sampled.log_prob.shape == (4, 40)
    with_gradients = unroll(model, policy, STARTS, 4, generator=generator(3))
    th.testing.assert_close(with_gradients.obs, sampled.obs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("env", [OracleEnv(), OracleEnv(np.float64), DiscreteOracleEnv(), DiscreteOracleEnv(start=2)])
def test_with_the_exact_model_a_row_is_what_the_real_environment_does(env: OracleEnv) -> None:
    model = oracle_model(env)
    policy: DifferentiablePolicy = OneHot() if isinstance(env, DiscreteOracleEnv) else Feedback(noise=0.7)
    found = unroll(model, policy, STARTS, 6, generator=generator(1))
    ended = 0
    for row in range(len(STARTS)):
        env.set_obs(STARTS[row].numpy())
        for step in range(6):
            obs, reward, terminated, _, _ = env.step(model.codec.to_env(found.action[step, row, None])[0])
            np.testing.assert_allclose(found.obs[step + 1, row].detach().numpy(), obs, atol=1e-6)
            assert found.reward[step, row].item() == pytest.approx(reward, abs=1e-6)
            assert bool(found.terminated[step, row]) == terminated
            assert bool(found.alive[step + 1, row]) == (not terminated)
            if terminated:
                ended += 1
                break
    assert 0 < ended < 40


def test_what_comes_after_the_end_of_a_row_is_zero_and_repeats_its_last_observation() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Count up; rows of kind 1 terminate and rows of kind 2 become NaN when they come to 2."""
        count, kind = obs[:, 0] + 1, obs[:, 1]
        broken = th.where((kind == 2) & (count == 2), th.nan, count)
        return th.stack([broken, kind, obs[:, 2]], 1), count * 10, (kind == 1) & (count == 2)

    env = OracleEnv()
    model = FunctionModel(env.observation_space, env.action_space, step)
    starts = th.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
    found = unroll(model, Feedback(noise=0.1), starts, 3, generator=generator())
    assert found.obs[:, :, 0].T.tolist() == [[0, 1, 2, 3], [0, 1, 2, 2], [0, 1, 1, 1]]
    assert found.reward.T.tolist() == [[10, 20, 30], [10, 20, 0], [10, 0, 0]]
    assert found.alive.T.tolist() == [[True] * 4, [True, True, False, False], [True, True, False, False]]
    assert found.terminated.T.tolist() == [[False] * 3, [False, True, False], [False] * 3]
    assert found.valid.T.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    assert found.log_prob is not None
    assert (found.log_prob != 0).equal(found.valid)
    assert (found.action != 0).any(2).equal(found.valid)


@pytest.mark.parametrize(("action", "log_prob"), [(th.nan, 0.0), (0.0, th.inf), (0.0, th.nan)])
def test_a_row_whose_action_or_log_probability_is_not_finite_ends(action: float, log_prob: float) -> None:
    class Broken:
        def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
            second = th.arange(len(obs)) == 1
            return th.where(second[:, None], action, 0.0).expand(-1, 2), th.where(second, log_prob, -1.0)

    # A model that ignores its action would not show it.
    env = OracleEnv()
    model = FunctionModel(env.observation_space, env.action_space, lambda obs, action: (obs, obs[:, 0], obs[:, 0] > 9))
    found = unroll(model, Broken(), STARTS[:3], 2, generator=generator())
    assert found.alive.tolist() == [[True] * 3, [True, False, True], [True, False, True]]
    assert found.log_prob is not None
    assert found.log_prob.tolist() == [[-1.0, 0.0, -1.0]] * 2
    assert found.action.isfinite().all()


def test_limits_are_the_models_own_unless_others_are_given() -> None:
    model = oracle_model(OracleEnv())
    model.limits = Limits.none(3)._replace(obs_high=th.tensor([th.inf, -0.5, th.inf]))  # type: ignore[attr-defined]
    assert not unroll(model, Feedback(), STARTS, 1, generator=generator()).valid.all()
    assert unroll(model, Feedback(), STARTS, 1, generator=generator(), limits=Limits.none(3)).valid.all()


def test_a_seed_repeats_its_draws_and_another_gives_others() -> None:
    model, policy = tiny_ensemble("ts1"), Feedback(noise=0.5)
    first, again, other = (unroll(model, policy, STARTS, 3, generator=generator(seed)) for seed in (1, 1, 2))
    assert first.obs.equal(again.obs)
    assert first.action.equal(again.action)
    assert not first.action[0].equal(other.action[0])
    assert not first.obs[1].equal(other.obs[1])
    before = th.get_rng_state()
    unroll(model, policy, STARTS, 1, generator=generator(1))
    assert th.get_rng_state().equal(before)  # the global stream is left alone


@pytest.mark.parametrize("policy", [Feedback(), Feedback(noise=0.5)])
def test_no_step_is_the_starts_alone(policy: Feedback) -> None:
    found = unroll(oracle_model(OracleEnv()), policy, STARTS, 0, generator=generator())
    assert found.obs.equal(STARTS[None])
    assert found.alive.shape == (1, 40)
    assert found.alive.all()
    assert found.action.shape == (0, 40, 2)
    assert found.reward.shape == found.terminated.shape == found.valid.shape == (0, 40)
    assert found.log_prob is not None
    assert found.log_prob.shape == (0, 40)


def test_two_unrollings_in_a_row_are_one_when_the_state_is_handed_over() -> None:
    class Counting(FunctionModel):
        """A model whose state is more than its observation: the observation lags a step behind."""

        def step(self, state, action, *, generator):  # type: ignore[no-untyped-def]
            following, prediction = super().step(state, action, generator=generator)
            return following, prediction._replace(next_obs=state.obs)

    env = OracleEnv()
    model = Counting(env.observation_space, env.action_space, oracle_step)
    state = FunctionState(STARTS + 0.05)
    found = unroll(model, Feedback(), STARTS, 1, generator=generator(), state=state)
    assert found.obs[1].equal(STARTS + 0.05)
    with pytest.raises(ValueError, match="state has 40 rows and starts has 3: give one state per start"):
        unroll(model, Feedback(), STARTS[:3], 1, generator=generator(), state=state)


def test_wrong_arguments_are_refused() -> None:
    model = oracle_model(OracleEnv())
    with pytest.raises(ValueError, match=r"starts must have shape \(B, 3\)"):
        unroll(model, Feedback(), STARTS[0], 1, generator=generator())
    with pytest.raises(ValueError, match="starts is empty"):
        unroll(model, Feedback(), STARTS[:0], 1, generator=generator())
    with pytest.raises(ValueError, match="starts must be finite"):
        unroll(model, Feedback(), STARTS * th.nan, 1, generator=generator())
    for horizon in (-1, 1.0, True):
        with pytest.raises(ValueError, match="horizon must be an integer of at least 0"):
            unroll(model, Feedback(), STARTS, horizon, generator=generator())  # type: ignore[arg-type]


def test_wrong_shapes_from_a_policy_or_a_model_are_refused() -> None:
    class Wide:
        def __init__(self, action: Tensor, log_prob: Tensor) -> None:
            self.drawn = action, log_prob

        def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
            return self.drawn

    env = OracleEnv()
    model = oracle_model(env)
    with pytest.raises(ValueError, match=r"log-probabilities must have shape \(40,\), got \(40, 1\)"):
        unroll(model, Wide(th.zeros(40, 2), th.zeros(40, 1)), STARTS, 1, generator=generator())
    with pytest.raises(ValueError, match=r"draw actions of shape \(40, 2\), got \(40, 3\)"):
        unroll(model, Wide(th.zeros(40, 3), th.zeros(40)), STARTS, 1, generator=generator())

    def column(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        next_obs, reward, terminated = oracle_step(obs, action)
        return next_obs, reward[:, None], terminated

    with pytest.raises(ValueError, match="The model must predict"):
        unroll(
            FunctionModel(env.observation_space, env.action_space, column), Feedback(), STARTS, 1, generator=generator()
        )


def test_known_terminations_end_rows_of_an_ensemble() -> None:
    model = tiny_ensemble("ts1")
    model.termination_fn = oracle_termination
    starts = th.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    found = unroll(model, Feedback(), starts, 2, generator=generator())
    assert found.terminated[0].tolist() == [False, True]
