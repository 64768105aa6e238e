"""Gradients through an unrolled policy: closed forms, finite differences, rows that end, weights that stay."""

from __future__ import annotations

import math

import pytest
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers import Limits, unroll
from mbrl_wrappers.models.function import StepFn
from tests.unrolled_line import Gain, generator, line, never


def loop_value(a: float, k: float, horizon: int) -> float:
    r"""``J`` of the closed loop below by the recursion of its second moment :math:`P_t = E x_t^2`."""
    moment, value, variance = 1.0, 0.0, 0.01
    for _ in range(horizon):
        value -= moment + 0.1 * (k * k * moment + variance)
        moment = (a - k) ** 2 * moment + 2 * variance
    return value


@pytest.mark.parametrize(
    ("a", "k", "horizon", "value", "slope"),
    [
        (1.0, 0.5, 10, -1.61355, 1.93298),
        (1.0, 0.5, 50, -2.74689, 3.28415),
        (1.2, 0.1, 10, -28.9579, 307.498),
        (1.2, 0.1, 30, -1581.54, 68661.7),
    ],
)
def test_the_linear_closed_loop_has_its_exact_value_and_slope(
    a: float, k: float, horizon: int, value: float, slope: float
) -> None:
    r"""``x' = a x + u + 0.1 xi``, ``u = -k x + 0.1 eta``, reward ``-(x^2 + 0.1 u^2)``, all noise standard normal.

    The return is quadratic in the vector :math:`z` of all ``n`` draws, whose expectation is exactly the mean over the
    ``2 n`` points :math:`\pm\sqrt{n} e_i`. So one row per point gives the expectation without any sampling error.
    """
    count = 2 * horizon + 1
    points = math.sqrt(count) * th.cat([th.eye(count, dtype=th.float64), -th.eye(count, dtype=th.float64)])
    start, xi, eta = points[:, 0], points[:, 1 : horizon + 1], points[:, horizon + 1 :]

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, time = obs.unbind(1)
        following = a * x + action[:, 0] + 0.1 * xi[:, int(time[0])]
        return th.stack([following, time + 1], 1), -(x**2 + 0.1 * action[:, 0] ** 2), never(obs)

    class Noisy:
        def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
            return (-gain * obs[:, 0] + 0.1 * eta[:, int(obs[0, 1])])[:, None], None

    gain = th.tensor(k, dtype=th.float64, requires_grad=True)
    starts = th.stack([start, th.zeros_like(start)], 1)
    found = unroll(line(step, 2), Noisy(), starts, horizon, generator=generator())
    expected = found.reward.sum(0).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    assert expected.item() == pytest.approx(value, rel=5e-6)
    assert expected.item() == pytest.approx(loop_value(a, k, horizon), rel=1e-12)
    assert gain.grad is not None
    assert float(gain.grad) == pytest.approx(slope, rel=5e-6)


def test_gradients_of_everything_equal_finite_differences() -> None:
    """In float64, of a nonlinear model and a noisy policy, by the policy's parameters and by the starts."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = th.sin(obs + 0.5 * action * th.tensor([1.0, -0.3], dtype=obs.dtype))
        return following, obs.prod(1) + following[:, 0] ** 2 * action[:, 0], following[:, 1] > 0.6

    class Squashed:
        def __init__(self, gain: Tensor) -> None:
            self.gain = gain

        def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
            epsilon = th.randn((len(obs), 1), generator=generator, dtype=obs.dtype)
            spread = 0.1 + obs[:, :1] ** 2
            action = th.tanh(obs @ self.gain[:, None] + spread * epsilon)
            return action, (-spread.log() - (1 - action**2).log())[:, 0]

    def results(gain: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        found = unroll(line(step, 2), Squashed(gain), starts, 5, generator=generator(2))
        assert found.terminated.any()
        assert found.alive[-1].any()
        assert found.log_prob is not None
        # What repeats after the end of a row depends on the inputs, and is to carry no gradient.
        obs = th.where(found.valid[..., None], found.obs[1:], 0.0)
        return obs, found.action, found.reward, found.log_prob

    gain = th.tensor([0.7, -0.4], dtype=th.float64, requires_grad=True)
    starts = th.linspace(-1, 1, 12, dtype=th.float64).reshape(6, 2).requires_grad_()
    assert th.autograd.gradcheck(results, (gain, starts))


def root(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``x' = sqrt(x + a)``: NaN below zero, with an infinite derivative at zero."""
    following = th.sqrt(obs + action)
    return following, following[:, 0], never(obs)


def pole(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Infinite at ``x + a = 0``, and so are its derivatives."""
    following = 1 / (obs + action)
    return obs + action, following[:, 0], never(obs)


def out_of_range(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Far away from where limits can be, and with a derivative that overflows, below zero."""
    x = obs + action
    following = th.where(x < 0.5, 1e30 * th.sqrt((x - 0.1).abs()), x)
    return following, following[:, 0], never(obs)


@pytest.mark.parametrize(
    ("step", "bad"), [(root, -1.0), (root, -4.0), (pole, 0.0), (out_of_range, 0.2), (out_of_range, 0.0)]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_that_breaks_leaves_the_gradient_of_its_neighbours_as_it_was(
    step: StepFn, bad: float, place: int
) -> None:
    limits = Limits(th.tensor([-100.0]), th.tensor([100.0]), th.tensor(-100.0), th.tensor(100.0))
    alone = th.tensor([[1.0], [2.0]], dtype=th.float64)
    broken = th.cat([alone[:place], th.full((1, 1), bad, dtype=th.float64), alone[place:]])

    def gradient(starts: Tensor) -> tuple[Tensor, Tensor]:
        gain = th.tensor(-0.5, dtype=th.float64, requires_grad=True)
        starts = starts.clone().requires_grad_()
        found = unroll(line(step), Gain(gain), starts, 3, generator=generator(), limits=limits)
        (found.reward.sum() + (found.obs[1:] ** 2).sum() + (found.action**3).sum()).backward()  # type: ignore[no-untyped-call]
        assert gain.grad is not None
        assert starts.grad is not None
        return gain.grad, starts.grad[:, 0]

    (expected, by_start), (found, by_broken) = gradient(alone), gradient(broken)
    assert bool(expected != 0)
    assert expected.isfinite()
    th.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    kept = [row for row in range(3) if row != place]
    th.testing.assert_close(by_broken[kept], by_start, rtol=1e-12, atol=1e-12)
    assert by_broken[place] == 0


def test_a_row_keeps_the_gradient_of_the_steps_before_its_end_and_no_other() -> None:
    """Rewards ``x' = x - g x``: row 0 lives on, row 1 terminates after two steps, row 2 breaks at the third."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, time, kind = obs.unbind(1)
        following = x + action[:, 0]
        broken = following / ((kind != 2) | (time != 2))
        return th.stack([broken, time + 1, kind], 1), broken, (kind == 1) & (time == 1)

    gain = th.tensor(0.5, dtype=th.float64, requires_grad=True)
    starts = th.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 2.0]], dtype=th.float64)
    found = unroll(line(step, 3), Gain(gain), starts, 4, generator=generator())
    # x_t = (1 - g)^t, so d/dg x_t = -t (1 - g)^(t - 1).
    slopes = [-t * 0.5 ** (t - 1) for t in range(5)]
    for row, steps in ((0, 4), (1, 2), (2, 2)):
        assert int(found.valid[:, row].sum()) == steps
        for values, upto in ((found.reward[:, row], steps), (found.obs[1:, row, 0], steps)):
            for time in range(4):
                (slope,) = th.autograd.grad(values[time], gain, retain_graph=True, allow_unused=True)
                expected = slopes[time + 1] if time < upto else 0.0
                assert (0.0 if slope is None else float(slope)) == pytest.approx(expected, abs=1e-12)


def test_under_no_grad_nothing_is_recorded() -> None:
    gain = th.tensor(0.5, dtype=th.float64, requires_grad=True)
    with th.no_grad():
        found = unroll(line(root), Gain(gain), th.ones(2, 1, dtype=th.float64), 2, generator=generator())
    assert not any(field.requires_grad for field in found if field is not None)
