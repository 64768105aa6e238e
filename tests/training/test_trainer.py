"""Fitting: what is restored, what ends a fit, what is reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import (
    EnsembleDynamics,
    EnsembleOptions,
    FitConfig,
    FitReport,
    Trainer,
    Transitions,
)
from mbrl_wrappers.models.gaussian_ensemble import Examples
from mbrl_wrappers.tasks import never_terminates
from mbrl_wrappers.training.dataset import Split, split_holdout
from tests.oracle import oracle_reward
from tests.training.fits import fit, make_model, oracle_rows


def test_a_linear_system_is_learned_with_its_reward_and_termination() -> None:
    rows = oracle_rows(2000)
    model, report = fit(rows, FitConfig(max_epochs=60, batch_size=64))
    assert min(report.holdout_r2) > 0.99
    assert len(report.holdout_r2) == 4
    fresh = oracle_rows(500, seed=9)
    g = th.Generator().manual_seed(0)
    with th.no_grad():
        _, prediction = model.step(model.reset(fresh.obs, generator=g), fresh.action, generator=g)
    assert float((prediction.terminated == fresh.terminated).float().mean()) > 0.95
    assert fresh.terminated.any()


def test_noise_is_calibrated() -> None:
    _, report = fit(oracle_rows(3000, noise=0.1), FitConfig(max_epochs=40, batch_size=64), reward_fn=oracle_reward)
    assert report.coverage_50 == pytest.approx([0.5] * 3, abs=0.08)
    assert report.coverage_90 == pytest.approx([0.9] * 3, abs=0.06)


def test_elites_are_ranked_on_the_restored_weights_on_the_same_holdout() -> None:
    rows = oracle_rows(300, noise=0.3)
    model = make_model(num_members=5, num_elites=3)
    best: list[th.Tensor] = []
    report = Trainer(model, FitConfig(max_epochs=30, batch_size=16, patience=30), seed=3).fit(
        rows, on_epoch=lambda epoch, errors: best.append(errors.clone())
    )
    lowest = th.minimum(th.stack(best).amin(0), th.tensor(report.initial_error))
    assert report.holdout_error == pytest.approx(lowest.tolist(), rel=1e-5)
    assert not all(np.argmin([float(e[m]) for e in best]) == len(best) - 1 for m in range(5))  # something was restored
    assert list(report.elites) == np.argsort(report.holdout_error, kind="stable")[:3].tolist()
    assert model.elites.tolist() == list(report.elites)


def test_a_fit_never_leaves_a_member_worse_than_it_found_it() -> None:
    rows = oracle_rows(300, noise=0.2)
    model = make_model()
    trainer = Trainer(model, FitConfig(max_epochs=30, batch_size=32), seed=0)
    trainer.fit(rows)
    ruinous = Trainer(model, FitConfig(max_epochs=2, batch_size=32, learning_rate=1.0), seed=0)
    report = ruinous.fit(rows)
    assert report.holdout_error == pytest.approx(report.initial_error, rel=1e-6)


def test_statistics_come_from_training_rows_only() -> None:
    rows = oracle_rows(100)
    split = split_holdout(th.arange(100), 0.2, 5000, seed=Trainer(make_model(), seed=1)._split_seed)
    rows.obs[split.holdout] += 100.0
    model, _ = fit(rows, FitConfig(max_epochs=1))
    th.testing.assert_close(model.obs_normalizer.mean, rows.obs[split.train].mean(0), rtol=1e-4, atol=1e-5)
    assert float(model.limits.obs_high.max()) < 50


def test_gradient_steps_are_capped_and_rows_counted() -> None:
    rows = oracle_rows(1000)
    _, report = fit(rows, FitConfig(max_gradient_steps=7, batch_size=100))
    assert report.train_rows + report.holdout_rows == 1000
    assert (report.gradient_steps, report.rows_seen, report.epochs) == (7, 700, 1)
    report = Trainer(make_model(), FitConfig(max_epochs=3, batch_size=300)).fit(rows)
    assert (report.gradient_steps, report.rows_seen, report.epochs) == (9, 3 * report.train_rows, 3)
    assert Trainer(make_model()).fit(rows, max_gradient_steps=2).gradient_steps == 2
    with pytest.raises(ValueError, match="max_gradient_steps"):
        Trainer(make_model()).fit(rows, max_gradient_steps=0)


def test_a_fit_stops_when_nothing_improves() -> None:
    rows = oracle_rows(200)
    rows = rows._replace(next_obs=rows.obs + th.randn(200, 3, generator=th.Generator().manual_seed(0)))
    config = FitConfig(max_epochs=500, batch_size=20, patience=3, patience_steps=30)
    _, report = fit(rows, config, reward_fn=oracle_reward, termination_fn=never_terminates)
    assert report.epochs < 100


def test_each_member_sees_its_own_bootstrap_throughout_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[list[int]]] = []
    original = Examples.take

    def take(self: Examples, index: th.Tensor) -> Examples:
        if index.ndim == 2:
            seen.append(index.tolist())
        return original(self, index)

    monkeypatch.setattr(Examples, "take", take)
    fit(oracle_rows(100), FitConfig(max_epochs=3, batch_size=1000))
    epochs = [[sorted(member) for member in epoch] for epoch in seen]
    assert len(epochs) == 3
    assert epochs[0] == epochs[1] == epochs[2]
    assert epochs[0][0] != epochs[0][1]


def test_the_optimiser_remembers_its_moments_and_moves_every_parameter() -> None:
    model = make_model()
    trainer = Trainer(model, FitConfig(max_epochs=1))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.fit(oracle_rows(200))
    steps = {float(state["step"]) for state in trainer._optimizer.state.values()}
    trainer.fit(oracle_rows(200))
    assert {2 * step for step in steps} == {float(state["step"]) for state in trainer._optimizer.state.values()}
    assert len(trainer._optimizer.state) == len(before)  # the log-variance limits, too
    decays = [group["weight_decay"] for group in trainer._optimizer.param_groups]
    assert decays == pytest.approx([2.5e-5, 6.25e-5, 1e-4, 0.0])


def test_the_limit_penalty_draws_the_limits_together() -> None:
    def width(penalty: float) -> float:
        config = FitConfig(max_epochs=20, batch_size=32, log_variance_penalty=penalty)
        options = EnsembleOptions(learn_log_variance_limits=True)
        model, _ = fit(oracle_rows(400, noise=0.3), config, options=options)
        return float(model.log_variance.penalty().sum().detach())

    assert width(10.0) < width(0.0) - 0.1


def test_one_unpredictable_dimension_does_not_decide_the_score() -> None:
    model = make_model(num_members=2, num_elites=1, reward_fn=oracle_reward, termination_fn=never_terminates)
    with th.no_grad():
        for layer in model.net.linear_layers():
            layer.weight.zero_()
        model.net.linear_layers()[-1].bias[0, 0] = 0.5  # member 0 is off in dimension 0, member 1 is right there
    targets = th.zeros(4, 3)
    targets[0, 2] = 1000.0  # a spike that nobody predicts
    errors = model.errors(Examples(th.zeros(4, 5), targets, th.zeros(4)))
    assert errors.tolist() == pytest.approx([(0.25 / 1.25 + 1.0) / 3, 1.0 / 3], rel=1e-4)


def test_a_learned_termination_never_sees_time_limits() -> None:
    rows = oracle_rows(500)
    quiet = rows._replace(terminated=th.zeros(500, dtype=th.bool), last=th.arange(500) % 10 == 9)
    model, _ = fit(quiet, FitConfig(max_epochs=10))
    g = th.Generator()
    with th.no_grad():
        _, prediction = model.step(model.reset(rows.obs, generator=g), rows.action, generator=g)
    assert not prediction.terminated.any()


def test_the_termination_threshold_matches_the_rate_on_the_holdout() -> None:
    rows = oracle_rows(2000)
    model, report = fit(rows, FitConfig(max_epochs=3, batch_size=64))
    assert report.termination_threshold is not None
    assert 0 < report.termination_threshold < 1
    holdout = split_holdout(th.arange(2000), 0.2, 5000, seed=Trainer(make_model(), seed=1)._split_seed).holdout
    with th.no_grad():
        logit = model.elite_outputs(model.inputs(rows.obs[holdout], rows.action[holdout])).logit
    assert logit is not None
    predicted = float((logit > model.termination_threshold).float().mean())
    assert predicted == pytest.approx(float(rows.terminated[holdout].float().mean()), abs=0.005)
    assert Trainer(make_model(termination_fn=never_terminates)).fit(rows).termination_threshold is None


def test_one_seed_gives_identical_weights_whatever_else_draws() -> None:
    def weights(disturb: bool) -> th.Tensor:
        model = make_model()
        trainer = Trainer(model, FitConfig(max_epochs=3), seed=5)
        for _ in range(2):
            if disturb:
                th.rand(7)
                np.random.rand(7)  # noqa: NPY002
            trainer.fit(oracle_rows(200))
        return th.nn.utils.parameters_to_vector(model.parameters())

    assert th.equal(weights(False), weights(True))


def test_a_fit_leaves_the_global_stream_alone() -> None:
    before = th.get_rng_state()
    fit(oracle_rows(100), FitConfig(max_epochs=1))
    assert th.equal(before, th.get_rng_state())


@pytest.mark.parametrize(
    "kwargs",
    [
        {"max_epochs": 0},
        {"batch_size": 0},
        {"max_gradient_steps": 0},
        {"holdout_ratio": 1.0},
        {"learning_rate": 143.0},
        {"weight_decay": (-1.0, 0.0)},
        {"batch_size": 16.5},
        {"log_variance_penalty": float("nan")},
        {"nll_beta": 2.0},
    ],
)
def test_numbers_out_of_range_are_refused(kwargs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        FitConfig(**kwargs)  # type: ignore[arg-type]


BOTH = [EnsembleOptions(), EnsembleOptions(learn_log_variance_limits=True)]


def one_dimension(count: int, noise: float, seed: int) -> Transitions:
    """A line that is stepped along by a tenth of the action, with noise where the observation is positive."""
    g = th.Generator().manual_seed(seed)
    obs, action = th.rand(count, 1, generator=g) * 2 - 1, th.rand(count, 1, generator=g) * 2 - 1
    next_obs = obs + 0.1 * action + noise * (obs > 0) * th.randn(count, 1, generator=g)
    never = th.zeros(count, dtype=th.bool)
    return Transitions(obs, action, th.zeros(count), next_obs, never, never)


# Learned limits, which the quiet fits drew in, come back with the weights of least error and stay somewhat low.
@pytest.mark.parametrize(("options", "least"), [(BOTH[0], 0.08), (BOTH[1], 0.05)], ids=["fixed", "learned"])
def test_the_variance_head_survives_many_fits(options: EnsembleOptions, least: float) -> None:
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (1,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
        num_members=2,
        num_elites=2,
        hidden=(16, 16),
        device="cpu",
        reward_fn=lambda obs, action, next_obs: obs[:, 0] * 0,
        termination_fn=never_terminates,
        options=options,
    )
    # Ten times the learning rate of a run stands for ten times its steps: limits that may cross have done so by then.
    config = FitConfig(max_gradient_steps=300, learning_rate=1e-2, patience=1000, bootstrap=False)
    trainer = Trainer(model, config, seed=0)
    for _ in range(12):
        trainer.fit(one_dimension(600, 0.0, 0))
    assert (model.log_variance.high - model.log_variance.low).min() >= 2.0 - 1e-5
    for _ in range(3):
        report = trainer.fit(one_dimension(1200, 0.1, 1))
    obs = th.tensor([[-0.5], [0.5]]).repeat(1000, 1)
    g = th.Generator().manual_seed(0)
    with th.no_grad():
        _, prediction = model.step(model.reset(obs, generator=g), th.zeros(2000, 1), generator=g)
    quiet, noisy = (prediction.next_obs - obs).view(1000, 2).std(0).tolist()
    assert least < noisy < 0.12  # 0.1 is true
    assert quiet < noisy / 2
    assert report.log_variance_spread[0] > 1.0
    assert report.log_variance_low[0] < report.log_variance_high[0]


def test_learned_limits_are_restored_with_the_weights_of_their_member() -> None:
    rows = oracle_rows(300, noise=0.2)
    model = make_model(options=EnsembleOptions(learn_log_variance_limits=True))
    Trainer(model, FitConfig(max_epochs=30, batch_size=32), seed=0).fit(rows)
    before = [parameter.detach().clone() for parameter in model.member_parameters()]
    report = Trainer(model, FitConfig(max_epochs=2, batch_size=32, learning_rate=1.0), seed=0).fit(rows)
    assert report.gradient_steps > 0
    for old, new in zip(before, model.member_parameters(), strict=True):
        th.testing.assert_close(new, old, rtol=0, atol=0)


def test_fixed_limits_are_the_default_and_stay() -> None:
    _, report = fit(oracle_rows(300), FitConfig(max_epochs=2))
    assert report.log_variance_low == pytest.approx([-10.0] * 4)
    assert report.log_variance_high == pytest.approx([0.5] * 4)
    assert len(report.log_variance_spread) == 4


def scripted_fit(monkeypatch: pytest.MonkeyPatch, errors: list[float], **config: Any) -> FitReport:
    """A fit whose holdout error after each epoch of two steps is given; the first is that before the fit."""
    model = make_model(num_members=1, num_elites=1, termination_fn=never_terminates)
    trainer = Trainer(model, FitConfig(**config))
    script = iter(errors)
    last = errors[-1]
    monkeypatch.setattr(trainer, "run_epoch", lambda *args, max_steps: (min(2, max_steps), 20))
    monkeypatch.setattr(model, "errors", lambda holdout: th.tensor([next(script, last)]))
    return trainer.fit(oracle_rows(50))


def test_a_fit_stops_after_both_patiences(monkeypatch: pytest.MonkeyPatch) -> None:
    # The last improvement is in epoch 2, after 4 steps.
    errors = [1.0, 0.9, 0.5] + [0.6] * 50
    assert scripted_fit(monkeypatch, errors, patience=3, patience_steps=1).epochs == 5
    assert scripted_fit(monkeypatch, errors, patience=3, patience_steps=6).epochs == 5
    assert scripted_fit(monkeypatch, errors, patience=3, patience_steps=7).epochs == 6
    assert scripted_fit(monkeypatch, errors, patience=1, patience_steps=20).epochs == 12
    assert scripted_fit(monkeypatch, errors, patience=3, patience_steps=1, max_epochs=4).epochs == 4
    capped = scripted_fit(monkeypatch, errors, patience=30, patience_steps=1, max_gradient_steps=7)
    assert (capped.epochs, capped.gradient_steps, capped.rows_seen) == (4, 7, 80)


def test_small_gains_add_up_to_an_improvement(monkeypatch: pytest.MonkeyPatch) -> None:
    # A fall of 0.6 % per epoch: every second epoch is 1 % below the last that counted, which patience 2 waits for.
    errors = [1 - 0.006 * epoch for epoch in range(30)] + [1.0] * 30
    report = scripted_fit(monkeypatch, errors, patience=2, patience_steps=1, min_improvement=0.01)
    assert report.epochs >= 28
    report = scripted_fit(monkeypatch, errors, patience=1, patience_steps=1, min_improvement=0.01)
    assert report.epochs == 1


def test_two_seeds_hold_out_other_rows_and_learn_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(seed: int) -> tuple[list[int], th.Tensor]:
        model = make_model()
        Trainer(model, FitConfig(max_epochs=2), seed=seed).fit(oracle_rows(200))
        return held_out.pop(), th.nn.utils.parameters_to_vector(model.parameters())

    def split(*args: Any, **kwargs: Any) -> Split:
        found = split_holdout(*args, **kwargs)
        held_out.append(found.holdout.tolist())
        return found

    held_out: list[list[int]] = []
    monkeypatch.setattr("mbrl_wrappers.training.trainer.split_holdout", split)

    first, second = fitted(0), fitted(1)
    assert first[0] != second[0]
    assert not th.equal(first[1], second[1])


@pytest.mark.cuda
def test_a_fit_on_the_gpu_is_that_on_the_cpu() -> None:
    reports = []
    for device in ("cpu", "cuda"):
        model = make_model(device=device)
        reports.append(Trainer(model, FitConfig(max_gradient_steps=20), seed=0).fit(oracle_rows(200)))
        assert model.limits.obs_low.device.type == device
    assert reports[1].holdout_error == pytest.approx(reports[0].holdout_error, rel=1e-3)
