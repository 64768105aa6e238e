"""Growth of Jacobian products and variances by horizon where both are known."""

from __future__ import annotations

import math

import pytest
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.gradient_estimators import ImaginedReturn
from mbrl_wrappers.gradient_health import gradient_health, log_growth
from tests.test_gradient_estimators import Normal, in_numpy
from tests.unrolled_line import Gain, generator, line, never


@pytest.mark.parametrize(("a", "k"), [(1.0, 0.5), (1.2, 0.1), (0.5, 2.0)])
def test_a_linear_loop_grows_by_the_log_of_its_pole(a: float, k: float) -> None:
    model = line(lambda obs, action: (a * obs + action, obs[:, 0], never(obs)))
    policy = Gain(th.tensor(k, dtype=th.float64), noise=0.3)
    found = log_growth(model, policy, th.ones(5, 1, dtype=th.float64), 6, generator=generator())
    assert found.tolist() == pytest.approx([math.log(abs(a - k))] * 6, rel=1e-9)


def test_the_logistic_map_grows_by_its_lyapunov_exponent() -> None:
    r"""``x' = 4 x (1 - x)`` is chaotic with the exponent :math:`\ln 2`; starts follow its invariant density."""

    class Idle:
        def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
            return th.zeros_like(obs), None

    model = line(lambda obs, action: (4 * obs * (1 - obs), obs[:, 0], never(obs)))
    starts = th.sin(0.5 * math.pi * th.rand(4000, 1, generator=generator(1), dtype=th.float64)) ** 2
    found = log_growth(model, Idle(), starts, 25, generator=generator())
    assert found.tolist() == pytest.approx([math.log(2)] * 25, abs=0.06)
    assert float(found[-1]) == pytest.approx(math.log(2), abs=0.01)


def test_rows_that_ended_are_left_out() -> None:
    """Rows grow by 2 or by 3, and the second kind terminates after its first step."""
    model = line(
        lambda obs, action: (
            th.where(obs.abs() < 10, 2 * obs, 3 * obs) + 0 * action,
            obs[:, 0],
            (obs[:, 0].abs() >= 10),
        )
    )
    policy = Gain(th.tensor(0.0, dtype=th.float64))
    found = log_growth(model, policy, th.tensor([[1.0], [20.0]], dtype=th.float64), 3, generator=generator())
    assert found.tolist() == pytest.approx([math.log(2)] * 3)
    ended = log_growth(model, policy, th.tensor([[20.0]], dtype=th.float64), 2, generator=generator())
    assert ended.isnan().all()


def test_the_variance_of_a_row_is_that_of_the_closed_form() -> None:
    """``x' = x + u + 0.1 xi`` under ``u = -x / 2 + 0.1 eta``: standard deviations 2.6 and 56 at ten steps."""
    noise = generator(4)

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        xi = th.randn(obs.shape, generator=noise, dtype=obs.dtype)
        return obs + action + 0.1 * xi, -(obs**2 + 0.1 * action**2)[:, 0], never(obs)

    gain = th.tensor(0.5, dtype=th.float64, requires_grad=True)
    found = gradient_health(
        line(step),
        Normal(lambda obs: -gain * obs[:, 0], 0.1),
        [gain],
        th.randn(3000, 1, generator=generator(1), dtype=th.float64),
        ImaginedReturn(1, discount=1.0, baseline="none"),
        (1, 10),
        generator=generator(2),
        groups=60,
    )
    assert found.horizons == (1, 10)
    assert found.pathwise_norm[1] == pytest.approx(1.93298, rel=0.1)
    assert found.pathwise_variance[1] == pytest.approx(2.6**2, rel=0.4)
    assert found.likelihood_ratio_variance[1] == pytest.approx(56.0**2, rel=0.4)
    assert found.pathwise_norm[0] == pytest.approx(0.1 * 2 * 0.5, rel=0.1)  # E 0.2 k x^2, downhill
    assert found.log_growth == pytest.approx((math.log(0.5), math.log(0.5)))


def test_wrong_arguments_are_refused() -> None:
    gain = th.tensor(0.5, dtype=th.float64, requires_grad=True)
    policy = Normal(lambda obs: -gain * obs[:, 0], 0.1)
    starts, objective = th.ones(9, 1, dtype=th.float64), ImaginedReturn(1)
    model = line(lambda obs, action: (obs + action, obs[:, 0], never(obs)))
    with pytest.raises(ValueError, match="9 starts cannot be cut into 4 equal groups"):
        gradient_health(model, policy, [gain], starts, objective, (1,), generator=generator(), groups=4)
    with pytest.raises(ValueError, match="groups must be an integer of at least 2"):
        gradient_health(model, policy, [gain], starts, objective, (1,), generator=generator(), groups=1)
    with pytest.raises(ValueError, match="horizons must be an integer of at least 1"):
        gradient_health(model, policy, [gain], starts, objective, (0,), generator=generator(), groups=3)
    with pytest.raises(TypeError, match="No gradient flows through FunctionModel"):
        gradient_health(line(in_numpy), policy, [gain], starts, objective, (2,), generator=generator(), groups=3)
    with pytest.raises(TypeError, match="No gradient flows through FunctionModel"):
        log_growth(line(in_numpy), policy, starts, 2, generator=generator())


def test_a_state_that_forgets_its_start_shrinks_without_bound() -> None:
    model = line(lambda obs, action: (0 * obs + action.detach(), obs[:, 0], never(obs)))
    policy = Gain(th.tensor(0.5, dtype=th.float64))
    found = log_growth(model, policy, th.ones(3, 1, dtype=th.float64), 2, generator=generator())
    assert found.tolist() == [-math.inf, -math.inf]
