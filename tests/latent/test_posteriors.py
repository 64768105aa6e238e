"""Posteriors: what each one sees, and that filtering step by step is inference along the sequence."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch as th

from mbrl_wrappers.latent import SequenceBatch
from mbrl_wrappers.latent.network import Inferred
from mbrl_wrappers.seeding import torch_generator
from tests.latent.small_models import FILTERS, POSTERIORS, filtered, noise_for, small_batch, small_model

every_posterior = pytest.mark.parametrize("kind", POSTERIORS.values(), ids=POSTERIORS)
every_filter = pytest.mark.parametrize("kind", FILTERS.values(), ids=FILTERS)
with_and_without_recurrent_part = pytest.mark.parametrize("recurrent", [0, 5])


def changed(before: Inferred, after: Inferred) -> list[bool]:
    """At which times the posterior differs."""
    pairs = zip(before.posterior, after.posterior, strict=True)
    differs = [((a - b).abs() > 1e-6).any(-1).any(0) for a, b in pairs]
    return (differs[0] | differs[1]).tolist()


@every_posterior
@with_and_without_recurrent_part
@pytest.mark.parametrize("deterministic", [False, True])
def test_filtering_step_by_step_is_inference_up_to_now(kind: Any, recurrent: int, deterministic: bool) -> None:
    model = small_model(**kind, recurrent_size=recurrent, deterministic=deterministic)
    batch = small_batch()
    states = filtered(model, batch)
    for time, state in enumerate(states):
        piece = batch.cut(time + 1)
        noise = noise_for(model, piece)
        if kind["posterior"] == "smoother":  # draws the whole window at once, at every call
            g = torch_generator(0)
            for steps in range(1, time + 2):
                noise = th.randn(4, steps, 3, generator=g)
        inferred = model.infer(piece, noise)
        mean = inferred.sample if deterministic else inferred.posterior.mean
        std = th.zeros_like(mean) if deterministic else inferred.posterior.std
        # A factorised smoother draws earlier states anew with every observation, and the recurrent part follows those.
        follows = kind["posterior"] != "factorised smoother"
        for name, here, there in (
            ("recurrent", state.recurrent, inferred.recurrent if follows else state.recurrent[:, None]),
            ("sample", state.sample, inferred.sample),
            ("mean", state.mean, mean),
            ("std", state.std, std),
        ):
            th.testing.assert_close(here, there[:, -1], rtol=1e-5, atol=1e-5, msg=f"{name} at {time}")


@every_filter
@with_and_without_recurrent_part
def test_a_filter_does_not_see_the_future(kind: Any, recurrent: int) -> None:
    model, batch = small_model(**kind, recurrent_size=recurrent), small_batch()
    noise = noise_for(model, batch)
    before = model.infer(batch, noise)
    order = [0, 1, 2, 5, 3, 4]
    after = model.infer(batch._replace(obs=batch.obs[:, order]), noise)
    assert changed(before, after)[:3] == [False] * 3
    assert all(changed(before, after)[3:])


@every_posterior
def test_the_action_taken_at_a_time_is_not_known_at_that_time(kind: Any) -> None:
    model, batch = small_model(**kind), small_batch()
    noise = noise_for(model, batch)
    action = batch.action.clone()
    action[:, 3] += 0.5
    differs = changed(model.infer(batch, noise), model.infer(batch._replace(action=action), noise))
    if kind["posterior"] == "single":
        assert differs == [False] * 6
    elif "smoother" in kind["posterior"]:  # which see what followed from it
        assert differs[4]
    else:
        assert differs[:4] == [False] * 4
        assert differs[4]


def test_the_smoother_given_the_state_before_does_not_see_the_past() -> None:
    model, batch = small_model(posterior="smoother"), small_batch()
    inputs = model.layout.sequence(model.embed(batch.obs), batch.action, batch.first)
    other = inputs.clone()
    other[:, :3] = other[:, [2, 0, 1]]
    summary, changed_summary = (model.posterior.summary(rows, batch.length) for rows in (inputs, other))
    th.testing.assert_close(summary[:, 3:], changed_summary[:, 3:])
    assert not th.allclose(summary[:, :3], changed_summary[:, :3])


@pytest.mark.parametrize("posterior", ["smoother", "factorised smoother"])
def test_a_smoother_sees_the_future(posterior: str) -> None:
    model, batch = small_model(posterior=posterior), small_batch()
    noise = noise_for(model, batch)
    obs = batch.obs.clone()
    obs[:, -1] += 1
    assert all(changed(model.infer(batch, noise), model.infer(batch._replace(obs=obs), noise)))


@every_posterior
@with_and_without_recurrent_part
def test_padding_changes_nothing(kind: Any, recurrent: int) -> None:
    model, batch = small_model(**kind, recurrent_size=recurrent), small_batch()
    noise = noise_for(model, batch)
    padded = batch._replace(length=th.full((4,), 4), obs=batch.obs.clone())
    padded.obs[:, 4:] = 1e3
    short, long = model.infer(batch.cut(4), noise[:, :4]), model.infer(padded, noise)
    th.testing.assert_close(long.posterior.mean[:, :4], short.posterior.mean, rtol=1e-5, atol=1e-5)
    th.testing.assert_close(long.prior.mean[:, :4], short.prior.mean, rtol=1e-5, atol=1e-5)


@every_posterior
@with_and_without_recurrent_part
def test_where_an_episode_begins_nothing_before_it_counts(kind: Any, recurrent: int) -> None:
    model, batch = small_model(**kind, recurrent_size=recurrent), small_batch()
    used, first = filtered(model, batch)[-1], th.ones(4, dtype=th.bool)
    fresh = model.observe(model.initial(4), th.zeros(4, 2), batch.obs[:, 0], first, generator=torch_generator(5))
    anew = model.observe(used, th.full((4, 2), 0.7), batch.obs[:, 0], first, generator=torch_generator(5))
    for here, there in zip(fresh, anew, strict=True):
        assert th.equal(here, there)


def test_rows_that_begin_anew_leave_the_others_alone() -> None:
    model, batch = small_model(recurrent_size=5), small_batch()
    state = filtered(model, batch)[-1]
    action, obs = batch.action[:, 0], batch.obs[:, 0]
    on = model.observe(state, action, obs, th.zeros(4, dtype=th.bool), generator=torch_generator(5))
    mixed = model.observe(state, action, obs, th.tensor([0, 1, 0, 1]).bool(), generator=torch_generator(5))
    for before, after in zip(on, mixed, strict=True):
        assert th.equal(before[::2], after[::2])
    assert not th.allclose(on.mean[1::2], mixed.mean[1::2])


def test_a_state_moves_on_under_constant_inputs() -> None:
    for kind in POSTERIORS.values():
        if kind["posterior"] == "single":
            continue
        model, batch = small_model(**kind, recurrent_size=5), small_batch()
        constant = SequenceBatch(*(column[:, :1].expand_as(column) if column.ndim > 1 else column for column in batch))
        states = filtered(model, constant)
        for state, following in pairwise(states):
            assert not th.allclose(state.recurrent, following.recurrent)
            assert not th.allclose(state.mean, following.mean)


@pytest.mark.parametrize("posterior", ["factorised filter", "smoother"])
def test_a_full_window_goes_on_as_a_history_that_begins_in_the_middle(posterior: Any) -> None:
    model = small_model(posterior=posterior, summary="transformer", context=4)
    batch = small_batch(steps=7)
    state = filtered(model, batch)[-1]
    tail = SequenceBatch(
        batch.obs[:, 3:],
        batch.action[:, 3:],
        batch.reward[:, 3:],
        batch.terminated[:, 3:],
        th.zeros(4, dtype=th.bool),
        th.full((4,), 4),
    )
    if posterior == "smoother":
        g = torch_generator(0)
        for steps in (1, 2, 3, 4, 4, 4, 4):
            noise = th.randn(4, steps, 3, generator=g)
    else:
        noise = th.zeros(4, 4, 3)
    inferred = model.infer(tail, noise)
    th.testing.assert_close(state.mean, inferred.posterior.mean[:, -1], rtol=1e-5, atol=1e-5)
    th.testing.assert_close(state.std, inferred.posterior.std[:, -1], rtol=1e-5, atol=1e-5)


def test_a_transformer_refuses_more_than_it_looks_back_on() -> None:
    model, batch = small_model(posterior="factorised filter", summary="transformer", context=4), small_batch()
    with pytest.raises(ValueError, match="looks back on context=4 observations, and the sequence has 6"):
        model.infer(batch, noise_for(model, batch))


@pytest.mark.parametrize("kind", POSTERIORS.values(), ids=POSTERIORS)
def test_posterior_draws_are_standard_normal_around_the_mean(kind: Any) -> None:
    model = small_model(**kind)
    obs = th.zeros(8000, 2)
    state, g = model.initial(len(obs)), torch_generator(3)
    for first in (True, False):
        state = model.observe(state, th.zeros(len(obs), 2), obs, th.full((len(obs),), first), generator=g)
    standard = (state.sample - state.mean) / state.std
    assert standard.mean(0).abs().max() < 0.05
    assert (standard.std(0) - 1).abs().max() < 0.05
    assert standard.pow(4).mean(0).sub(3).abs().max() < 0.5, "uniform draws have a fourth moment of 1.8"
