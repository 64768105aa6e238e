"""Weights of a model that get no gradient from what is unrolled in it."""

from __future__ import annotations

import pytest
import torch as th
from torch import Generator, Tensor, nn

from mbrl_wrappers import EnsembleDynamics, FunctionModel, Limits, WithReward, unroll
from mbrl_wrappers.frozen_weights import FrozenWeights
from tests.oracle import OracleEnv, oracle_reward, oracle_termination
from tests.unrolled_line import Gain, generator, line, never


def ensemble(**kwargs: object) -> EnsembleDynamics:
    env = OracleEnv()
    defaults: dict[str, object] = {"num_members": 3, "num_elites": 2, "hidden": (8,), "device": "cpu"}
    return EnsembleDynamics(env.observation_space, env.action_space, **(defaults | kwargs))  # type: ignore[arg-type]


LINE = line(lambda obs, action: (obs, obs[:, 0], never(obs)))
"""For its spaces."""


class Tanh:
    """A small network that acts, and the parameters of which are learned."""

    def __init__(self) -> None:
        with th.random.fork_rng():
            th.manual_seed(0)
            self.net = nn.Linear(3, 2)

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        mean = self.net(obs)
        return th.tanh(mean + 0.1 * th.randn(mean.shape, generator=generator)), None


@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean", "infoprop"])
@pytest.mark.parametrize("learned", [True, False])
def test_the_weights_of_an_ensemble_get_no_gradient_and_the_policys_do(propagation: str, learned: bool) -> None:
    known = {} if learned else {"reward_fn": oracle_reward, "termination_fn": oracle_termination}
    model, policy = ensemble(propagation=propagation, **known), Tanh()
    for wrapped in (model, WithReward(model, oracle_reward)):
        policy.net.zero_grad()
        found = unroll(wrapped, policy, th.full((20, 3), 0.1), 3, generator=generator(), limits=Limits.none(3))
        (found.reward.sum() + found.obs.square().sum()).backward()  # type: ignore[no-untyped-call]
        assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
        assert policy.net.weight.grad is not None
        assert bool((policy.net.weight.grad != 0).all())


@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean", "infoprop"])
def test_frozen_weights_leave_the_policys_gradient_as_it_is(propagation: str) -> None:
    """Against the same formulas written out, step by step, with weights that collect gradients too."""
    model, policy, starts = ensemble(propagation=propagation), Tanh(), th.full((6, 3), 0.1)
    found = unroll(model, policy, starts, 3, generator=generator(), limits=Limits.none(3))
    alive = found.valid  # a learned termination may end a row
    wanted = th.autograd.grad((found.reward * alive).sum(), policy.net.weight)[0]
    draws, total, obs = generator(), th.zeros(()), starts
    state = model.reset(starts, generator=draws)
    for step in range(3):
        action, _ = policy.sample(obs, generator=draws)
        state, prediction = model.step(state, action, generator=draws)
        obs, total = prediction.next_obs, total + (prediction.reward * alive[step]).sum()
    th.testing.assert_close(th.autograd.grad(total, policy.net.weight)[0], wanted, rtol=1e-4, atol=1e-5)


class Product(th.autograd.Function):
    """``x w`` with derivatives of its own: torch's overrides do not see what a Function is applied to."""

    @staticmethod
    def forward(ctx, x, w):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, w = ctx.saved_tensors
        return gradient * w, (gradient * x).sum()


@pytest.mark.parametrize("hidden_in", ["closure", "leaf", "function", "late"])
def test_weights_that_only_a_function_knows_are_found(hidden_in: str) -> None:
    net = nn.Linear(1, 1, dtype=th.float64)
    leaf = th.tensor(0.9, dtype=th.float64, requires_grad=True)

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = 0.9 * obs + action
        if hidden_in == "closure" or (hidden_in == "late" and obs[0, 0] < 1):
            following = following + 0 * net(obs)
        elif hidden_in == "leaf":
            following = leaf * obs + action
        elif hidden_in == "function":
            following = Product.apply(obs, leaf) + action  # type: ignore[no-untyped-call]
        return following, following[:, 0], never(obs)

    gain = th.tensor(0.4, dtype=th.float64, requires_grad=True)
    found = unroll(line(step), Gain(gain, noise=0.01), th.ones(1, 1, dtype=th.float64), 3, generator=generator())
    found.reward.sum().backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is None
    assert net.weight.grad is None
    assert net.bias.grad is None
    assert leaf.requires_grad
    assert net.weight.requires_grad
    # The same draws, whichever way the weights were found.
    plain = unroll(
        line(lambda obs, action: (0.9 * obs + action, (0.9 * obs + action)[:, 0], never(obs))),
        Gain(gain.detach(), noise=0.01),
        th.ones(1, 1, dtype=th.float64),
        3,
        generator=generator(),
    )
    th.testing.assert_close(found.reward.detach(), plain.reward)
    # With no noise x_t = 0.5^t and d/dk x_t = -t 0.5^(t - 1): -(1 + 1 + 0.75).
    assert gain.grad is not None
    assert float(gain.grad) == pytest.approx(-2.75, abs=0.1)


def test_finding_hidden_weights_draws_nothing_twice() -> None:
    """A stochastic model that hides a network predicts with gradients what it predicts without."""
    net = nn.Linear(1, 1, dtype=th.float64)

    class Noisy(FunctionModel):
        def step(self, state, action, *, generator):  # type: ignore[no-untyped-def]
            following, prediction = super().step(state, action, generator=generator)
            noisy = prediction.next_obs + th.randn(len(action), 1, generator=generator, dtype=th.float64)
            return following._replace(obs=noisy), prediction._replace(next_obs=noisy)

    space = LINE
    model = Noisy(
        space.observation_space, space.action_space, lambda obs, action: (net(obs) + action, obs[:, 0], never(obs))
    )
    gain = th.tensor(0.1, dtype=th.float64, requires_grad=True)
    starts = th.ones(3, 1, dtype=th.float64)
    found = unroll(model, Gain(gain, noise=0.1), starts, 3, generator=generator())
    with th.no_grad():
        assert unroll(model, Gain(gain, noise=0.1), starts, 3, generator=generator()).obs.equal(found.obs)


def test_a_module_is_asked_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = ensemble(), []
    monkeypatch.setattr(
        model, "step", lambda *args, **kwargs: calls.append(1) or EnsembleDynamics.step(model, *args, **kwargs)
    )
    unroll(model, Tanh(), th.zeros(2, 3), 4, generator=generator())
    assert len(calls) == 4


def test_a_policy_that_shares_a_network_with_its_model_keeps_its_gradient() -> None:
    shared = nn.Linear(1, 1, bias=False, dtype=th.float64)
    nn.init.constant_(shared.weight, 0.5)

    class Module(nn.Module):
        """A model that is a module."""

        observation_space, action_space, device = (
            LINE.observation_space,
            LINE.action_space,
            th.device("cpu"),
        )

        def __init__(self) -> None:
            super().__init__()
            self.encoder = shared
            self.inner = line(lambda obs, action: (shared(obs) + action, (shared(obs) + action)[:, 0], never(obs)))

        def reset(self, obs, *, generator):  # type: ignore[no-untyped-def]
            return self.inner.reset(obs, generator=generator)

        def step(self, state, action, *, generator):  # type: ignore[no-untyped-def]
            return self.inner.step(state, action, generator=generator)

    class Shared:
        def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
            return shared(obs), None

    unroll(Module(), Shared(), th.ones(1, 1, dtype=th.float64), 2, generator=generator()).reward[1].sum().backward()  # type: ignore[no-untyped-call]
    # x2 = (c + w)^2 with the model's c = 0.5 held constant and the policy's w = 0.5: 2 (c + w) = 2.
    assert shared.weight.grad is not None
    assert float(shared.weight.grad) == pytest.approx(2.0)


def test_an_error_in_a_step_leaves_weights_that_learn() -> None:
    model = ensemble()

    def fails(*inputs: Tensor, generator: Generator) -> Tensor:
        raise RuntimeError("no step")

    with pytest.raises(RuntimeError, match="no step"):
        FrozenWeights(model).call(fails, th.zeros(1), generator=generator())
    assert all(weight.requires_grad for weight in model.parameters())


def test_weights_that_were_frozen_before_stay_frozen() -> None:
    model = ensemble()
    frozen = next(model.parameters()).requires_grad_(False)
    unroll(model, Tanh(), th.zeros(2, 3), 1, generator=generator())
    assert not frozen.requires_grad
    assert sum(weight.requires_grad for weight in model.parameters()) == len(list(model.parameters())) - 1
