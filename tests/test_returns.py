"""Returns of unrolled policies against sums by hand."""

from __future__ import annotations

import pytest
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers import unroll
from mbrl_wrappers.returns import expansions, inverse_variance_mean, lambda_returns, n_step_returns
from mbrl_wrappers.unroll import Unrolled
from tests.oracle import OracleEnv, oracle_model

NAN = th.nan


def hand(reward: list[list[float]], alive: list[list[int]], terminated: list[list[int]]) -> Unrolled:
    """Rows given one by one, ``(B, H)``; what returns do not read is left empty."""
    rewards = th.tensor(reward, dtype=th.float64).T
    steps, rows = rewards.shape
    return Unrolled(
        obs=th.zeros(steps + 1, rows, 1),
        action=th.zeros(steps, rows, 1),
        reward=rewards,
        alive=th.tensor(alive).T.bool(),
        terminated=th.tensor(terminated).T.bool(),
        log_prob=None,
    )


# Row 0 lives, row 1 terminates in its second step, row 2 breaks in its second step, row 3 in its first, and row 4
# terminates in its first. Values that must not be read are NaN.
ROWS = hand(
    reward=[[1, 2, 3], [1, 2, 0], [1, 0, 0], [0, 0, 0], [7, 0, 0]],
    alive=[[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]],
    terminated=[[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]],
)
VALUES = th.tensor(
    [[10, 20, 30, 40], [10, 20, NAN, NAN], [10, 20, NAN, NAN], [10, NAN, NAN, NAN], [10, NAN, NAN, NAN]],
    dtype=th.float64,
).T


def rows(found: Tensor) -> list[list[float]]:
    return found.T.tolist()  # type: ignore[no-any-return]


def test_value_expansion_by_hand() -> None:
    found = lambda_returns(ROWS, VALUES, discount=0.5)
    # 3 + 20 = 23, 2 + 11.5 = 13.5, 1 + 6.75 = 7.75; a termination leaves 2 and 1 + 1; a break leaves V and 1 + V / 2.
    assert rows(found) == [[7.75, 13.5, 23, 40], [2, 2, 0, 0], [11, 20, 0, 0], [10, 0, 0, 0], [7, 0, 0, 0]]


def test_lambda_returns_by_hand() -> None:
    found = lambda_returns(ROWS, VALUES, discount=0.5, lam=0.25)
    # 3 + 40 / 2 = 23; 2 + (0.75 * 30 + 0.25 * 23) / 2 = 16.125; 1 + (0.75 * 20 + 0.25 * 16.125) / 2 = 10.515625.
    # A termination: 2; 1 + (0.75 * 20 + 0.25 * 2) / 2 = 8.75. A break: 20; 1 + 20 / 2 = 11.
    assert rows(found) == [[10.515625, 16.125, 23, 40], [8.75, 2, 0, 0], [11, 20, 0, 0], [10, 0, 0, 0], [7, 0, 0, 0]]


def test_n_step_returns_by_hand() -> None:
    def of(steps: int) -> list[list[float]]:
        return rows(n_step_returns(ROWS, VALUES, steps, discount=0.5))

    assert of(0) == [[10, 20, 30, 40], [10, 20, 0, 0], [10, 20, 0, 0], [10, 0, 0, 0], [10, 0, 0, 0]]
    assert of(1) == [[11, 17, 23, 40], [11, 2, 0, 0], [11, 20, 0, 0], [10, 0, 0, 0], [7, 0, 0, 0]]
    assert of(2) == [[9.5, 13.5, 23, 40], [2, 2, 0, 0], [11, 20, 0, 0], [10, 0, 0, 0], [7, 0, 0, 0]]
    assert of(3) == of(9) == rows(lambda_returns(ROWS, VALUES, discount=0.5))


def test_one_step_returns_are_lambda_returns_of_zero() -> None:
    one = n_step_returns(ROWS, VALUES, 1, discount=0.9)
    th.testing.assert_close(lambda_returns(ROWS, VALUES.nan_to_num(99.0), discount=0.9, lam=0.0), one)
    th.testing.assert_close(lambda_returns(ROWS, VALUES, discount=0.9, lam=0.0), one)


def test_expansions_by_hand() -> None:
    # Row 0: 10, 1 + 20 / 2, 1 + 2 / 2 + 30 / 4, 1 + 2 / 2 + 3 / 4 + 40 / 8.
    wanted = [[10, 11, 9.5, 7.75], [10, 11, 2, 2], [10, 11, 11, 11], [10, 10, 10, 10], [10, 7, 7, 7]]
    assert rows(expansions(ROWS, VALUES, discount=0.5)) == wanted


def test_an_expansion_is_the_n_step_return_of_the_start() -> None:
    found = expansions(ROWS, VALUES, discount=0.7)
    for horizon in range(4):
        th.testing.assert_close(found[horizon], n_step_returns(ROWS, VALUES, horizon, discount=0.7)[0])


def test_without_imagined_steps_all_of_them_are_the_values() -> None:
    nothing = unroll(oracle_model(OracleEnv()), Still(), th.zeros(5, 3), 0, generator=Generator())
    values = th.randn(1, 5, generator=Generator().manual_seed(0))
    assert lambda_returns(nothing, values, discount=0.9, lam=0.3).equal(values)
    assert n_step_returns(nothing, values, 4, discount=0.9).equal(values)
    assert expansions(nothing, values, discount=0.9).equal(values)
    mixture = inverse_variance_mean(expansions(nothing, values, discount=0.9)[:, None])
    assert mixture.mean.equal(values[0])  # to the last bit
    assert mixture.weights.equal(th.ones(1, 5))


class Still:
    """Acts with zero, which no oracle row terminates from at once."""

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        return th.zeros(len(obs), 2), None


def test_with_the_exact_model_the_expansion_is_the_true_discounted_sum() -> None:
    """Any horizon of exact steps plus the exact value of where they end is the value itself."""
    env, policy, discount = OracleEnv(), Still(), 0.9
    model = oracle_model(env)
    starts = th.tensor([[0.1, 0.3, -0.2], [0.9, 0.9, 0.0], [0.0, 0.0, 0.0]])

    def true_value(obs: Tensor) -> float:
        """The sum of what the environment itself pays, over so many steps that the rest is below 1e-9."""
        env.set_obs(obs.numpy())
        total, scale = 0.0, 1.0
        for _ in range(220):
            _, reward, terminated, _, _ = env.step(model.codec.to_env(th.zeros(1, 2))[0])
            total, scale = total + scale * reward, scale * discount
            if terminated:
                break
        return total

    found = unroll(model, policy, starts, 4, generator=Generator())
    assert found.terminated.any()
    lives = found.alive.flatten().tolist()
    flat = [true_value(obs) if alive else NAN for obs, alive in zip(found.obs.flatten(0, 1), lives, strict=True)]
    values = th.tensor(flat).reshape(5, 3)
    for lam in (0.0, 0.5, 1.0):
        returns = lambda_returns(found, values, discount=discount, lam=lam)
        th.testing.assert_close(returns[found.alive], values[found.alive], rtol=1e-4, atol=1e-4)
    th.testing.assert_close(expansions(found, values, discount=discount), values[:1].expand(5, 3), rtol=1e-4, atol=1e-4)


def test_steve_on_two_horizons_by_hand() -> None:
    # Horizon 0: 1 and 3, mean 2, variance 1. Horizon 1: 4 and 8, mean 6, variance 4. Weights 4 : 1.
    mixture = inverse_variance_mean(th.tensor([[[1.0], [3.0]], [[4.0], [8.0]]], dtype=th.float64), epsilon=1e-12)
    assert mixture.weights[:, 0].tolist() == pytest.approx([0.8, 0.2], rel=1e-9)
    assert mixture.mean.tolist() == pytest.approx([0.8 * 2 + 0.2 * 6], rel=1e-9)


def test_steve_takes_what_all_members_agree_about_and_adds_epsilon_to_each_variance() -> None:
    candidates = th.tensor([[[1.0, 5.0], [1.0, 5.0]], [[4.0, 7.0], [8.0, 7.0]]], dtype=th.float64)
    mixture = inverse_variance_mean(candidates)
    assert mixture.weights[0, 0].item() == pytest.approx(1 - 1e-8 / (4 + 2e-8), rel=1e-12)
    assert mixture.mean.tolist() == pytest.approx([1.0, 6.0], abs=2e-8)  # agreement about all: the plain mean
    half = inverse_variance_mean(candidates, epsilon=4.0).weights[:, 0].tolist()
    assert half == pytest.approx([2 / 3, 1 / 3])


def test_gradients_reach_rewards_and_values_that_are_read_and_no_others() -> None:
    reward = ROWS.reward.clone().requires_grad_()
    values = VALUES.nan_to_num(3.0).requires_grad_()
    lambda_returns(ROWS._replace(reward=reward), values, discount=0.5)[0].sum().backward()  # type: ignore[no-untyped-call]
    assert reward.grad is not None
    assert values.grad is not None
    assert rows(reward.grad) == [[1, 0.5, 0.25], [1, 0.5, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert rows(values.grad) == [[0, 0, 0, 0.125], [0, 0, 0, 0], [0, 0.5, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_wrong_arguments_are_refused() -> None:
    for function in (lambda_returns, expansions):
        with pytest.raises(ValueError, match=r"values must have shape \(H \+ 1, B\) = \(4, 5\)"):
            function(ROWS, VALUES[1:], discount=0.5)
        with pytest.raises(ValueError, match="discount must be a finite number of at least 0 and at most 1"):
            function(ROWS, VALUES, discount=1.5)
    with pytest.raises(ValueError, match="values must have shape"):
        n_step_returns(ROWS, VALUES[..., None], 1, discount=0.5)
    with pytest.raises(ValueError, match="steps must be an integer of at least 0"):
        n_step_returns(ROWS, VALUES, -1, discount=0.5)
    with pytest.raises(ValueError, match="lam must be"):
        lambda_returns(ROWS, VALUES, discount=0.5, lam=-0.1)
    with pytest.raises(ValueError, match=r"candidates must have shape \(H \+ 1, M, B\)"):
        inverse_variance_mean(th.zeros(3, 2))
    with pytest.raises(ValueError, match="epsilon must be positive"):
        inverse_variance_mean(th.zeros(2, 2, 1), epsilon=0.0)
