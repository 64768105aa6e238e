"""Both gradient estimators against closed forms, hand-computed rows and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers import EnsembleDynamics, FunctionModel, Limits
from mbrl_wrappers.gradient_estimators import (
    Baseline,
    Estimate,
    ImaginedReturn,
    group_gradients,
    likelihood_ratio,
    pathwise,
)
from mbrl_wrappers.models.function import StepFn
from tests.oracle import OracleEnv, oracle_model
from tests.unrolled_line import generator, line, never

ESTIMATORS = [pathwise, likelihood_ratio]


class Normal:
    """``a = mean(obs) + std * noise``, with a parameter of its own in each row where ``mean`` holds one."""

    def __init__(self, mean: Callable[[Tensor], Tensor], std: float) -> None:
        self.mean, self.std = mean, std

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        noise = th.randn(len(obs), generator=generator, dtype=obs.dtype)
        action = self.mean(obs) + self.std * noise
        return action[:, None], -0.5 * noise**2 - math.log(self.std * math.sqrt(2 * math.pi))

    def sample_scored(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        action, _ = self.sample(obs, generator=generator)
        density = th.distributions.Normal(self.mean(obs), self.std)
        return action.detach(), density.log_prob(action[:, 0].detach())


def moments(samples: Tensor) -> tuple[float, float, float, float]:
    """Mean and variance with their standard errors."""
    mean, count = samples.mean(), len(samples)
    squares = (samples - mean) ** 2
    variance = float(squares.mean())
    return float(mean), (variance / count) ** 0.5, variance, float(squares.std()) / count**0.5


def row_gradients(estimate: Estimate, parameter: Tensor) -> Tensor:
    """The gradient of each row by the row's own parameter, ``(B,)``."""
    (found,) = th.autograd.grad(estimate.rows.sum(), parameter)
    return found


def of_action(reward: Callable[[Tensor], Tensor]) -> StepFn:
    """A model of one step that pays for the action."""
    return lambda obs, action: (obs + action, reward(action[:, 0]), never(obs))


@pytest.mark.parametrize(
    ("w", "gradient", "of_pathwise", "of_ratio"),
    [(0.5, 0.47917, 0.0008, 0.506), (2.0, 1.00118, 1.0957, 1.2919), (5.0, 0.01554, 12.5, 2.0), (10.0, -4e-5, 50, 2)],
)
def test_a_sine_of_a_normal_action(w: float, gradient: float, of_pathwise: float, of_ratio: float) -> None:
    r"""``F = E sin(w a)``, ``a ~ N(0.3, 0.5^2)``: both unbiased, and the variance of the pathwise one grows with ``w``.

    .. math:: F' = w e^{-w^2 s^2 / 2} \cos w\theta, \quad
              Var_{PW} = \tfrac{w^2}{2} (1 + e^{-2 w^2 s^2} \cos 2 w \theta) - F'^2, \quad
              Var_{LR} = \tfrac{1 - (1 - 4 w^2 s^2) e^{-2 w^2 s^2} \cos 2 w \theta}{2 s^2} - F'^2
    """
    s, centre, rows = 0.5, 0.3, 200_000
    damped = math.exp(-2 * w**2 * s**2) * math.cos(2 * w * centre)
    slope = w * math.exp(-(w**2) * s**2 / 2) * math.cos(w * centre)
    assert slope == pytest.approx(gradient, abs=1e-5)
    theta = th.full((rows,), centre, dtype=th.float64, requires_grad=True)
    model = line(of_action(lambda action: th.sin(w * action)))
    objective = ImaginedReturn(1, discount=1.0, baseline="none")
    exact = (
        (pathwise, w**2 / 2 * (1 + damped) - slope**2, of_pathwise),
        (likelihood_ratio, (1 - (1 - 4 * w**2 * s**2) * damped) / (2 * s**2) - slope**2, of_ratio),
    )
    for estimator, formula, table in exact:
        assert formula == pytest.approx(table, rel=1e-3, abs=5e-5)
        starts = th.zeros(rows, 1, dtype=th.float64)
        found = estimator(model, Normal(lambda obs: theta, s), starts, objective, generator=generator(1))
        mean, mean_error, variance, variance_error = moments(row_gradients(found, theta))
        assert abs(mean - slope) < 4 * mean_error
        assert abs(variance - formula) < 4 * variance_error


@pytest.mark.parametrize(
    ("a", "k", "horizon", "slope", "of_pathwise", "of_ratio"),
    [
        (1.0, 0.5, 10, 1.93298, 2.6, 56.0),
        (1.0, 0.5, 50, 3.28415, 2.7, 67.0),
        (1.2, 0.1, 10, 307.498, 437.0, 3.8e3),
        (1.2, 0.1, 30, 68661.7, 9.9e4, 1.6e6),
    ],
)
def test_the_linear_closed_loop(
    a: float, k: float, horizon: int, slope: float, of_pathwise: float, of_ratio: float
) -> None:
    """``x' = a x + u + 0.1 xi``, ``u = -k x + 0.1 eta``, reward ``-(x^2 + 0.1 u^2)``, ``x_0 ~ N(0, 1)``: exact dJ/dk.

    Both are unbiased with the standard deviations stated, and here the pathwise one is better at every horizon. The
    mean over the other rows takes the place of no baseline without a change in expectation.
    """
    rows, draws = 20_000, generator(3)
    noise = generator(4)

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        xi = th.randn(obs.shape, generator=noise, dtype=obs.dtype)
        return a * obs + action + 0.1 * xi, -(obs**2 + 0.1 * action**2)[:, 0], never(obs)

    gain = th.full((rows,), k, dtype=th.float64, requires_grad=True)
    policy = Normal(lambda obs: -gain * obs[:, 0], 0.1)
    starts = th.randn(rows, 1, generator=draws, dtype=th.float64)
    spreads = {}
    for estimator, baseline in ((pathwise, "none"), (likelihood_ratio, "none"), (likelihood_ratio, "mean")):
        objective = ImaginedReturn(horizon, discount=1.0, baseline=baseline)  # type: ignore[arg-type]
        found = row_gradients(estimator(line(step), policy, starts, objective, generator=draws), gain)
        mean, error, variance, _ = moments(found)
        assert abs(mean - slope) < 4 * error
        spreads[estimator.__name__, baseline] = variance**0.5
    assert spreads["pathwise", "none"] == pytest.approx(of_pathwise, rel=0.15)
    assert spreads["likelihood_ratio", "none"] == pytest.approx(of_ratio, rel=0.15)
    assert spreads["likelihood_ratio", "mean"] < spreads["likelihood_ratio", "none"]


class ScoredByTable:
    """Acts with zero; the log-probability of each step and row is a parameter of its own."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.time = table, 0

    def sample_scored(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        self.time += 1
        return obs.new_zeros(len(obs), 1), self.table[self.time - 1]


def three_kinds(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards 1, 2, 3. Row 0 lives on, row 1 terminates in its second step, row 2 is broken in its second."""
    time, kind = obs.unbind(1)
    broken = th.where((kind == 2) & (time == 1), th.nan, time + 1)
    return th.stack([broken, kind], 1), time + 1, (kind == 1) & (time == 1)


class TenTimes:
    """``V = 10 (time + 1)``."""

    def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
        return 10 * (obs[:, 0] + 1)


@pytest.mark.parametrize(
    ("baseline", "with_value", "expected"),
    [
        # Returns, discount 1/2. Row 0: 3, 2 + 3/2 = 3.5, 1 + 3.5/2 = 2.75. Row 1: 2, 1 + 2/2. Row 2: 1.
        ("none", False, [[2.75, 3.5 / 2, 3 / 4], [2, 2 / 2, 0], [1, 0, 0]]),
        # The mean over the others that took the step: (2 + 1) / 2, (2.75 + 1) / 2, (2.75 + 2) / 2; then 2 and 3.5.
        ("mean", False, [[1.25, (3.5 - 2) / 2, 3 / 4], [0.125, (2 - 3.5) / 2, 0], [-1.375, 0, 0]]),
        # With V at the end: 3 + 40/2 = 23, 13.5, 7.75; 2, 2; 1 + 20/2 = 11. Less V = 10, 20, 30.
        ("value", True, [[-2.25, -6.5 / 2, -7 / 4], [-8, -18 / 2, 0], [1, 0, 0]]),
    ],
)
def test_the_weight_of_each_score_by_hand(baseline: Baseline, with_value: bool, expected: list[list[float]]) -> None:
    table = th.zeros(3, 3, dtype=th.float64, requires_grad=True)
    starts = th.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]], dtype=th.float64)
    objective = ImaginedReturn(3, discount=0.5, baseline=baseline, value=TenTimes() if with_value else None)
    found = likelihood_ratio(line(three_kinds, 2), ScoredByTable(table), starts, objective, generator=generator())
    found.rows.sum().backward()  # type: ignore[no-untyped-call]
    assert table.grad is not None
    assert table.grad.T.tolist() == expected
    assert found.returns.tolist() == ([7.75, 2, 11] if with_value else [2.75, 2, 1])


def test_nothing_after_the_end_of_a_row_reaches_either_gradient() -> None:
    """A parameter that acts in the third step only: of three rows, one gets there."""
    late = th.zeros(3, dtype=th.float64, requires_grad=True)

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, reward, terminated = three_kinds(obs, action)
        return following + 0 * action, reward * (1 + action[:, 0]), terminated

    policy = Normal(lambda obs: late * (obs[:, 0] >= 2), 0.1)
    starts = th.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]], dtype=th.float64)
    # A parameter that would be read at the last observation of every row: row 1 stands at time 2 after its end.
    for estimator in ESTIMATORS:
        objective = ImaginedReturn(3, discount=1.0, baseline="none")
        found = row_gradients(estimator(line(step, 2), policy, starts, objective, generator=generator()), late)
        assert found[0] != 0
        assert found[1:].tolist() == [0, 0]


class ByHand:
    """A value with a parameter: ``V(s) = theta s``."""

    def __init__(self, theta: Tensor) -> None:
        self.theta = theta

    def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
        return self.theta.repeat(len(obs) // len(self.theta)) * obs[:, 0]


def test_a_value_that_depends_on_the_parameters_counts_in_both() -> None:
    """``s' = a``, ``a ~ N(theta, 1/4)``, ``V = theta s``: discount 1/2: ``J = theta^2 / 2``, ``J' = theta``."""
    rows = 100_000
    theta = th.full((rows,), 0.8, dtype=th.float64, requires_grad=True)
    model = line(lambda obs, action: (action, 0 * action[:, 0], never(obs)))
    for estimator in ESTIMATORS:
        for baseline in ("none", "mean", "value"):
            objective = ImaginedReturn(1, 0.5, value=ByHand(theta), baseline=baseline)  # type: ignore[arg-type]
            starts = th.zeros(rows, 1, dtype=th.float64)
            policy = Normal(lambda obs: theta, 0.5)
            found = estimator(model, policy, starts, objective, generator=generator(2))
            mean, error, _, _ = moments(row_gradients(found, theta))
            assert abs(mean - 0.8) < 4 * error


@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_returns_that_lean_on_a_value_have_one_gradient(lam: float) -> None:
    """``r = a``, ``s' = s + a``, ``V = c s``: two steps: ``J = c + g [(1 - l) c^2 + l (c + 2 g c^2)]``."""
    rows, theta_0, discount = 100_000, 0.7, 0.5
    theta = th.full((rows,), theta_0, dtype=th.float64, requires_grad=True)
    model = line(lambda obs, action: (obs + action, action[:, 0], never(obs)))
    expected = 1 + discount * ((1 - lam) * 2 * theta_0 + lam * (1 + 4 * discount * theta_0))
    for estimator in ESTIMATORS:
        for baseline in ("none", "mean", "value"):
            objective = ImaginedReturn(2, discount, value=ByHand(theta), lam=lam, baseline=baseline)  # type: ignore[arg-type]
            starts = th.zeros(rows, 1, dtype=th.float64)
            policy = Normal(lambda obs: theta, 0.5)
            found = estimator(model, policy, starts, objective, generator=generator(2))
            mean, error, _, _ = moments(row_gradients(found, theta))
            assert abs(mean - expected) < 4 * error + 1e-9


def test_a_value_after_a_termination_counts_in_neither() -> None:
    """Row 0 terminates at once, row 1 goes on: of a value ``theta s`` at ``s = 2`` only row 1 gets the derivative."""
    theta = th.ones(2, dtype=th.float64, requires_grad=True)
    model = line(lambda obs, action: (2 + 0 * action, 0 * action[:, 0], obs[:, 0] == 5))
    fixed = Normal(lambda obs: 0 * theta, 0.5)
    for estimator in ESTIMATORS:
        objective = ImaginedReturn(1, 0.5, value=ByHand(theta), baseline="none")
        starts = th.tensor([[5.0], [1.0]], dtype=th.float64)
        found = estimator(model, fixed, starts, objective, generator=generator(2))
        assert row_gradients(found, theta).tolist() == [0, 0.5 * 2]


def test_the_entropy_of_a_normal_is_maximised_alike() -> None:
    """Reward zero: the gradient of ``-alpha ln pi`` by the log of the spread is ``alpha``, whatever the estimator."""

    class Spread:
        def __init__(self, log_std: Tensor) -> None:
            self.log_std = log_std

        def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
            noise = th.randn(len(obs), generator=generator, dtype=obs.dtype)
            return (self.log_std.exp() * noise)[:, None], -0.5 * noise**2 - self.log_std

        def sample_scored(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
            action = self.sample(obs, generator=generator)[0].detach()
            return action, -0.5 * (action[:, 0] / self.log_std.exp()) ** 2 - self.log_std

    rows = 100_000
    log_std = th.full((rows,), -0.5, dtype=th.float64, requires_grad=True)
    model = line(lambda obs, action: (obs + action, 0 * action[:, 0], never(obs)))
    objective = ImaginedReturn(2, 0.5, entropy_coef=0.3)
    for estimator in ESTIMATORS:
        starts = th.zeros(rows, 1, dtype=th.float64)
        found = row_gradients(estimator(model, Spread(log_std), starts, objective, generator=generator(5)), log_std)
        mean, error, _, _ = moments(found)
        assert abs(mean - 0.3 * 1.5) < 4 * error + 1e-12


def test_the_pathwise_gradient_equals_finite_differences_with_fixed_draws() -> None:
    net = th.nn.Sequential(th.nn.Linear(2, 4), th.nn.Tanh(), th.nn.Linear(4, 1)).double()
    value = th.nn.Linear(2, 1).double()
    fixed = generator(9)
    with th.no_grad():
        for weight in (*net.parameters(), *value.parameters()):
            weight.copy_(0.7 * th.randn(weight.shape, generator=fixed, dtype=th.float64))

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = th.sin(obs + action * th.tensor([1.0, -0.3], dtype=obs.dtype))
        return following, following.prod(1) - action[:, 0] ** 2, following[:, 1] > 0.8

    class End:
        def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
            return value(obs)[:, 0] + 0.1 * th.randn(len(obs), generator=generator, dtype=obs.dtype)

    policy = Normal(lambda obs: net(obs)[:, 0], 0.3)
    starts = th.randn(12, 2, generator=fixed, dtype=th.float64)
    for lam in (1.0, 0.6):
        objective = ImaginedReturn(4, 0.9, value=End(), entropy_coef=0.2, lam=lam)

        def expected(objective: ImaginedReturn = objective) -> Estimate:
            return pathwise(line(step, 2), policy, starts, objective, generator=generator(3))

        found = expected()
        assert found.unrolled.terminated.any()
        assert found.unrolled.alive[-1].any()
        gradient = group_gradients([found.rows], list(net.parameters()))[0]
        place = 0
        for weight in net.parameters():
            for index in range(weight.numel()):
                sides = []
                for sign in (1, -1):
                    with th.no_grad():
                        weight.view(-1)[index] += sign * 1e-6
                        sides.append(float(expected().rows.mean()))
                        weight.view(-1)[index] -= sign * 1e-6
                assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(float(gradient[place]), rel=1e-5, abs=1e-8)
                place += 1


def ensemble() -> EnsembleDynamics:
    env = OracleEnv()
    return EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=2, hidden=(8,), device="cpu"
    )


class Both:
    """A policy of two actions with one parameter."""

    def __init__(self, theta: Tensor) -> None:
        self.theta = theta

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        noise = th.randn((len(obs), 2), generator=generator)
        return (self.theta * obs[:, :2] + 0.1 * noise).clamp(-1, 1), -0.5 * (noise**2).sum(1)

    def sample_scored(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        action = self.sample(obs, generator=generator)[0].detach()
        return action, -0.5 * (((action - self.theta * obs[:, :2]) / 0.1) ** 2).sum(1)


STARTS = th.linspace(-0.5, 0.5, 24).reshape(8, 3)


def test_the_weights_of_the_model_get_no_gradient() -> None:
    model, theta = ensemble(), th.tensor(0.3, requires_grad=True)
    for estimator in ESTIMATORS:
        theta.grad = None
        estimate = estimator(model, Both(theta), STARTS, ImaginedReturn(3), generator=generator())
        estimate.rows.mean().backward()  # type: ignore[no-untyped-call]
        assert theta.grad is not None
        assert theta.grad != 0
        assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_both_estimators_see_the_same_draws() -> None:
    model, theta = ensemble(), th.tensor(0.3, requires_grad=True)
    first, second = (
        estimator(model, Both(theta), STARTS, ImaginedReturn(3), generator=generator(7)) for estimator in ESTIMATORS
    )
    th.testing.assert_close(first.returns, second.returns, rtol=1e-5, atol=1e-5)


def in_numpy(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A model that leaves torch."""
    following = th.from_numpy(obs.numpy() + 0.5 * action.numpy())
    return following, -(following[:, 0] ** 2), never(obs)


def cut_off(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The next observation loses its derivative, the reward keeps that of the action."""
    following = obs + 0.5 * action
    return following.detach(), -(following[:, 0] ** 2), never(obs)


def test_the_likelihood_ratio_works_with_models_that_pathwise_refuses() -> None:
    gain = th.full((4000,), 0.5, dtype=th.float64, requires_grad=True)
    policy = Normal(lambda obs: -gain * obs[:, 0], 0.3)
    starts = th.ones(4000, 1, dtype=th.float64)
    objective = ImaginedReturn(3)

    def twin(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = obs + 0.5 * action
        return following, -(following[:, 0] ** 2), never(obs)

    wanted = row_gradients(likelihood_ratio(line(twin), policy, starts, objective, generator=generator()), gain)
    for step in (in_numpy, cut_off):
        found = row_gradients(likelihood_ratio(line(step), policy, starts, objective, generator=generator()), gain)
        th.testing.assert_close(found, wanted)
        with pytest.raises(TypeError, match=r"No gradient flows through FunctionModel.*estimator='likelihood_ratio'"):
            pathwise(line(step), policy, starts, objective, generator=generator())


def test_a_reward_without_derivative_is_refused_unless_a_value_follows() -> None:
    gain = th.tensor(0.5, dtype=th.float64, requires_grad=True)
    model = line(lambda obs, action: (obs + action, th.ones_like(obs[:, 0]), obs[:, 0].abs() > 3))
    policy, starts = Normal(lambda obs: -gain * obs[:, 0], 0.3), th.ones(4, 1, dtype=th.float64)
    with pytest.raises(TypeError, match="reward of this model has no derivative"):
        pathwise(model, policy, starts, ImaginedReturn(3), generator=generator())
    assert pathwise(model, policy, starts, ImaginedReturn(3, value=TenTimes()), generator=generator()).rows.grad_fn


def test_other_errors_of_a_model_are_passed_on() -> None:
    def broken(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs @ action, obs[:, 0], never(obs)

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        pathwise(
            line(broken), Normal(lambda obs: obs[:, 0], 0.3), th.ones(4, 1), ImaginedReturn(1), generator=generator()
        )


def test_a_simulator_is_sampled() -> None:
    model = oracle_model(OracleEnv())
    real = FunctionModel(
        model.observation_space,
        model.action_space,
        lambda obs, action: tuple(part.detach() for part in model._step_fn(obs, action)),  # type: ignore[arg-type,return-value]
    )
    theta = th.tensor(0.3, requires_grad=True)
    estimate = likelihood_ratio(real, Both(theta), STARTS, ImaginedReturn(3), generator=generator())
    assert group_gradients([estimate.rows], [theta]).abs().item() > 0


def test_limits_of_a_model_end_rows_and_their_scores() -> None:
    model = line(lambda obs, action: (obs + 1, obs[:, 0], never(obs)))
    model.limits = Limits.none(1)._replace(obs_high=th.tensor([2.0]))  # type: ignore[attr-defined]
    table = th.zeros(3, 1, dtype=th.float64, requires_grad=True)
    objective = ImaginedReturn(3, 1.0, baseline="none")
    starts = th.ones(1, 1, dtype=th.float64)
    found = likelihood_ratio(model, ScoredByTable(table), starts, objective, generator=generator())
    found.rows.sum().backward()  # type: ignore[no-untyped-call]
    assert table.grad is not None
    assert table.grad.flatten().tolist() == [1, 0, 0]


def test_gradients_of_groups() -> None:
    theta = th.tensor([1.0, 2.0], requires_grad=True)
    unused = th.zeros(3, requires_grad=True)
    groups = [theta * th.tensor([2.0, 4.0]), theta.sum() * th.ones(4), th.ones(2)]
    assert group_gradients(groups, [theta, unused]).tolist() == [[1, 2, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="horizon must be an integer of at least 0"):
        ImaginedReturn(-1)
    with pytest.raises(ValueError, match="baseline must be"):
        ImaginedReturn(1, baseline="critic")  # type: ignore[arg-type]
    for wrong in ({"baseline": "value"}, {"lam": 0.9}, {"horizon": 0}):
        with pytest.raises(ValueError, match="A value is needed"):
            ImaginedReturn(**{"horizon": 1} | wrong)  # type: ignore[arg-type]

    class Column:
        def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
            return obs

    model = line(of_action(lambda action: action))
    policy = Normal(lambda obs: obs[:, 0], 0.3)
    for estimator in ESTIMATORS:
        with pytest.raises(ValueError, match=r"The value must have shape \(4,\)"):
            estimator(model, policy, th.ones(4, 1), ImaginedReturn(1, value=Column()), generator=generator())

    class Silent:
        def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
            return obs, None

    with pytest.raises(ValueError, match="A deterministic policy has no entropy"):
        pathwise(model, Silent(), th.ones(4, 1), ImaginedReturn(1, entropy_coef=0.1), generator=generator())
