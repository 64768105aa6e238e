"""Fitting: what is held out, what is restored, what is reported."""

from __future__ import annotations

from dataclasses import replace
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
    WithReward,
    branched_rollout,
)
from mbrl_wrappers.models.gaussian_ensemble import Examples
from mbrl_wrappers.rollout import Rollout
from mbrl_wrappers.tasks import never_terminates
from mbrl_wrappers.training.best_weights import BestWeights
from mbrl_wrappers.training.dataset import bootstrap_rows, shuffled_batches, split_holdout
from sb3_ext import MixedReplayBuffer
from tests.oracle import OracleEnv, oracle_reward, oracle_step

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def oracle_rows(count: int, *, noise: float = 0.0, seed: int = 0) -> Transitions:
    g = th.Generator().manual_seed(seed)
    obs = th.rand(count, 3, generator=g) * 2 - 1
    action = th.rand(count, 2, generator=g) * 2 - 1
    env_action = action * th.tensor([0.4, 2.0]) + th.tensor([0.0, 1.0])
    next_obs, reward, terminated = oracle_step(obs, env_action)
    next_obs = next_obs + noise * th.randn(count, 3, generator=g)
    return Transitions(obs, action, reward, next_obs, terminated, terminated)


def make_model(**kwargs: object) -> EnsembleDynamics:
    defaults: dict[str, object] = {"num_members": 3, "num_elites": 2, "hidden": (32, 32), "device": "cpu"}
    return EnsembleDynamics(BOX, OracleEnv().action_space, **(defaults | kwargs))  # type: ignore[arg-type]


def fit(rows: Transitions, config: FitConfig, **kwargs: object) -> tuple[EnsembleDynamics, FitReport]:
    model = make_model(**kwargs)
    return model, Trainer(model, config, seed=1).fit(rows)


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


def test_best_weights_are_kept_member_by_member() -> None:
    net = th.nn.Linear(1, 3, bias=False)  # weight (3, 1): three members of one number
    with th.no_grad():
        net.weight.copy_(th.tensor([[1.0], [2.0], [3.0]]))
    best = BestWeights(list(net.parameters()), th.tensor([1.0, 1.0, 1.0]), min_improvement=0.01)
    with th.no_grad():
        net.weight.add_(10)
    assert best.update(th.tensor([0.5, 1.5, th.nan]))
    with th.no_grad():
        net.weight.add_(10)
    assert not best.update(th.tensor([0.497, 2.0, 2.0]))  # better, by less than a hundredth
    best.restore()
    assert net.weight.flatten().tolist() == [21.0, 2.0, 3.0]
    assert best.errors.tolist() == pytest.approx([0.497, 1.0, 1.0])


def test_holdout_is_random_capped_seeded_and_never_all_rows() -> None:
    split = split_holdout(th.arange(1000), 0.2, 5000, seed=0)
    assert 160 < len(split.holdout) < 240
    assert not set(split.holdout.tolist()) & set(split.train.tolist())
    assert len(set(split.holdout.tolist()) | set(split.train.tolist())) == 1000
    assert 400 < float(split.holdout.double().mean()) < 600  # not the newest fifth
    assert len(split_holdout(th.arange(100_000), 0.2, 5000, seed=0).holdout) == 5000
    assert split_holdout(th.arange(1000), 0.2, 5000, seed=1).holdout.tolist() != split.holdout.tolist()
    for ratio in (0.001, 0.999):
        tiny = split_holdout(th.arange(10), ratio, 5000, seed=0)
        assert len(tiny.holdout) >= 1
        assert len(tiny.train) >= 1


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("capacity", [10_000, 900])
def test_a_row_that_was_held_out_is_never_learned_from_later(n_envs: int, capacity: int) -> None:
    buffer = MixedReplayBuffer(capacity, BOX, OracleEnv().action_space, device="cpu", n_envs=n_envs)
    learned: set[float] = set()
    stamp = 0.0
    for _ in range(4):
        for _ in range(600 // n_envs):
            reward = stamp + np.arange(n_envs)
            stamp += n_envs
            zero = np.zeros((n_envs, 3))
            buffer.add(zero, zero, np.zeros((n_envs, 2)), reward, np.zeros(n_envs), [{}] * n_envs)
        rows = buffer.real_transitions()
        assert rows.reward.tolist() == buffer.row_ids().tolist()  # the stamp is the order of collection
        split = split_holdout(buffer.row_ids(), 0.2, 5000, seed=0)
        assert not learned & set(rows.reward[split.holdout].tolist())
        learned |= set(rows.reward[split.train].tolist())


def test_bootstrap_is_drawn_once_and_only_its_order_changes_between_epochs() -> None:
    train = th.arange(50, 150)
    rows = bootstrap_rows(train, 3, generator=th.Generator().manual_seed(0))
    assert rows.shape == (3, 100)
    assert all(0.55 < len(set(member.tolist())) / 100 < 0.72 for member in rows)  # 1 - 1/e of them are distinct
    g = th.Generator().manual_seed(1)
    first = th.cat(list(shuffled_batches(rows, 32, generator=g)), 1)
    second = th.cat(list(shuffled_batches(rows, 32, generator=g)), 1)
    assert not th.equal(first, second)
    assert th.equal(first.sort(1).values, rows.sort(1).values)
    assert th.equal(second.sort(1).values, rows.sort(1).values)
    assert th.equal(bootstrap_rows(train, 2, generator=g, resample=False), train.expand(2, 100))


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


def test_a_loss_that_is_not_finite_leaves_model_and_optimiser_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(num_members=2, num_elites=1)
    trainer = Trainer(model, FitConfig(batch_size=1000, bootstrap=False), seed=0)
    trainer.fit(oracle_rows(200), max_gradient_steps=3)
    original = EnsembleDynamics.losses

    def losses(self: EnsembleDynamics, batch: Examples, **kwargs: float) -> th.Tensor:
        return original(self, batch, **kwargs) * th.tensor([1.0, th.nan])

    monkeypatch.setattr(EnsembleDynamics, "losses", losses)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    rows = model.examples(oracle_rows(200))
    assert trainer.run_epoch(rows, th.arange(200).expand(2, 200)) == (1, 200)
    for old, new in zip(before, model.parameters(), strict=True):
        assert th.equal(old[1], new[1])
        assert not th.equal(old[0], new[0])
    assert all(state["exp_avg"].isfinite().all() for state in trainer._optimizer.state.values())
    monkeypatch.setattr(EnsembleDynamics, "losses", lambda self, batch, **kwargs: th.full((2,), th.nan))
    assert trainer.run_epoch(rows, th.arange(200).expand(2, 200)) == (0, 0)  # nothing was done, nothing is counted


@pytest.mark.parametrize("layer", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("value", [th.nan, th.inf])
def test_a_member_that_is_not_finite_does_not_stop_the_others(layer: int, value: float) -> None:
    rows = oracle_rows(400)
    model, healthy = (make_model(num_members=4, num_elites=2, termination_fn=never_terminates) for _ in range(2))
    with th.no_grad():
        model.net.linear_layers()[layer].weight[2].fill_(value)
    config = FitConfig(max_epochs=10, batch_size=64, patience=10)
    with pytest.warns(UserWarning, match=r"Members \[2\] .* \[2\] of them had none and cannot be elites"):
        report = Trainer(model, config, seed=1).fit(rows)
    wanted = Trainer(healthy, config, seed=1).fit(rows)
    others = [0, 1, 3]
    assert [report.holdout_error[m] for m in others] == pytest.approx([wanted.holdout_error[m] for m in others])
    assert all(report.holdout_error[m] < 0.9 * report.initial_error[m] for m in others)
    assert report.diverged_members == (2,)
    assert wanted.diverged_members == ()
    assert np.isinf(report.holdout_error[2])
    assert 2 not in report.elites
    g = th.Generator().manual_seed(0)
    with th.no_grad():
        _, prediction = model.step(model.reset(rows.obs, generator=g), rows.action, generator=g)
    assert prediction.next_obs.isfinite().all()


def test_a_member_that_diverges_goes_back_to_its_best_weights_and_learns_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(num_members=3, num_elites=3, termination_fn=never_terminates)
    trainer = Trainer(model, FitConfig(max_epochs=12, batch_size=64, patience=12), seed=1)
    original, errors = trainer.run_epoch, []

    def breaks(*args: Any, **kwargs: Any) -> tuple[int, int]:
        done = original(*args, **kwargs)
        if len(errors) == 3:
            with th.no_grad():
                model.net.linear_layers()[0].weight[1].fill_(th.nan)
        return done

    monkeypatch.setattr(trainer, "run_epoch", breaks)
    with pytest.warns(UserWarning, match=r"Members \[1\] .* none of them"):
        report = trainer.fit(oracle_rows(400), on_epoch=lambda epoch, found: errors.append(found[1].item()))
    assert [np.isinf(error) for error in errors] == [False] * 3 + [True] + [False] * 8
    assert report.diverged_members == (1,)
    assert report.holdout_error[1] < 0.9 * min(errors[:3])
    assert sorted(report.elites) == [0, 1, 2]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(state["exp_avg_sq"].isfinite().all() for state in trainer._optimizer.state.values())


def test_the_elites_left_take_the_places_of_those_that_are_not_finite() -> None:
    model = make_model(num_members=3, num_elites=2, termination_fn=never_terminates)
    with th.no_grad():
        for member in (0, 2):
            model.net.linear_layers()[0].weight[member].fill_(th.nan)
    with pytest.warns(UserWarning, match=r"\[0, 2\]"):
        report = Trainer(model, FitConfig(max_epochs=2)).fit(oracle_rows(100))
    assert report.elites == (1, 1)
    with th.no_grad():
        model.net.linear_layers()[0].weight.fill_(th.nan)
    with pytest.raises(ValueError, match="No member of the ensemble predicts finite numbers"):
        Trainer(model, FitConfig(max_epochs=2)).fit(oracle_rows(100))


def test_limits_cover_successors_too() -> None:
    rows = oracle_rows(100)
    rows = rows._replace(next_obs=rows.next_obs + 50.0)
    model, _ = fit(rows, FitConfig(max_epochs=1), termination_fn=never_terminates)
    assert (model.limits.obs_high > 50).all()


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


def test_bad_rows_are_named() -> None:
    rows = oracle_rows(50)
    rows.next_obs[13, 1] = th.nan
    with pytest.raises(ValueError, match="Transition 13 has a non-finite next_obs"):
        Trainer(make_model()).fit(rows)
    rows = oracle_rows(50)
    rows.obs[4, 0], rows.next_obs[4, 0] = -3e38, 3e38
    with pytest.raises(ValueError, match="Transition 4 has a non-finite change"):
        Trainer(make_model()).fit(rows)
    with pytest.raises(ValueError, match="at least 10"):
        Trainer(make_model()).fit(oracle_rows(9))


def test_constant_and_all_terminal_data_can_be_fitted() -> None:
    rows = oracle_rows(40)
    constant = Transitions(
        th.ones(40, 3), rows.action, th.ones(40), th.ones(40, 3), th.ones(40, dtype=th.bool), th.ones(40, dtype=th.bool)
    )
    model, report = fit(constant, FitConfig(max_epochs=5))
    assert all(np.isfinite(report.holdout_error))
    g = th.Generator()
    with th.no_grad():
        _, prediction = model.step(model.reset(constant.obs, generator=g), constant.action, generator=g)
    assert prediction.next_obs.isfinite().all()


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


def rows_with_constants(unit: float, count: int = 600) -> Transitions:
    """Dimension 0 moves; 1 is a goal that each episode draws anew; 2 is one number for good; 3 is a clock."""
    g = th.Generator().manual_seed(0)
    obs = unit * (2 * th.rand(count, 4, generator=g) - 1)
    obs[:, 2] = 0.3 * unit
    action = 2 * th.rand(count, 1, generator=g) - 1
    next_obs = obs + 0.1 * unit * action * th.tensor([1.0, 0.0, 0.0, 0.0])
    obs[:, 3] = unit * th.arange(count) / 128  # exact in binary, so that the clock's change is one number
    next_obs[:, 3] = obs[:, 3] + unit / 128
    never = th.zeros(count, dtype=th.bool)
    return Transitions(obs, action, th.full((count,), 0.7 * unit), next_obs, never, never)


@pytest.mark.parametrize("unit", [2.0**-30, 2.0**-10, 1.0, 2.0**10])
@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean"])
def test_what_never_changes_in_the_data_is_predicted_not_to_change(unit: float, propagation: str) -> None:
    rows = rows_with_constants(unit)
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (4,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
        num_members=2,
        num_elites=2,
        hidden=(16,),
        device="cpu",
        propagation=propagation,  # type: ignore[arg-type]
        termination_fn=never_terminates,
    )
    report = Trainer(model, FitConfig(batch_size=64)).fit(rows, max_gradient_steps=60)
    assert report.constant == ("obs1", "obs2", "obs3", "reward")
    assert np.isnan(report.holdout_r2).tolist() == [False, True, True, True, True]
    assert np.isnan(report.coverage_90).tolist() == [False, True, True, True, True]
    state, g = model.reset(rows.obs, generator=th.Generator().manual_seed(0)), th.Generator().manual_seed(1)
    with th.no_grad():
        for step in range(1, 6):
            state, prediction = model.step(state, rows.action, generator=g)
            assert th.equal(prediction.next_obs[:, 1:3], rows.obs[:, 1:3])
            assert th.equal(prediction.next_obs[:, 3], rows.obs[:, 3] + step * unit / 128)
            assert th.equal(prediction.reward, rows.reward)
            assert model.limits.accepts(prediction).all()
    assert float((prediction.next_obs[:, 0] - rows.obs[:, 0]).std()) > 0.01 * unit  # the first dimension does change
    shared = model.step_shared(state, rows.action, generator=g, groups=2)[1]
    assert th.equal(shared.next_obs[:, 1:3], rows.obs[:, 1:3])


def test_an_input_that_had_one_value_has_no_influence_elsewhere() -> None:
    rows = rows_with_constants(1.0)
    rows.obs[:, 3] = rows.next_obs[:, 3] = 0.0
    model = EnsembleDynamics(
        spaces.Box(-np.inf, np.inf, (4,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
        hidden=(16,),
        device="cpu",
        propagation="mean",
        termination_fn=never_terminates,
    )
    Trainer(model, FitConfig(batch_size=64)).fit(rows, max_gradient_steps=20)
    elsewhere = rows.obs.clone()
    elsewhere[:, 2:] += th.tensor([500.0, -3.0])
    g = th.Generator()
    with th.no_grad():
        here = model.step(model.reset(rows.obs, generator=g), rows.action, generator=g)[1]
        there = model.step(model.reset(elsewhere, generator=g), rows.action, generator=g)[1]
    assert th.equal(here.next_obs[:, :2], there.next_obs[:, :2])
    assert th.equal(there.next_obs[:, 2:], elsewhere[:, 2:])


def test_a_known_reward_is_no_reason_to_drop_a_row() -> None:
    def goal(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        return 100.0 * (next_obs[:, 0] > 1.05)

    g = th.Generator().manual_seed(0)
    obs, action = 2 * th.rand(600, 1, generator=g) - 1, 2 * th.rand(600, 1, generator=g) - 1
    never = th.zeros(600, dtype=th.bool)
    rows = Transitions(obs, action, th.zeros(600), obs + 0.04 * action, never, never)
    box = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    model, learned = (
        EnsembleDynamics(
            box,
            spaces.Box(-1, 1, (1,), np.float32),
            num_members=2,
            num_elites=2,
            hidden=(16,),
            device="cpu",
            reward_fn=reward_fn,
            termination_fn=lambda obs, action, next_obs: next_obs[:, 0] > 1.05,
        )
        for reward_fn in (goal, None)
    )
    config = FitConfig(batch_size=64, max_gradient_steps=400)
    for each in (model, learned):
        Trainer(each, config).fit(rows)
    starts = th.full((100, 1), 1.04)

    def roll(model: Any, starts: th.Tensor = starts) -> Rollout:
        right = lambda obs, generator: th.ones(len(obs), 1)  # noqa: E731
        return branched_rollout(model, right, starts, 4, generator=th.Generator().manual_seed(0))

    reached = roll(model)
    assert reached.num_dropped == 0
    assert set(reached.branch[reached.transitions.terminated].tolist()) == set(range(100))
    assert reached.transitions.reward[reached.transitions.terminated].unique().tolist() == [100.0]
    again = roll(WithReward(learned, goal))  # a learned reward gave way to a known one
    assert again.num_dropped == 0
    assert again.transitions.reward.max() == 100.0
    assert float(learned.limits.reward_high) == 1.0  # a learned one is limited still
    assert roll(model, th.full((100, 1), 3.5)).num_dropped == 100  # and so are observations


def test_a_ring_never_trains_on_what_it_held_out() -> None:
    trained: set[int] = set()
    held: set[int] = set()
    for end in range(2000, 20_001, 1000):
        ids = th.arange(end - 2000, end)
        split = split_holdout(ids, 0.2, 150, seed=0)
        train, holdout = set(ids[split.train].tolist()), set(ids[split.holdout].tolist())
        assert not holdout & trained
        assert not train & held
        assert 50 < len(holdout) <= 150
        assert len(train) > 1600
        trained, held = trained | train, held | holdout


@pytest.mark.parametrize("capacity", [10_000_000, 3000])
def test_held_out_rows_stay_so_as_rows_arrive_in_any_number(capacity: int) -> None:
    rng, end = np.random.default_rng(0), 10
    trained: set[int] = set()
    held: set[int] = set()
    for _ in range(60):
        ids = th.arange(max(end - capacity, 0), end)[th.as_tensor(rng.permutation(min(end, capacity)))]
        split = split_holdout(ids, 0.2, 400, seed=3)
        train, holdout = set(ids[split.train].tolist()), set(ids[split.holdout].tolist())
        assert 1 <= len(holdout) <= 400
        assert not holdout & trained
        assert not train & held
        trained, held = trained | train, held | holdout
        end += int(rng.integers(1, 400))


def float64(rows: Transitions) -> Transitions:
    return Transitions(*(column.double() if column.is_floating_point() else column.int() for column in rows))


def test_other_dtypes_are_cast() -> None:
    rows = oracle_rows(100)
    config = FitConfig(max_gradient_steps=5)
    plain, cast = make_model(), make_model()
    report = Trainer(plain, config).fit(rows)
    assert replace(Trainer(cast, config).fit(float64(rows)), seconds=0) == replace(report, seconds=0)
    assert Trainer(make_model(), config).fit(rows, row_ids=th.arange(100, dtype=th.int32)).train_rows > 50


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: rows._replace(reward=rows.reward[:, None]), ValueError, r"reward must have shape \(50,\)"),
        (lambda rows: rows._replace(terminated=rows.terminated[:, None]), ValueError, r"terminated must have shape"),
        (lambda rows: rows._replace(last=rows.last[:-1]), ValueError, r"last must have shape \(50,\)"),
        (lambda rows: rows._replace(obs=rows.obs[:, :2]), ValueError, r"obs must have shape \(50, 3\).*\(50, 2\)"),
        (lambda rows: rows._replace(next_obs=rows.obs[:, :2]), ValueError, r"next_obs must have shape \(50, 3\)"),
        (lambda rows: rows._replace(action=rows.action[:, :1]), ValueError, r"action must have shape \(50, 2\)"),
        (lambda rows: rows._replace(action=rows.action[:, 0]), ValueError, r"action must have shape \(50, 2\)"),
        (lambda rows: rows._replace(reward=rows.reward[:-1]), ValueError, r"reward must have shape \(50,\)"),
        (
            lambda rows: Transitions(*(c.numpy() for c in rows)),
            TypeError,
            "obs must be a torch tensor.*TransitionStore",
        ),
        (lambda rows: rows._replace(reward=rows.reward.tolist()), TypeError, "reward must be a torch tensor, got list"),
        (lambda rows: rows._replace(action=3 * rows.action), ValueError, "outside of the model actions.*from_env"),
        (lambda rows: rows._replace(reward=rows.reward.double() * 1e300), ValueError, "non-finite reward"),
    ],
)
def test_columns_that_a_model_cannot_learn_from_are_named(change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Trainer(make_model()).fit(change(oracle_rows(50)))


@pytest.mark.parametrize(
    "row_ids", [th.arange(30), th.arange(50)[:, None], th.arange(50) - 1, th.arange(50.0), th.ones(50, dtype=th.bool)]
)
def test_row_ids_of_other_rows_are_refused(row_ids: th.Tensor) -> None:
    with pytest.raises(ValueError, match="row_ids must be 50 whole numbers"):
        Trainer(make_model()).fit(oracle_rows(50), row_ids=row_ids)


def test_raw_choices_of_a_discrete_space_are_refused() -> None:
    model = EnsembleDynamics(BOX, spaces.Discrete(2), hidden=(8,), device="cpu")
    rows = oracle_rows(50)
    with pytest.raises(ValueError, match="outside of the model actions"):
        Trainer(model).fit(rows._replace(action=th.tensor([[0.0, 2.0]]).repeat(50, 1)))


def test_members_take_the_rows_in_orders_of_their_own() -> None:
    rows = th.arange(40).expand(3, 40)
    orders = th.cat(list(shuffled_batches(rows, 16, generator=th.Generator().manual_seed(0))), 1)
    assert [batch.shape[1] for batch in shuffled_batches(rows, 16, generator=th.Generator())] == [16, 16, 8]
    assert not th.equal(orders[0], orders[1])
    assert not th.equal(orders[1], orders[2])


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


def test_two_seeds_hold_out_other_rows_and_learn_other_weights() -> None:
    def fitted(seed: int) -> tuple[list[int], th.Tensor]:
        model = make_model()
        trainer = Trainer(model, FitConfig(max_epochs=2), seed=seed)
        trainer.fit(oracle_rows(200))
        split = split_holdout(th.arange(200), 0.2, 5000, seed=trainer._split_seed)
        return split.holdout.tolist(), th.nn.utils.parameters_to_vector(model.parameters())

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
