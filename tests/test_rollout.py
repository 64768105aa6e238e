"""Branched rollouts against stepping the real environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers import FunctionModel, Limits, Prediction, branched_rollout
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model, oracle_step


def random_policy(obs: Tensor, *, generator: Generator) -> Tensor:
    return th.rand((len(obs), 2), generator=generator) * 2 - 1


def random_choice(obs: Tensor, *, generator: Generator) -> Tensor:
    return th.nn.functional.one_hot(th.randint(3, (len(obs),), generator=generator), 3).float()


@pytest.mark.parametrize("env", [OracleEnv(), OracleEnv(np.float64), DiscreteOracleEnv(), DiscreteOracleEnv(start=2)])
def test_with_the_exact_model_branches_equal_stepping_the_real_environment(env: OracleEnv) -> None:
    model = oracle_model(env)
    rng = np.random.default_rng(0)
    starts = rng.uniform(-0.9, 0.9, (40, 3)).astype(np.float32)
    policy = random_choice if isinstance(env, DiscreteOracleEnv) else random_policy
    rollout = branched_rollout(model, policy, th.as_tensor(starts), 6, generator=th.Generator().manual_seed(1))
    rows = rollout.transitions
    actions = model.codec.to_env(rows.action)
    ended = set()
    for branch in range(40):
        mine = (rollout.branch == branch).nonzero().squeeze(1)
        assert rollout.step[mine].tolist() == list(range(len(mine)))
        env.set_obs(starts[branch])
        for position, row in enumerate(mine.tolist()):
            obs, reward, terminated, _, _ = env.step(actions[row])
            np.testing.assert_allclose(rows.next_obs[row].numpy(), obs, atol=1e-6)
            assert float(rows.reward[row]) == pytest.approx(reward, abs=1e-6)
            assert bool(rows.terminated[row]) == terminated
            last = terminated or position == 5
            assert bool(rows.last[row]) == last
            assert last == (position == len(mine) - 1)
            if terminated:
                ended.add(branch)
    assert 0 < len(ended) < 40  # both kinds of endings were met


def test_rows_follow_each_other_and_nothing_follows_a_termination() -> None:
    rollout = branched_rollout(
        oracle_model(OracleEnv()),
        random_policy,
        th.linspace(-0.99, 0.99, 50)[:, None].expand(50, 3).contiguous(),
        4,
        generator=th.Generator().manual_seed(0),
    )
    rows = rollout.transitions
    for branch in range(50):
        mine = (rollout.branch == branch).nonzero().squeeze(1)
        th.testing.assert_close(rows.obs[mine[1:]], rows.next_obs[mine[:-1]])
        assert not rows.terminated[mine[:-1]].any()


def test_a_hundred_thousand_branches_in_one_call() -> None:
    starts = th.zeros(100_000, 3)
    rollout = branched_rollout(oracle_model(OracleEnv()), random_policy, starts, 1, generator=th.Generator())
    assert rollout.transitions.num_rows == 100_000
    assert rollout.transitions.last.all()


def test_invalid_rows_are_dropped_counted_and_end_their_branch() -> None:
    env = OracleEnv()

    def breaks(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        next_obs, reward, terminated = oracle_step(obs, action)
        next_obs, reward = next_obs.clone(), reward.clone()
        next_obs[obs[:, 2] == 1.0] = th.nan
        reward[obs[:, 2] == 2.0] = th.inf
        next_obs[obs[:, 2] == 3.0, 0] = 50.0  # finite, and outside the limits given below
        return next_obs, reward, terminated & (obs[:, 2] != 3.0)

    model = FunctionModel(env.observation_space, env.action_space, breaks)
    starts = th.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    limits = Limits(th.full((3,), -10.0), th.full((3,), 10.0), th.tensor(-10.0), th.tensor(10.0))

    def roll(limits: Limits | None) -> tuple[list[int], int]:
        out = branched_rollout(
            model, lambda obs, generator: th.zeros(len(obs), 2), starts, 2, generator=th.Generator(), limits=limits
        )
        assert all(column.isfinite().all() for column in out.transitions)
        return out.branch.tolist(), out.num_dropped

    assert roll(None) == ([0, 3, 0, 3], 2)
    assert roll(limits) == ([0, 0], 3)


def test_the_row_before_a_dropped_one_is_the_last_of_its_branch() -> None:
    env = OracleEnv()

    def breaks_later(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + 1, th.where(obs[:, 0] >= 2, th.nan, 0.0), th.zeros(len(obs), dtype=th.bool)

    model = FunctionModel(env.observation_space, env.action_space, breaks_later)
    starts = th.tensor([[0.0] * 3, [1.0] * 3])
    out = branched_rollout(model, lambda obs, generator: th.zeros(len(obs), 2), starts, 5, generator=th.Generator())
    assert out.branch.tolist() == [0, 1, 0]
    assert out.transitions.last.tolist() == [False, True, True]
    assert not out.transitions.terminated.any()
    assert out.num_dropped == 2


def test_limits_widen_the_data_and_give_constant_dimensions_a_width_of_one() -> None:
    limits = Limits.of(th.tensor([[0.0, 5.0], [2.0, 5.0]]), th.tensor([1.0, 3.0]), margin=0.5)
    assert limits.obs_low.tolist() == [-1.0, 4.5]
    assert limits.obs_high.tolist() == [3.0, 5.5]
    assert (float(limits.reward_low), float(limits.reward_high)) == (0.0, 4.0)


def test_a_reward_that_is_not_learned_has_no_limits() -> None:
    limits = Limits.of(th.tensor([[0.0], [2.0]]), None, margin=0.5)
    limited = Limits.of(th.tensor([[0.0], [2.0]]), th.tensor([1.0, 3.0]), margin=0.5)
    obs, flags = th.full((4, 1), 3.0), th.zeros(4, dtype=th.bool)  # exactly on the limit
    reward = th.tensor([-1e30, 4.0, th.inf, th.nan])
    assert limits.accepts(Prediction(obs, reward, flags)).tolist() == [True, True, False, False]
    assert limited.accepts(Prediction(obs, reward, flags)).tolist() == [False, True, False, False]
    assert limited.of_any_reward().accepts(Prediction(obs, reward, flags)).tolist() == [True, True, False, False]
    assert not limits.accepts(Prediction(obs + 1e-6, reward * 0, flags)).any()
    assert th.equal(limited.of_any_reward().obs_high, limited.obs_high)


def test_the_models_own_limits_are_obeyed_unless_others_are_given() -> None:
    model: Any = model_that(lambda obs, action: (obs + 1, obs[:, 0], obs[:, 0] > 9))
    model.limits = Limits.of(th.zeros(1, 3), th.zeros(1), margin=1.0)  # -1 to 1 in each dimension
    starts = th.zeros(4, 3)

    def roll(**kwargs: Any) -> tuple[list[int], int]:
        out = branched_rollout(model, random_policy, starts, 3, generator=th.Generator(), **kwargs)
        return out.step.tolist(), out.num_dropped

    assert roll() == ([0] * 4, 4)
    assert roll(limits=Limits.none(3)) == ([0] * 4 + [1] * 4 + [2] * 4, 0)


def model_that(step: Any) -> FunctionModel:
    env = OracleEnv()
    return FunctionModel(env.observation_space, env.action_space, step)


def test_flags_and_numbers_of_other_dtypes_are_converted() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        next_obs, reward, terminated = oracle_step(obs, action)
        return next_obs.double(), reward.double(), terminated.int()

    starts = th.linspace(-0.99, 0.99, 30)[:, None].expand(30, 3).contiguous()

    def roll(model: FunctionModel) -> Any:
        return branched_rollout(model, random_policy, starts, 4, generator=th.Generator().manual_seed(0))

    ours, plain = roll(model_that(step)), roll(model_that(oracle_step))
    assert ours.branch.tolist() == plain.branch.tolist()
    assert plain.transitions.terminated.any()
    assert [column.dtype for column in ours.transitions] == [column.dtype for column in plain.transitions]


def test_predictions_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        branched_rollout(
            model_that(lambda obs, action: (obs, obs[:, :1], obs[:, 0] > 9)),
            random_policy,
            th.zeros(4, 3),
            1,
            generator=th.Generator(),
        )


def test_infinity_passes_no_limits_and_bad_actions_are_dropped() -> None:
    wide = Limits(th.full((3,), -th.inf), th.full((3,), th.inf), th.tensor(-th.inf), th.tensor(th.inf))
    infinite = model_that(lambda obs, action: (obs + th.inf, obs[:, 0], obs[:, 0] > 9))
    out = branched_rollout(infinite, random_policy, th.zeros(4, 3), 1, generator=th.Generator(), limits=wide)
    assert (out.transitions.num_rows, out.num_dropped) == (0, 4)
    still = model_that(lambda obs, action: (obs, obs[:, 0], obs[:, 0] > 9))
    out = branched_rollout(
        still, lambda obs, generator: th.full((len(obs), 2), th.nan), th.zeros(4, 3), 1, generator=th.Generator()
    )
    assert (out.transitions.num_rows, out.num_dropped) == (0, 4)


@pytest.mark.parametrize(
    ("starts", "length", "message"),
    [
        (th.zeros(3), 1, "shape"),
        (th.zeros(3, 4), 1, "shape"),
        (th.full((2, 3), th.nan), 1, "finite"),
        (th.zeros(2, 3), 0, "at least 1"),
        (th.zeros(0, 3), 1, "empty"),
    ],
)
def test_wrong_use_says_what_to_do(starts: Tensor, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        branched_rollout(oracle_model(OracleEnv()), random_policy, starts, length, generator=th.Generator())
