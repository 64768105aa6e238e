"""Members one by one: their best weights, and those whose numbers are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from mbrl_wrappers import (
    EnsembleDynamics,
    FitConfig,
    Trainer,
)
from mbrl_wrappers.models.gaussian_ensemble import Examples
from mbrl_wrappers.tasks import never_terminates
from mbrl_wrappers.training.best_weights import BestWeights
from tests.training.fits import make_model, oracle_rows


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


def test_the_moments_of_one_member_are_forgotten() -> None:
    trainer = Trainer(make_model(num_members=3), FitConfig(batch_size=64), seed=0)
    trainer.fit(oracle_rows(100), max_gradient_steps=2)
    trainer._forget_moments(th.tensor([False, True, False]))
    for state in trainer._optimizer.state.values():
        for moments in (state["exp_avg"], state["exp_avg_sq"]):
            assert not moments[1].any()
            assert moments[0].any()
            assert moments[2].any()
