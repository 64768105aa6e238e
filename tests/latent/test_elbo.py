"""The evidence bound term by term against slow formulas, and what shapes the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch as th
from torch.distributions import Bernoulli, Normal, kl_divergence

from mbrl_wrappers.latent import ElboOptions, LatentStateSpaceModel, SequenceBatch
from mbrl_wrappers.latent.elbo import divergence, elbo_terms, sequence_loss
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.tasks.functions import never_terminates
from tests.latent.small_models import POSTERIORS, noise_for, small_batch, small_model


def uneven_batch() -> SequenceBatch:
    batch = small_batch(rows=3)
    batch.terminated[1, 2] = True
    return batch._replace(length=th.tensor([6, 4, 2]), first=th.tensor([True, False, True]))


def scaled(model: LatentStateSpaceModel) -> LatentStateSpaceModel:
    model.obs_normalizer.set_statistics(th.tensor([[0.0, 5.0], [2.0, 9.0]]))
    model.reward_normalizer.set_statistics(th.tensor([[-3.0], [5.0]]))
    return model


@pytest.mark.parametrize("kind", POSTERIORS.values(), ids=POSTERIORS)
@pytest.mark.parametrize("recurrent", [0, 5])
@th.no_grad()
def test_each_term_is_what_a_slow_formula_says(kind: Any, recurrent: int) -> None:
    model = scaled(small_model(**kind, recurrent_size=recurrent, learn_decoder_std=True))
    batch = uneven_batch()
    inferred = model.infer(batch, noise_for(model, batch))
    terms = elbo_terms(model, batch, inferred)
    expected = terms._replace(**{name: th.zeros_like(term) for name, term in terms._asdict().items()})
    for row in range(3):
        hidden, last = th.zeros(1, recurrent), th.zeros(0)
        for t in range(int(batch.length[row])):
            here = inferred.sample[row, t]
            q = Normal(inferred.posterior.mean[row, t], inferred.posterior.std[row, t])
            if t == 0:
                start = int(batch.first[row])
                std = 0.05 + th.nn.functional.softplus(model.dynamics.first_raw_std[start])
                p = Normal(model.dynamics.first_mean[start], std)
            else:
                before, action = inferred.sample[row, t - 1][None], batch.action[row, t - 1][None]
                hidden, parent = model.dynamics.advance(hidden, before, action)
                prior = model.dynamics.following(parent, before)
                p = Normal(prior.mean[0], prior.std[0])
            expected.kl[row, t] = kl_divergence(q, p).sum()
            latent = th.cat([hidden[0], here])
            standard = (batch.obs[row, t] - th.tensor([1.0, 7.0])) / th.tensor([1.0, 2.0])
            expected.obs[row, t] = Normal(model.decoder(latent), model.decoder_std()).log_prob(standard).sum()
            if t:
                step = th.cat([last, batch.action[row, t - 1], latent])
                reward = (batch.reward[row, t - 1] - 1) / 4
                density = Normal(model.reward_head(step), model.reward_std()).log_prob(reward)
                expected.reward[row, t - 1] = density.sum()
                ends = Bernoulli(logits=model.termination_head(latent)).log_prob(batch.terminated[row, t - 1].float())
                expected.termination[row, t - 1] = ends.sum()
            last = latent
    for name, here, there in zip(terms._fields, terms, expected, strict=True):
        th.testing.assert_close(here, there, rtol=1e-4, atol=1e-4, msg=name)
    total = expected.obs.sum(1) + expected.reward.sum(1) + expected.termination.sum(1) - expected.kl.sum(1)
    th.testing.assert_close(terms.bound, total, rtol=1e-4, atol=1e-3)


def test_what_is_known_or_never_varies_has_no_term() -> None:
    model = small_model(termination_fn=never_terminates)
    model.obs_normalizer.set_statistics(th.tensor([[0.0, 5.0], [2.0, 5.0]]))
    batch = small_batch()
    inferred = model.infer(batch, noise_for(model, batch))
    terms = elbo_terms(model, batch, inferred)
    assert not terms.termination.any()
    target = (batch.obs[..., 0] - 1) / 1
    density = Normal(model.decoder(inferred.latent)[..., 0], 0.1).log_prob(target)
    th.testing.assert_close(terms.obs, density)


def loss_of(model: LatentStateSpaceModel, batch: SequenceBatch, options: ElboOptions, **more: Any) -> float:
    with th.no_grad():
        return float(sequence_loss(model, batch, noise_for(model, batch), options, **more)[0])


def test_the_loss_is_minus_the_bound_per_observation() -> None:
    model, batch = small_model(), uneven_batch()
    with th.no_grad():
        terms = elbo_terms(model, batch, model.infer(batch, noise_for(model, batch)))
    assert loss_of(model, batch, ElboOptions()) == pytest.approx(-float(terms.bound.sum()) / 12, rel=1e-5)
    without = loss_of(model, batch, ElboOptions(kl_weight=0))
    assert loss_of(model, batch, ElboOptions(kl_weight=3)) == pytest.approx(
        without + 3 * float(terms.kl.sum()) / 12, rel=1e-5
    )


@pytest.mark.parametrize("per", ["entry", "mean"])
def test_free_nats_cost_no_more_than_they_are(per: Any) -> None:
    model, batch = small_model(), uneven_batch()
    with th.no_grad():
        kl = divergence(model, model.infer(batch, noise_for(model, batch)))[batch.valid]
    free = float(kl.median()) if per == "entry" else float(kl.mean()) + 0.1
    shaped = kl.clamp(min=free).mean() if per == "entry" else th.tensor(free)
    options = ElboOptions(free_nats=free, free_nats_per=per)
    difference = loss_of(model, batch, options) - loss_of(model, batch, ElboOptions())
    assert difference == pytest.approx(float(shaped - kl.mean()), abs=1e-4)
    assert difference > 0.01
    # Below the free nats nothing pulls the posterior to the prior.
    many = ElboOptions(free_nats=1e3, free_nats_per=per)
    sequence_loss(model, batch, noise_for(model, batch), many)[0].backward()
    assert model.dynamics.first_mean.grad is None or not model.dynamics.first_mean.grad.any()


def test_balance_divides_the_gradient_between_prior_and_posterior() -> None:
    batch = small_batch()
    gradients = {}
    for balance in (None, 0.8, 1.0):
        model = small_model(posterior="single")
        for module in (model.decoder, model.reward_head, model.termination_head):
            for parameter in module.parameters():
                th.nn.init.zeros_(parameter)  # so that only the divergence pulls
        model.zero_grad()
        options = ElboOptions(kl_balance=balance)
        loss, terms = sequence_loss(model, batch, noise_for(model, batch), options)
        loss.backward()
        assert float(loss.detach() + (terms.bound + terms.kl.sum(1)).detach().sum() / 24) == pytest.approx(
            float(terms.kl.detach().sum()) / 24, rel=1e-4
        ), "the value is that of the plain divergence"
        gradients[balance] = (model.dynamics.first_mean.grad, model.encoder.layers[0].weight.grad)
    th.testing.assert_close(gradients[0.8][0], 0.8 * gradients[None][0])
    th.testing.assert_close(gradients[1.0][0], gradients[None][0])
    assert gradients[1.0][1] is not None


def test_balance_of_one_leaves_the_posterior_alone_where_draws_do_not_matter() -> None:
    model, batch = small_model(posterior="single"), small_batch(steps=2)
    inferred = model.infer(batch, noise_for(model, batch))
    for stopped, moves_q in (("q", False), ("p", True)):
        model.zero_grad()
        divergence(model, inferred, stopped)[:, 0].sum().backward(retain_graph=True)  # type: ignore[arg-type]
        pulled = model.posterior.head.net.layers[-1].bias.grad
        assert (pulled is not None and bool(pulled.any())) == moves_q
        first = model.dynamics.first_mean.grad
        assert (first is not None and bool(first.any())) != moves_q


def test_the_divergence_warms_up() -> None:
    options = ElboOptions(kl_weight=2.0, kl_warmup=10)
    assert [options.weight(step) for step in (0, 4, 9, 500)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    model, batch = small_model(), small_batch()
    none = loss_of(model, batch, ElboOptions(kl_weight=0))
    half = loss_of(model, batch, options, step=4) - none
    assert half == pytest.approx((loss_of(model, batch, options, step=500) - none) / 2, rel=1e-4)


def test_burn_in_leaves_out_what_is_not_known_yet() -> None:
    model = small_model(termination_fn=never_terminates)
    batch = uneven_batch()  # rows: begins an episode, begins in the middle, begins an episode
    with th.no_grad():
        terms = elbo_terms(model, batch, model.infer(batch, noise_for(model, batch)))
    left = terms.obs - terms.kl
    expected = left[0].sum() + left[2].sum() + left[1, 3:].sum()
    expected = expected + terms.reward[0].sum() + terms.reward[2].sum() + terms.reward[1, 2:].sum()
    counted = 6 + 2 + 1
    assert loss_of(model, batch, ElboOptions(), burn_in=3) == pytest.approx(-float(expected) / counted, rel=1e-5)


def test_a_deterministic_target_gets_no_gradient() -> None:
    model, batch = small_model(posterior="single", deterministic=True), small_batch(steps=2)
    obs = batch.obs.clone().requires_grad_()
    inferred = model.infer(batch._replace(obs=obs), noise_for(model, batch))
    (pull,) = th.autograd.grad(divergence(model, inferred)[:, 1].sum(), obs)
    assert not pull[:, 1].any()
    assert pull[:, 0].abs().min() > 0
    assert inferred.sample.square().mean(-1).flatten().tolist() == pytest.approx([1.0] * 8, rel=1e-5)
    th.testing.assert_close(inferred.prior.mean.square().mean(-1)[:, 1], th.ones(4), rtol=1e-5, atol=1e-5)


def test_a_deterministic_model_draws_nothing() -> None:
    model, batch = small_model(deterministic=True), small_batch()
    one, other = (model.infer(batch, noise_for(model, batch, seed)) for seed in (0, 1))
    assert th.equal(one.sample, other.sample)
    state = model.reset(one.sample[:, 0].detach(), generator=torch_generator(0))
    ahead = [model.step(state, batch.action[:, 0], generator=torch_generator(seed))[1] for seed in (0, 1)]
    assert th.equal(ahead[0].next_obs, ahead[1].next_obs)


class Recorder(th.nn.Module):
    """A reward head that keeps what it is shown."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        self.shown = x
        return x[..., :1] * 0


def test_rewards_and_actions_are_those_of_their_step() -> None:
    # o_t = t and r_t = 10 t + a_t: a linear fit of the rewards on what the head sees must read (10, 1, 0) exactly.
    model = small_model(
        posterior="single", latent_size=2, hidden=(), encoder_hidden=(), termination_fn=never_terminates
    )
    with th.no_grad():
        for parameter in (*model.encoder.parameters(), *model.posterior.parameters()):
            parameter.zero_()
        model.encoder.layers[0].weight.copy_(th.eye(2))
        model.posterior.head.net.layers[0].weight[:2] = th.eye(2)
        model.posterior.head.net.layers[0].bias[2:] = -50
    model.posterior.head.min_std = 0.0
    model.reward_head = Recorder()
    batch = small_batch(rows=3, steps=6)
    time = th.arange(6.0)
    obs = th.stack([time, th.zeros(6)], 1).expand(3, 6, 2)
    batch = batch._replace(obs=obs, reward=10 * time[:-1] + batch.action[..., 0])
    elbo_terms(model, batch, model.infer(batch, noise_for(model, batch)))
    shown = model.reward_head.shown.detach().reshape(15, 6).double()  # two of the state, two of the action, two after
    used = shown[:, [0, 2, 4]]
    solution = th.linalg.lstsq(used, batch.reward.reshape(15, 1).double())
    assert solution.solution[:, 0].tolist() == pytest.approx([10, 1, 0], abs=1e-4)
    assert (used @ solution.solution - batch.reward.reshape(15, 1)).abs().max() < 1e-4
    inputs = model.layout.sequence(model.embed(batch.obs), batch.action, batch.first)
    assert not inputs[:, 0, -2:].any()
    assert th.equal(inputs[:, 1:, -2:], batch.action)


@pytest.mark.parametrize(
    "options",
    [
        dict(kl_weight=-1),
        dict(kl_warmup=-1),
        dict(kl_balance=1.5),
        dict(free_nats=math.inf),
        dict(free_nats_per="batch"),
    ],
)
def test_impossible_options_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ElboOptions(**options)
