"""Gates: where they close, by hand and on a fitted ensemble, and what a rollout behind one stores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from mbrl_wrappers import EnsembleDynamics, FitConfig, FunctionModel, Trainer, Transitions, branched_rollout
from mbrl_wrappers.branch_gate import BranchGate, GateConfig
from mbrl_wrappers.disagreement import MemberGaussians, bhattacharyya

BOX = spaces.Box(-np.inf, np.inf, (1,), np.float32)
ACTIONS = spaces.Box(-1, 1, (1,), np.float32)


class Doubtful:
    """Members whose means lie ``obs`` apart: the Bhattacharyya distance is ``obs^2 / 8`` with variances of 1."""

    def member_gaussians(self, obs: Tensor, action: Tensor) -> MemberGaussians:
        return MemberGaussians(th.stack([obs, th.zeros_like(obs)]), th.ones(2, *obs.shape))


def rows(obs: list[float]) -> Transitions:
    column = th.tensor(obs)[:, None]
    flags = th.zeros(len(obs), dtype=th.bool)
    return Transitions(column, th.zeros_like(column), th.zeros(len(obs)), column + 1, flags, ~flags)


def still(obs: Tensor, *, generator: Generator) -> Tensor:
    return th.zeros(len(obs), 1)


def counting() -> FunctionModel:
    """Adds 1 to the observation in each step."""
    model = FunctionModel(
        BOX, ACTIONS, lambda obs, action: (obs + 1, th.zeros(len(obs)), th.zeros(len(obs), dtype=th.bool))
    )
    model.member_gaussians = Doubtful().member_gaussians  # type: ignore[attr-defined]
    return model


def gated(config: GateConfig, calibration: list[float]) -> BranchGate:
    gate = BranchGate(Doubtful(), config)
    gate.calibrate(rows(calibration))
    return gate


def test_the_threshold_is_the_quantile_of_the_real_rows() -> None:
    obs = [0.0, 1.0, 2.0, 4.0]
    assert gated(GateConfig(), obs).threshold == pytest.approx(th.tensor([2.0]))  # 4^2 / 8
    assert gated(GateConfig(quantile=0.75), obs).threshold == pytest.approx(th.tensor([0.5]))
    assert gated(GateConfig(quantile=0.75, scale=3), obs).threshold == pytest.approx(th.tensor([1.5]))


def test_a_branch_ends_before_the_step_that_is_too_uncertain() -> None:
    gate = gated(GateConfig(), [3.0])
    starts = th.tensor([[0.0], [2.0], [3.5]])
    rollout = branched_rollout(counting(), still, starts, 6, generator=th.Generator(), gate=gate)
    seen = {b: rollout.transitions.obs[rollout.branch == b, 0].tolist() for b in range(3)}
    assert seen == {0: [0, 1, 2, 3], 1: [2, 3], 2: []}
    assert rollout.num_gated == 3
    assert rollout.num_dropped == 0
    assert rollout.uncertainty is not None
    th.testing.assert_close(rollout.uncertainty, rollout.transitions.obs[:, 0] ** 2 / 8)
    assert [int((rollout.transitions.last & (rollout.branch == b)).sum()) for b in range(3)] == [1, 1, 0]


def test_nothing_passes_a_gate_that_is_shut() -> None:
    gate = gated(GateConfig(), [1.0])
    rollout = branched_rollout(counting(), still, th.tensor([[5.0], [6.0]]), 3, generator=th.Generator(), gate=gate)
    assert rollout.transitions.num_rows == 0
    assert rollout.transitions.obs.shape == (0, 1)
    assert rollout.transitions.action.shape == (0, 1)
    assert rollout.num_gated == 2


def test_without_a_gate_nothing_is_measured() -> None:
    rollout = branched_rollout(counting(), still, th.tensor([[5.0]]), 3, generator=th.Generator())
    assert rollout.uncertainty is None
    assert rollout.num_gated == 0


def test_an_uncalibrated_gate_lets_everything_pass() -> None:
    gate = BranchGate(Doubtful())
    assert gate.judge(th.tensor([[1e3]]), th.zeros(1, 1), th.zeros(1), first=True).passed.all()


def test_a_penalty_lowers_the_reward_by_what_was_measured() -> None:
    gate = gated(GateConfig(penalty=2.0), [10.0])
    rollout = branched_rollout(counting(), still, th.tensor([[4.0]]), 1, generator=th.Generator(), gate=gate)
    assert rollout.transitions.reward.tolist() == pytest.approx([-4.0])  # 2 * 4^2 / 8


def test_a_budget_limits_what_a_whole_branch_adds_up_to() -> None:
    # The 1 % quantile of the calibration is 1/8; the budget is 1. From 1 on: 1/8 + 4/8 = 5/8, and 9/8 more is too much.
    gate = gated(GateConfig(budget=8), [1.0, 9.0])
    rollout = branched_rollout(counting(), still, th.tensor([[1.0]]), 5, generator=th.Generator(), gate=gate)
    assert rollout.transitions.obs[:, 0].tolist() == [1, 2]


def test_the_first_steps_of_all_rounds_make_the_threshold() -> None:
    gate = BranchGate(Doubtful(), GateConfig(of="first_steps", quantile=1.0, scale=0.5))
    gate.calibrate(rows([100.0]))  # of no consequence
    spent = th.zeros(2)
    first = gate.judge(th.tensor([[2.0], [4.0]]), th.zeros(2, 1), spent, first=True)
    assert first.passed.tolist() == [True, False]  # 0.5 and 2 against 0.5 * 2
    later = gate.judge(th.tensor([[2.0], [3.0]]), th.zeros(2, 1), spent, first=False)
    assert later.passed.tolist() == [True, False]
    second = gate.judge(th.tensor([[3.0], [8.0]]), th.zeros(2, 1), spent, first=True)
    assert float(gate.threshold[0]) == pytest.approx(0.5 * (2 + 8) / 2)  # type: ignore[index]
    assert second.passed.tolist() == [True, False]


def test_a_measure_that_is_not_finite_does_not_pass() -> None:
    gate = gated(GateConfig(), [1.0])
    passed = gate.judge(th.tensor([[th.nan], [th.inf], [0.5]]), th.zeros(3, 1), th.zeros(3), first=True).passed
    assert passed.tolist() == [False, False, True]


def test_the_state_goes_on_with_the_same_thresholds() -> None:
    gate = gated(GateConfig(budget=8), [1.0, 3.0])
    other = BranchGate(Doubtful(), GateConfig(budget=8))
    other.load_state_dict(gate.state_dict())
    args = th.tensor([[2.9], [3.1]]), th.zeros(2, 1), th.zeros(2)
    assert th.equal(other.judge(*args, first=True).passed, gate.judge(*args, first=True).passed)
    with pytest.raises(ValueError, match="no state of a BranchGate"):
        other.load_state_dict({})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"measure": "entropy"}, "measure must be one of"),
        ({"of": "all"}, "of must be one of"),
        ({"quantile": 1.1}, "quantile"),
        ({"scale": -1.0}, "scale"),
        ({"penalty": -1.0}, "penalty"),
        ({"budget": -1.0}, "budget"),
        ({"of": "first_steps", "measure": "information"}, "one threshold"),
        ({"of": "first_steps", "budget": 1.0}, "one threshold"),
    ],
)
def test_wrong_configurations_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GateConfig(**wrong)


def test_a_model_without_members_is_refused() -> None:
    model = FunctionModel(BOX, ACTIONS, lambda obs, action: (obs, th.zeros(len(obs)), th.zeros(len(obs)).bool()))
    with pytest.raises(TypeError, match="FunctionModel has no members"):
        BranchGate(model)


def learned(propagation: str = "ts1", **known: Any) -> tuple[EnsembleDynamics, Transitions]:
    """An ensemble fitted to a noisy line with a constant second dimension."""
    generator = th.Generator().manual_seed(0)
    obs = th.cat([th.rand(600, 1, generator=generator) * 2 - 1, th.full((600, 1), 3.0)], 1)
    action = th.rand(600, 1, generator=generator) * 2 - 1
    following = obs.clone()
    following[:, 0] += 0.3 * action[:, 0] + 0.05 * th.randn(600, generator=generator)
    flags = th.zeros(600, dtype=th.bool)
    data = Transitions(obs, action, obs[:, 0], following, flags, ~flags)
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    model = EnsembleDynamics(
        space,
        ACTIONS,
        num_members=4,
        num_elites=3,
        hidden=(24, 24),
        propagation=propagation,
        termination_fn=lambda obs, action, next_obs: th.zeros(len(obs), dtype=th.bool),
        device="cpu",
        **known,
    )
    Trainer(model, FitConfig(max_epochs=6), seed=0).fit(data)
    return model, data


@pytest.mark.parametrize("measure", ["bhattacharyya", "information", "std"])
def test_a_gate_at_quantile_one_lets_every_training_row_pass(measure: Any) -> None:
    model, data = learned()
    gate = BranchGate(model, GateConfig(measure=measure))
    gate.calibrate(data)
    for size in (1, 7, 600):  # other batches round differently
        passed = gate.judge(data.obs[:size], data.action[:size], th.zeros(size), first=True).passed
        assert passed.all()
    far = gate.judge(th.tensor([[30.0, 3.0]]), th.ones(1, 1), th.zeros(1), first=True)
    assert not far.passed.any()


def test_members_predict_what_is_learned_and_changes() -> None:
    model, data = learned()
    assert model.member_gaussians(data.obs, data.action).mean.shape == (3, 600, 2)  # one observation and the reward
    known, _ = learned(reward_fn=lambda obs, action, next_obs: obs[:, 0])
    members = known.member_gaussians(data.obs, data.action)
    assert members.mean.shape == (3, 600, 1)
    assert bhattacharyya(members).shape == (600,)


def test_infoprop_draws_noise_without_the_error_of_the_model() -> None:
    """Its draws have the mean and the variance of the fused estimate, whatever the members disagree about."""
    model, data = learned("infoprop")
    obs, action = data.obs[:1].repeat(40_000, 1), data.action[:1].repeat(40_000, 1)
    generator = th.Generator().manual_seed(1)
    with th.no_grad():
        state = model.reset(obs, generator=generator)
        drawn = model.step(state, action, generator=generator)[1].next_obs
        outputs = model.elite_outputs(model.inputs(data.obs[:1], data.action[:1]))
    mean, variance = outputs.mean[:, 0, 0].double(), outputs.log_variance[:, 0, 0].exp().double()
    fused_variance = 1 / (1 / variance).mean()
    fused_mean = fused_variance * (mean / variance).mean()
    gain = fused_variance / (fused_variance + (mean - fused_mean).square().mean())
    # The mixture over elites, through the linear map, plus the rest.
    shown = fused_mean + gain * (mean.mean() - fused_mean)
    spread = gain**2 * (variance.mean() + mean.var(correction=0)) + (1 - gain) * fused_variance
    scale, shift = model.target_normalizer.std[0], model.target_normalizer.mean[0]
    change = (drawn[:, 0] - data.obs[0, 0]).double()
    assert float(change.mean()) == pytest.approx(
        float(shown * scale + shift), abs=float(4 * spread.sqrt() * scale / 200)
    )
    assert float(change.var()) == pytest.approx(float(spread * scale**2), rel=0.03)
    assert drawn[:, 1].eq(3.0).all()
