"""Fitting latent models to sequences: what is learned, what is reported, and what is refused."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers.latent import ElboOptions, LatentOptions, LatentStateSpaceModel
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import global_stream_states, torch_generator
from mbrl_wrappers.tasks.functions import never_terminates
from mbrl_wrappers.training import sequence_trainer
from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig, SequenceTrainer
from mbrl_wrappers.types import Transitions
from tests.latent.small_models import HiddenVelocity

QUICK = SequenceFitConfig(max_gradient_steps=60, batch_size=16, window=10, validate_every=20)


def collected(steps: int = 600, seed: int = 0) -> tuple[TransitionStore, np.ndarray]:
    """Random steps of the cart, and the velocity that each one led to."""
    env = HiddenVelocity()
    store = TransitionStore(10_000, env.observation_space, env.action_space)
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    velocities = []
    for _ in range(steps):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        store.add(obs, action, reward, following, terminated, truncated)
        velocities.append(env.v)
        obs = env.reset()[0] if truncated else following
    return store, np.array(velocities)


STORE, _ = collected()


def cart_model(**options: Any) -> LatentStateSpaceModel:
    settings: dict[str, Any] = dict(
        latent_size=4, posterior="factorised filter", memory_size=16, hidden=(32,), encoder_hidden=(32,)
    )
    env = HiddenVelocity()
    return LatentStateSpaceModel(
        env.observation_space,
        env.action_space,
        options=LatentOptions(**{**settings, **options}),
        termination_fn=never_terminates,
        device="cpu",
    )


def fitted(model: LatentStateSpaceModel | None = None, config: SequenceFitConfig = QUICK, seed: int = 0) -> Any:
    model = model or cart_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = SequenceTrainer(model, config, seed=seed).fit(STORE.transitions(), row_ids=STORE.row_ids())
    return model, report


def test_a_fit_raises_the_bound_of_held_out_episodes_and_says_what_it_did() -> None:
    model, report = fitted()
    assert report.quality.bound > report.initial_bound + 5
    assert report.gradient_steps == 60
    assert report.windows_seen == 60 * 16
    assert report.train_episodes + report.holdout_episodes == 30
    assert report.train_rows + report.holdout_rows == 600
    assert report.dimensions == ("obs0", "reward")
    assert report.constant == ()
    quality = report.quality
    parts = quality.obs_log_prob + quality.reward_log_prob + quality.termination_log_prob - quality.kl
    assert quality.bound == pytest.approx(parts, rel=1e-4)
    assert 0 < quality.active_units <= 4
    assert quality.kl > 0.1
    assert quality.decoder_std == pytest.approx((0.1, 0.1))
    assert len(quality.closed_loop_r2) == len(quality.open_loop_r2) == 2
    assert quality.closed_loop_r2[0] > 0.5
    assert report.problems == ()
    assert float(model.reward_range[0]) < -0.5 < float(model.reward_range[1])


def test_equal_seeds_fit_equal_weights_and_no_global_stream_is_touched() -> None:
    streams = global_stream_states()
    few = SequenceFitConfig(max_gradient_steps=15, batch_size=8, window=10, validate_every=5)
    one, first = fitted(config=few)
    assert global_stream_states() == streams
    th.rand(7, generator=torch_generator(0))
    other, second = fitted(config=few)
    assert all(th.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert first.quality == second.quality
    third, _ = fitted(config=few, seed=1)
    assert not th.equal(one.decoder.layers[0].weight, third.decoder.layers[0].weight)


def test_the_best_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []

    def watched(self: SequenceTrainer, batch: Any) -> float:
        bounds.append(original(self, batch))
        if len(bounds) > 2:  # from the second look on everything gets worse
            bounds[-1] -= 100 * len(bounds)
        return bounds[-1]

    original = SequenceTrainer._bound
    monkeypatch.setattr(SequenceTrainer, "_bound", watched)
    config = SequenceFitConfig(max_gradient_steps=200, batch_size=4, window=10, validate_every=10, patience=3)
    model, report = fitted(config=config)
    assert report.best_step == 10
    assert report.gradient_steps == 40, "three looks without an improvement end the fit"
    monkeypatch.undo()
    twin, stopped = fitted(config=SequenceFitConfig(max_gradient_steps=10, batch_size=4, window=10, validate_every=10))
    assert stopped.gradient_steps == 10
    for here, there in zip(model.parameters(), twin.parameters(), strict=True):
        assert th.equal(here, there)


def test_a_second_fit_goes_on_from_the_first_with_its_own_cap() -> None:
    model = cart_model()
    trainer = SequenceTrainer(model, QUICK)
    first = trainer.fit(STORE.transitions())
    second = trainer.fit(STORE.transitions(), max_gradient_steps=7)
    assert second.gradient_steps == 7
    assert second.initial_bound == pytest.approx(first.quality.bound, abs=0.3)
    assert trainer.steps_taken == 67
    assert second.train_rows == first.train_rows


@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
def test_episodes_far_shorter_than_the_window_are_judged_too() -> None:
    rows = STORE.transitions()
    short = rows._replace(last=rows.last | (th.arange(600) % 4 == 3))
    report = SequenceTrainer(cart_model(), SequenceFitConfig(max_gradient_steps=1, window=31)).fit(short)
    assert report.train_episodes + report.holdout_episodes == 150
    assert all(math.isfinite(value) for value in (*report.quality.closed_loop_r2, *report.quality.open_loop_r2))


def test_scales_come_from_training_rows_only() -> None:
    rows = STORE.transitions()
    trainer = SequenceTrainer(cart_model(), QUICK)
    report = trainer.fit(rows)
    train, _ = sequence_trainer.Episodes.of(rows).split(0.1, seed=trainer._split_seed)
    index = th.cat([th.arange(b, b + n) for b, n in zip(train.begin.tolist(), train.steps.tolist(), strict=True)])
    assert len(index) == report.train_rows < rows.num_rows
    seen = th.cat([rows.obs[index], rows.next_obs[index]])
    th.testing.assert_close(trainer.model.obs_normalizer.mean, seen.mean(0))
    th.testing.assert_close(trainer.model.reward_normalizer.mean[0], rows.reward[index].mean())


def test_steps_that_are_not_finite_change_nothing_and_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        loss, terms = original(*args, **kwargs)
        return (loss * math.nan if calls % 3 == 0 else loss), terms

    original = sequence_trainer.sequence_loss
    monkeypatch.setattr(sequence_trainer, "sequence_loss", sometimes)
    model = cart_model()
    with pytest.warns(UserWarning, match="20 gradient steps had a loss or gradient that was not finite"):
        report = SequenceTrainer(model, QUICK).fit(STORE.transitions())
    assert report.skipped_steps == 20
    assert report.quality.bound > report.initial_bound
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_a_collapsed_posterior_is_told_in_words_and_once() -> None:
    config = SequenceFitConfig(
        max_gradient_steps=100, batch_size=8, window=10, learning_rate=1e-2, objective=ElboOptions(kl_weight=1e5)
    )
    trainer = SequenceTrainer(cart_model(decoder_std=1.0), config)
    # The best weights by the true bound are those before the weight of the divergence told.
    trainer._bound = lambda batch: float(trainer.steps_taken)  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match=r"posterior has collapsed.*Try a smaller decoder_std"):
        report = trainer.fit(STORE.transitions())
    assert report.quality.kl < 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = trainer.fit(STORE.transitions(), max_gradient_steps=1)
    assert again.problems


def test_a_decoder_at_its_floor_is_named() -> None:
    model = cart_model(learn_decoder_std=True, decoder_std=0.0201)
    _, report = fitted(model, SequenceFitConfig(max_gradient_steps=1, window=10))
    assert any("learned decoder_std of obs0, reward is at its floor 0.02" in said for said in report.problems)
    assert report.quality.at_floor == ("obs0", "reward")


def changed(**columns: Any) -> Transitions:
    return STORE.transitions()._replace(**columns)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (lambda rows: rows._replace(obs=rows.obs * 0, next_obs=rows.obs * 0), ValueError, "are all of them masked"),
        (lambda rows: rows._replace(reward=rows.reward / 0), ValueError, "non-finite reward"),
        (lambda rows: rows._replace(action=rows.action * 3), ValueError, "outside of the model actions"),
        (lambda rows: Transitions(*(c[:5] for c in rows)), ValueError, "Need at least 10 transitions"),
        (lambda rows: Transitions(*(c[th.randperm(600)] for c in rows)), ValueError, "in the order of time"),
        (lambda rows: rows._replace(obs=rows.obs.numpy()), TypeError, "must be a torch tensor"),
    ],
)
def test_rows_that_teach_nothing_are_refused(rows: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        SequenceTrainer(cart_model(), QUICK).fit(rows(STORE.transitions()))


def test_episodes_shorter_than_the_window_are_taken_as_a_whole() -> None:
    config = SequenceFitConfig(max_gradient_steps=5, window=100, validate_every=5)
    _, report = fitted(config=config)
    assert math.isfinite(report.quality.bound)


def test_a_constant_sensor_is_named_and_kept() -> None:
    rows = STORE.transitions()
    wide = rows._replace(
        obs=th.cat([rows.obs, th.full((600, 1), 3.5)], 1), next_obs=th.cat([rows.next_obs, th.full((600, 1), 3.5)], 1)
    )
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    model = LatentStateSpaceModel(space, HiddenVelocity().action_space, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # after five steps there is nothing in the latent state
        report = SequenceTrainer(model, QUICK).fit(wide, max_gradient_steps=5)
    assert report.constant == ("obs1",)
    assert math.isnan(report.quality.closed_loop_r2[1])
    state = model.initial(3)
    assert model.decode(state)[:, 1].tolist() == [3.5] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=0), "batch_size"),
        (dict(window=4, burn_in=5), "leaves nothing of a window"),
        (dict(holdout_ratio=1.0), "holdout_ratio"),
        (dict(learning_rate=0.0), "learning_rate"),
    ],
)
def test_impossible_numbers_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceFitConfig(**options)


def test_windows_that_a_transformer_cannot_look_back_on_are_refused() -> None:
    model = cart_model(summary="transformer", context=8)
    with pytest.raises(ValueError, match="has 11 observations, and the posterior looks back on context=8"):
        SequenceTrainer(model, QUICK)


@pytest.mark.parametrize("posterior", ["single", "factorised filter", "filter"])
def test_a_deterministic_latent_does_not_shrink(posterior: Any) -> None:
    model = cart_model(posterior=posterior, deterministic=True)
    trainer = SequenceTrainer(
        model, SequenceFitConfig(max_gradient_steps=80, batch_size=16, window=10, learning_rate=3e-3)
    )
    rows = STORE.transitions()
    model.set_statistics(rows)
    pieces = sequence_trainer.Episodes.of(rows).cover(10, 60)

    def spread() -> float:
        with th.no_grad():
            return float(model.infer(pieces, th.zeros(*pieces.obs.shape[:2], 4)).sample[pieces.valid].std(0).mean())

    before = spread()
    report = trainer.fit(rows)
    assert spread() > 0.1 * before
    assert spread() > 0.3
    assert report.quality.closed_loop_r2[0] > 0.8
