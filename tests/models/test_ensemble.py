"""The ensemble's predictions: members, units, gradients, saving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import EnsembleDynamics, EnsembleOptions, Transitions, load, save
from mbrl_wrappers.models.ensemble import EnsembleState
from mbrl_wrappers.models.gaussian_ensemble import Examples
from mbrl_wrappers.tasks import never_terminates
from mbrl_wrappers.types import SharedNoiseModel, VectorStateModel
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_reward, oracle_termination

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def make_model(**kwargs: object) -> EnsembleDynamics:
    defaults: dict[str, object] = {"num_members": 4, "num_elites": 2, "hidden": (16, 16), "device": "cpu"}
    return EnsembleDynamics(BOX, OracleEnv().action_space, **(defaults | kwargs))  # type: ignore[arg-type]


def make_rows(count: int = 64, seed: int = 0) -> Transitions:
    generator = th.Generator().manual_seed(seed)
    obs = th.randn(count, 3, generator=generator) * th.tensor([1.0, 10.0, 0.1])
    action = th.rand(count, 2, generator=generator) * 2 - 1
    next_obs = obs + th.randn(count, 3, generator=generator)
    reward = th.randn(count, generator=generator) * 5 + 3
    return Transitions(obs, action, reward, next_obs, reward > 8, th.zeros(count, dtype=th.bool))


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def test_members_are_drawn_from_the_elites_only_and_all_of_them() -> None:
    model = make_model(num_members=6, num_elites=3)
    model.elites.copy_(th.tensor([5, 0, 3]))
    state = model.reset(th.zeros(3000, 3), generator=generator())
    counts = th.bincount(state.member, minlength=6)
    assert counts[[1, 2, 4]].tolist() == [0, 0, 0]
    assert (counts[[0, 3, 5]] > 900).all()


@pytest.mark.parametrize(("propagation", "kept"), [("ts1", False), ("tsinf", True), ("mean", True)])
def test_propagation_decides_whether_a_trajectory_keeps_its_member(propagation: str, kept: bool) -> None:
    model = make_model(propagation=propagation, num_elites=4)
    g = generator()
    with th.no_grad():
        state = model.reset(th.zeros(200, 3), generator=g)
        following, _ = model.step(state, th.zeros(200, 2), generator=g)
    assert bool((state.member == following.member).all()) == kept


def test_a_step_is_the_members_standardised_prediction_in_raw_units() -> None:
    rows = make_rows()
    model = make_model(propagation="tsinf", options=EnsembleOptions(log_variance_low=-31.0, log_variance_high=-30.0))
    model.set_statistics(rows)
    g = generator()
    with th.no_grad():
        state = model.reset(rows.obs, generator=g)
        _, prediction = model.step(state, rows.action, generator=g)
        for row in range(0, 64, 7):
            z = th.cat([(rows.obs[row] - rows.obs.mean(0)) / rows.obs.std(0, correction=0), rows.action[row]])
            out = model.net(z.expand(4, 1, 5))[state.member[row], 0, :4]
            delta = rows.next_obs - rows.obs
            targets = th.cat([delta, rows.reward[:, None]], 1)
            raw = out * targets.std(0, correction=0) + targets.mean(0)
            th.testing.assert_close(prediction.next_obs[row], rows.obs[row] + raw[:3], rtol=1e-4, atol=1e-4)
            th.testing.assert_close(prediction.reward[row], raw[3], rtol=1e-4, atol=1e-4)


def test_the_noise_has_the_predicted_spread() -> None:
    model = make_model(propagation="tsinf", num_members=1, num_elites=1)
    with th.no_grad():
        for layer in model.net.linear_layers():
            layer.weight.zero_()
        state = model.reset(th.zeros(20_000, 3), generator=generator())
        _, prediction = model.step(state, th.zeros(20_000, 2), generator=generator(1))
        log_variance = model.log_variance(th.zeros(4))
    assert float(prediction.next_obs.std()) == pytest.approx(float((0.5 * log_variance[0]).exp()), rel=0.02)
    assert float(prediction.reward.std()) == 0.0  # the reward is a mean, not a draw


def test_mean_propagation_averages_the_elites_without_noise() -> None:
    model = make_model(propagation="mean", num_members=3, num_elites=2)
    model.elites.copy_(th.tensor([2, 0]))
    rows = make_rows()
    model.set_statistics(rows)
    with th.no_grad():
        inputs = model.inputs(rows.obs, rows.action)
        each = model.net(inputs.expand(3, *inputs.shape))[[2, 0], :, :3].mean(0)
        expected = rows.obs + each * model.target_normalizer.std[:3] + model.target_normalizer.mean[:3]
        state = model.reset(rows.obs, generator=generator())
        _, first = model.step(state, rows.action, generator=generator(1))
        _, second = model.step(state, rows.action, generator=generator(2))
    th.testing.assert_close(first.next_obs, expected)
    assert th.equal(first.next_obs, second.next_obs)


def test_functions_receive_environment_units() -> None:
    seen: list[th.Tensor] = []

    def reward_fn(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        seen.append(action)
        return oracle_reward(obs, action, next_obs)

    model = make_model(reward_fn=reward_fn, termination_fn=oracle_termination)
    action = th.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [5.0, -5.0]])
    with th.no_grad():
        state = model.reset(th.tensor([[0.0] * 3] * 3 + [[9.0, 0, 0]]), generator=generator())
        _, prediction = model.step(state, action, generator=generator())
    th.testing.assert_close(seen[0], th.tensor([[-0.4, -1.0], [0.4, 3.0], [0.0, 1.0], [0.4, -1.0]]))
    th.testing.assert_close(prediction.reward, oracle_reward(state.obs, seen[0], prediction.next_obs))
    assert prediction.terminated[3]


def test_discrete_actions_reach_functions_as_indices() -> None:
    seen: list[th.Tensor] = []

    def termination_fn(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        seen.append(action)
        return th.zeros(len(obs), dtype=th.bool)

    model = EnsembleDynamics(
        BOX, DiscreteOracleEnv(start=4).action_space, hidden=(8,), termination_fn=termination_fn, device="cpu"
    )
    with th.no_grad():
        model.step(model.reset(th.zeros(3, 3), generator=generator()), th.eye(3), generator=generator())
    assert seen[0].tolist() == [4, 5, 6]


@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean", "infoprop"])
@pytest.mark.parametrize("learned", [False, True])
def test_candidates_that_are_equal_get_equal_predictions_from_common_draws(propagation: str, learned: bool) -> None:
    known = {} if learned else {"reward_fn": oracle_reward, "termination_fn": never_terminates}
    model = make_model(propagation=propagation, num_elites=4, hidden=(32, 32), **known)
    model.set_statistics(make_rows())
    particles = model.reset(th.zeros(64, 3), generator=generator())
    state = EnsembleState(particles.obs.repeat(3, 1), particles.member.repeat(3))
    action = th.zeros(3, 64, 2)
    action[2] = 0.5
    with th.no_grad():
        following, prediction = model.step_shared(state, action.flatten(0, 1), generator=generator(1), groups=3)
    first, second, third = prediction.next_obs.view(3, 64, 3)
    assert th.equal(first, second)
    assert th.equal(*prediction.reward.view(3, 64)[:2])
    assert not th.equal(first, third)
    assert th.equal(following.obs, prediction.next_obs)
    assert th.equal(*following.member.view(3, 64)[::2])
    assert len(first.unique(dim=0)) == (1 if propagation == "mean" else 64)  # the draws of particles differ


def test_common_draws_are_those_of_a_step_when_there_is_one_block() -> None:
    model = make_model()
    state = model.reset(th.randn(40, 3, generator=generator()), generator=generator())
    with th.no_grad():
        alone = model.step(state, th.zeros(40, 2), generator=generator(1))
        shared = model.step_shared(state, th.zeros(40, 2), generator=generator(1), groups=1)
    assert th.equal(alone[1].next_obs, shared[1].next_obs)
    assert th.equal(alone[0].member, shared[0].member)


def test_rows_that_are_no_equal_blocks_are_refused() -> None:
    model = make_model()
    state = model.reset(th.zeros(5, 3), generator=generator())
    for groups in (0, 2):
        with pytest.raises(ValueError, match="equal blocks"):
            model.step_shared(state, th.zeros(5, 2), generator=generator(), groups=groups)


def test_a_fast_step_is_the_differentiable_one() -> None:
    model = make_model(num_elites=3)
    rows = make_rows(500)
    model.set_statistics(rows)
    state = model.reset(rows.obs, generator=generator())
    slow = model.step(state, rows.action, generator=generator(1))[1]
    with th.no_grad():
        fast = model.step(state, rows.action, generator=generator(1))[1]
    assert slow.next_obs.requires_grad
    th.testing.assert_close(fast, slow)


def test_a_state_is_a_vector_with_a_member() -> None:
    model = make_model()
    assert isinstance(model, VectorStateModel)
    assert isinstance(model, SharedNoiseModel)
    state = model.reset(th.zeros(4, 3), generator=generator())
    moved = model.with_state_vector(state, model.state_vector(state) + 1)
    assert th.equal(moved.obs, th.ones(4, 3))
    assert th.equal(moved.member, state.member)


def test_a_step_is_differentiable_in_state_and_action() -> None:
    model = make_model(propagation="tsinf", termination_fn=never_terminates).double()
    obs = th.randn(3, 3, dtype=th.float64, generator=generator()).requires_grad_()
    action = (th.rand(3, 2, dtype=th.float64, generator=generator()) - 0.5).requires_grad_()

    def predict(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        g = generator(1)
        _, prediction = model.step(model.reset(obs, generator=g), action, generator=g)
        return prediction.next_obs, prediction.reward

    assert th.autograd.gradcheck(predict, (obs, action))


def test_a_fresh_state_is_never_mutated() -> None:
    model = make_model()
    obs = th.zeros(5, 3)
    with th.no_grad():
        state = model.reset(obs, generator=generator())
        member = state.member.clone()
        model.step(state, th.ones(5, 2), generator=generator())
    assert th.equal(obs, th.zeros(5, 3))
    assert th.equal(state.member, member)


def test_odd_batches_and_no_rows_are_fine() -> None:
    model = make_model(num_elites=3)
    for rows in (0, 1, 5):
        with th.no_grad():
            state = model.reset(th.zeros(rows, 3), generator=generator())
            _, prediction = model.step(state, th.zeros(rows, 2), generator=generator())
        assert prediction.next_obs.shape == (rows, 3)
        assert prediction.terminated.shape == (rows,)


def test_many_rows_are_predicted_in_chunks_that_keep_their_order() -> None:
    model = make_model(propagation="mean")
    obs = th.linspace(-1, 1, 40_000)[:, None].expand(-1, 3).contiguous()
    action = th.linspace(1, -1, 40_000)[:, None].expand(-1, 2).contiguous()
    with th.no_grad():
        state, whole = model.step(model.reset(obs, generator=generator()), action, generator=generator())
        _, part = model.step(model.reset(obs[30_000:], generator=generator()), action[30_000:], generator=generator())
    th.testing.assert_close(whole.next_obs[30_000:], part.next_obs)
    assert th.equal(state.obs, whole.next_obs)
    assert whole.terminated.shape == whole.reward.shape == (40_000,)


def test_saving_and_loading_gives_bit_equal_predictions(tmp_path: Path) -> None:
    model = make_model(termination_fn=never_terminates, propagation="ts1")
    model.set_statistics(make_rows())
    path = save(model, tmp_path / "model")
    loaded = load(path, device="cpu")
    with th.no_grad():
        for one, other in ((model, loaded),):
            a = one.step(one.reset(th.ones(9, 3), generator=generator()), th.ones(9, 2), generator=generator(1))[1]
            b = other.step(other.reset(th.ones(9, 3), generator=generator()), th.ones(9, 2), generator=generator(1))[1]
    assert all(th.equal(x, y) for x, y in zip(a, b, strict=True))
    assert loaded.termination_fn == never_terminates
    assert all(th.equal(x, y) for x, y in zip(model.limits, loaded.limits, strict=True))


def test_a_model_with_a_function_of_the_users_own_asks_for_it_again(tmp_path: Path) -> None:
    path = save(make_model(reward_fn=oracle_reward), tmp_path / "model")
    with pytest.raises(ValueError, match="reward_fn"):
        load(path)
    assert load(path, reward_fn=oracle_reward).reward_fn is oracle_reward
    with pytest.raises(ValueError, match="learned head"):
        load(path, reward_fn=oracle_reward, termination_fn=never_terminates)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"num_elites": 9}, ValueError, "num_elites"),
        ({"hidden": ()}, ValueError, "hidden"),
        ({"propagation": "ts2"}, ValueError, "propagation"),
    ],
)
def test_impossible_arguments_raise(kwargs: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_model(**kwargs)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (spaces.Dict({"a": BOX}), spaces.Discrete(2), "FlattenObservation"),
        (spaces.Discrete(5), spaces.Discrete(2), "FlattenObservation"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2), "image"),
        (BOX, spaces.MultiDiscrete([2, 3]), "Enumerate"),
    ],
)
def test_unsupported_spaces_say_what_to_do(
    observation_space: spaces.Space[object], action_space: spaces.Space[object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        EnsembleDynamics(observation_space, action_space)


@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean", "infoprop"])
def test_float64_starts_actions_and_coordinates_are_cast(propagation: str) -> None:
    model = make_model(propagation=propagation)
    rows = make_rows()
    model.set_statistics(rows)

    def predict(dtype: th.dtype) -> list[th.Tensor]:
        g = generator()
        state = model.reset(rows.obs.to(dtype), generator=g)
        moved = model.with_state_vector(state, state.obs.to(dtype) + 1)
        _, first = model.step(state, rows.action.to(dtype), generator=g)
        _, second = model.step(moved, rows.action.to(dtype), generator=g)
        _, third = model.step_shared(
            EnsembleState(rows.obs.to(dtype), state.member), rows.action, generator=g, groups=2
        )
        return [*first, *second, *third]

    with th.no_grad():
        for cast, plain in zip(predict(th.float64), predict(th.float32), strict=True):
            assert cast.dtype == plain.dtype
            assert th.equal(cast, plain)


@pytest.mark.parametrize("obs", [th.zeros(3), th.zeros(4, 2), th.zeros(2, 3, 1)])
def test_starts_of_another_shape_are_refused(obs: th.Tensor) -> None:
    with pytest.raises(ValueError, match=r"obs must have shape \(B, 3\)"):
        make_model().reset(obs, generator=generator())


def random_examples(model: EnsembleDynamics, count: int = 5) -> Examples:
    g = generator(3)
    return Examples(
        th.randn(model.num_members, count, 5, generator=g),
        th.randn(model.num_members, count, model.target_size, generator=g),
        (th.rand(model.num_members, count, generator=g) < 0.4).float(),
    )


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("learned_limits", [False, True])
def test_the_loss_is_its_formula(beta: float, learned_limits: bool) -> None:
    model = make_model(options=EnsembleOptions(learn_log_variance_limits=learned_limits))
    batch = random_examples(model)
    losses = model.losses(batch, beta=beta, log_variance_penalty=0.3)
    raw = model.net(batch.inputs)
    assert losses.shape == (4,)
    for e in range(4):
        low, high = (
            limit[e] if learned_limits else limit for limit in (model.log_variance.low, model.log_variance.high)
        )
        total = th.zeros(())
        for b in range(5):
            for d in range(4):
                upper = high[d] - th.log(1 + th.exp(high[d] - raw[e, b, 4 + d]))
                log_variance = low[d] + th.log(1 + th.exp(upper - low[d]))
                error = batch.targets[e, b, d] - raw[e, b, d]
                nll = error**2 / th.exp(log_variance) + log_variance
                total = total + nll * th.exp(log_variance) ** beta / (5 * 4)
            probability = 1 / (1 + th.exp(-raw[e, b, 8]))
            truth = batch.terminated[e, b]
            total = total - th.log(probability if truth else 1 - probability) / 5
        if learned_limits:
            total = total + 0.3 * (high - low).sum()
        th.testing.assert_close(losses[e], total, rtol=1e-4, atol=1e-5)
    th.testing.assert_close(model.loss(batch, beta=beta, log_variance_penalty=0.3), losses.sum())


def rows_that_terminate(model: EnsembleDynamics, share: float) -> None:
    rows = make_rows(200)
    model.set_statistics(rows._replace(terminated=th.arange(200) < round(200 * share)))


SHARES = [(0.1, 9.0), (0.005, 100.0), (0.5, 1.0), (0.9, 1 / 9), (0.0, 1.0), (1.0, 1.0)]


@pytest.mark.parametrize(("share", "ratio"), SHARES)
@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_rare_terminations_weigh_more_and_the_logit_keeps_its_meaning(share: float, ratio: float, truth: float) -> None:
    model = make_model(num_members=1, num_elites=1, reward_fn=oracle_reward)
    rows_that_terminate(model, share)
    with th.no_grad():
        for layer in model.net.linear_layers():
            layer.weight.zero_()
        model.net.linear_layers()[-1].bias[0, 6] = 0.4  # the logit
        examples = Examples(th.zeros(1, 2, 5), th.zeros(1, 2, 3), th.full((1, 2), truth))
        entropy = float(model.losses(examples)) - float(model.outputs(examples.inputs).log_variance.mean())
    odds = ratio * np.exp(0.4)
    weight = (ratio if truth else 1) / (1 - share + share * ratio)
    assert entropy == pytest.approx(-weight * np.log((odds if truth else 1) / (1 + odds)), rel=1e-4)


def test_a_weighed_classifier_learns_the_true_probability() -> None:
    model = make_model(num_members=1, num_elites=1, reward_fn=oracle_reward)
    rows_that_terminate(model, 0.1)
    logit = th.zeros((), requires_grad=True)
    truth = (th.arange(200) < 20).float()[None]
    optimiser = th.optim.LBFGS([logit], max_iter=50)
    outputs = model.outputs(th.zeros(1, 200, 5))

    def closure() -> th.Tensor:
        optimiser.zero_grad()
        replaced = outputs._replace(logit=logit.expand(1, 200), mean=outputs.mean.detach())
        model.outputs = lambda inputs: replaced  # type: ignore[method-assign]
        loss = model.loss(Examples(th.zeros(1, 200, 5), th.zeros(1, 200, 3), truth))
        (gradient,) = th.autograd.grad(loss, logit)
        logit.grad = gradient
        return loss

    optimiser.step(closure)
    assert float(logit.detach().sigmoid()) == pytest.approx(0.1, abs=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("propagation", ["ts1", "tsinf", "mean", "infoprop"])
def test_a_step_on_the_gpu_takes_starts_and_actions_of_the_cpu(propagation: str) -> None:
    model = make_model(propagation=propagation, device="cuda")
    rows = make_rows()
    g = th.Generator("cuda").manual_seed(0)
    with th.no_grad():
        state, prediction = model.step(model.reset(rows.obs, generator=g), rows.action, generator=g)
    assert {part.device.type for part in (*state, *prediction)} == {"cuda"}
    assert model.limits.accepts(prediction).all()
