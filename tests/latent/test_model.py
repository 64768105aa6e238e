"""A latent model as a dynamics model over its features, and as a filter of sensor readings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from controllers import CEM, MPCPolicy
from mbrl_wrappers import ModelEnv, branched_rollout, load, save, unroll
from mbrl_wrappers.latent import LatentOptions, LatentState, LatentStateSpaceModel
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.seeding import global_stream_states, torch_generator
from mbrl_wrappers.tasks.functions import never_terminates
from mbrl_wrappers.training.sequence_trainer import SequenceFitConfig, SequenceTrainer
from mbrl_wrappers.types import DynamicsModel, LatentModel, SharedNoiseModel, Transitions
from tests.latent.small_models import ACTIONS, POSTERIORS, SENSORS, SMALL, filtered, small_batch, small_model

BELIEFS = {name: kind for name, kind in POSTERIORS.items() if "transformer" not in name and name != "smoother"}
every_posterior = pytest.mark.parametrize("kind", POSTERIORS.values(), ids=POSTERIORS)
FORMS = [
    *((kind, "state") for kind in POSTERIORS.values()),
    *((kind, "belief") for kind in BELIEFS.values()),
]
every_form = pytest.mark.parametrize(
    ("kind", "form"), FORMS, ids=[f"{kind['posterior']}, {kind.get('summary', 'gru')}, {form}" for kind, form in FORMS]
)


def always(obs: th.Tensor, *, generator: th.Generator) -> th.Tensor:
    return th.rand(len(obs), 2, generator=generator) * 2 - 1


@every_form
@pytest.mark.parametrize("recurrent", [0, 5])
def test_features_turn_back_into_the_state_they_came_from(kind: Any, form: Any, recurrent: int) -> None:
    model = small_model(**kind, form=form, recurrent_size=recurrent)
    state = filtered(model, small_batch())[-1]
    features = model.features(state)
    assert features.shape == (4, *model.observation_space.shape)
    rebuilt = model.reset(features, generator=torch_generator(0))
    assert th.equal(model.features(rebuilt), features)
    if form == "state":
        assert th.equal(rebuilt.sample, state.sample)
        with pytest.raises(AssertionError):
            th.testing.assert_close(rebuilt.std, state.std)  # a state that is known
    else:
        assert all(th.equal(a, b) for name, a, b in zip(state._fields, state, rebuilt, strict=True) if name != "sample")
        assert not th.equal(rebuilt.sample, state.sample)
    # The next step depends on the state through its features alone.
    state = state if form == "belief" else rebuilt
    for _ in range(2):
        first = model.step(rebuilt, small_batch().action[:, 0], generator=torch_generator(1))[1]
        assert first.next_obs.shape == features.shape
        assert first.next_obs.isfinite().all()


def test_a_step_in_state_form_draws_from_the_prior_and_pays_for_what_it_drew() -> None:
    model = small_model(recurrent_size=5, termination_fn=never_terminates)
    model.reward_normalizer.set_statistics(th.tensor([[-3.0], [5.0]]))
    state = model.reset(th.randn(4, 8, generator=torch_generator(2)), generator=torch_generator(0))
    action = small_batch().action[:, 0]
    following, prediction = model.step(state, action, generator=torch_generator(1))
    recurrent, parent = model.dynamics.advance(state.recurrent, state.sample, action)
    prior = model.dynamics.following(parent, state.sample)
    noise = th.randn(4, 3, generator=torch_generator(1))
    th.testing.assert_close(following.sample, prior.mean + prior.std * noise)
    th.testing.assert_close(following.recurrent, recurrent)
    latents = (th.cat([state.recurrent, state.sample], 1), th.cat([recurrent, following.sample], 1))
    standard = model.reward_head(th.cat([latents[0], action, latents[1]], 1))[:, 0]
    th.testing.assert_close(prediction.reward, 1.0 + 4.0 * standard)
    th.testing.assert_close(prediction.next_obs, latents[1])
    assert not prediction.terminated.any()


def test_imagination_feeds_its_own_previous_draw() -> None:
    model = small_model()
    action = small_batch().action[:, 0]
    state = model.reset(th.zeros(4, 3), generator=torch_generator(0))
    one, _ = model.step(state, action, generator=torch_generator(1))
    here, _ = model.step(one, action, generator=torch_generator(2))
    there, _ = model.step(one._replace(sample=one.sample + 1), action, generator=torch_generator(2))
    assert not th.allclose(here.sample, there.sample)


def test_a_step_in_belief_form_filters_what_a_drawn_state_would_show() -> None:
    model = small_model(form="belief", posterior="factorised filter")
    belief = filtered(model, small_batch())[-1]
    action, g = small_batch().action[:, 0], torch_generator(1)
    following, prediction = model.step(belief, action, generator=torch_generator(1))
    drawn = belief.mean + belief.std * th.randn(4, 3, generator=g)
    prior = model.dynamics.following(th.cat([drawn, action], 1), drawn)
    moved = prior.mean + prior.std * th.randn(4, 3, generator=g)
    reading = model.decoder(moved) + model.decoder_std() * th.randn(4, 2, generator=g)
    seen = model.observe(belief, action, reading, th.zeros(4, dtype=th.bool), generator=g)
    th.testing.assert_close(following.mean, seen.mean)
    th.testing.assert_close(following.memory, seen.memory)
    th.testing.assert_close(prediction.next_obs, model.features(following))
    th.testing.assert_close(prediction.reward, model._consequences(drawn, action, moved)[0])


def test_both_forms_share_their_weights() -> None:
    model = small_model()
    belief = model.in_form("belief")
    assert belief.observation_space.shape == (3 + 3 + 8,)
    assert model.observation_space.shape == (3,)
    with th.no_grad():
        model.decoder.layers[0].weight.zero_()
    assert not belief.decoder.layers[0].weight.any()
    assert belief.in_form("state").form == "state"


@pytest.mark.parametrize("kind", ["filter, transformer", "factorised filter, transformer", "smoother"])
def test_the_belief_form_refuses_a_posterior_with_a_window(kind: str) -> None:
    with pytest.raises(ValueError, match="looks back on a window of 8 observations"):
        small_model(**POSTERIORS[kind], form="belief")


@every_form
def test_the_protocols_are_satisfied_and_rollouts_run(kind: Any, form: Any) -> None:
    model: Any = small_model(**kind, form=form, recurrent_size=5)
    assert isinstance(model, LatentModel)
    assert isinstance(model, SharedNoiseModel)
    typed: DynamicsModel[LatentState] = model
    starts = model.features(filtered(model, small_batch())[-1])
    rollout = branched_rollout(typed, always, starts, 3, generator=torch_generator(0))
    assert rollout.num_dropped == 0
    assert rollout.transitions.obs.shape[1] == model.observation_space.shape[0]
    first = rollout.step == 0
    assert th.equal(rollout.transitions.obs[first], starts)
    for step in (1, 2):  # each row goes on from where the one before it led
        here = rollout.transitions.obs[rollout.step == step]
        before = (rollout.step == step - 1) & th.isin(rollout.branch, rollout.branch[rollout.step == step])
        assert th.equal(here, rollout.transitions.next_obs[before])


def test_blocks_see_the_same_draws() -> None:
    for form in ("state", "belief"):
        model = small_model(form=form)
        starts = model.features(filtered(model, small_batch())[-1])
        state = model.reset(starts.repeat(3, 1), generator=torch_generator(0))
        state = state._replace(sample=state.sample[:4].repeat(3, 1))
        action = small_batch().action[:, 0].repeat(3, 1)
        _, prediction = model.step_shared(state, action, generator=torch_generator(1), groups=3)
        blocks = prediction.next_obs.reshape(3, 4, -1)
        assert th.equal(blocks[0], blocks[1])
        assert th.equal(blocks[0], blocks[2])
        assert not th.allclose(blocks[0][0], blocks[0][1])
        with pytest.raises(ValueError, match="12 rows cannot be 5 equal blocks"):
            model.step_shared(state, action, generator=torch_generator(1), groups=5)


@pytest.mark.parametrize("form", ["state", "belief"])
def test_the_model_is_a_gymnasium_environment(form: Any) -> None:
    model = small_model(form=form, recurrent_size=5, termination_fn=never_terminates)
    starts = model.features(filtered(model, small_batch())[-1]).numpy()
    env = ModelEnv(model, starts, horizon=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|Box observation space|symmetric and normalized).*")
        check_env(env, skip_render_check=True)
        sb3_check_env(env)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


@pytest.mark.parametrize("form", ["state", "belief"])
def test_a_planner_acts_on_sensor_readings(form: Any) -> None:
    model = small_model(form=form, termination_fn=never_terminates)
    policy = MPCPolicy(model, CEM(32, 2), 4)
    assert policy.observation_space == SENSORS
    streams = global_stream_states()
    actions, state = policy.predict(np.zeros((3, 2), np.float32))
    again, state = policy.predict(np.ones((3, 2), np.float32), state, np.array([False, True, False]))
    assert all(ACTIONS.contains(action) for action in (*actions, *again))
    belief = state.belief[0]
    assert not belief.mean.requires_grad, "a belief that keeps its graph would grow for ever"
    taken = model.codec.from_env(actions)
    expected = model.observe(
        model.initial(3), taken * 0, th.zeros(3, 2), th.ones(3, dtype=th.bool), generator=torch_generator(0)
    )
    expected = model.observe(expected, taken, th.ones(3, 2), th.tensor([0, 1, 0]).bool(), generator=torch_generator(0))
    th.testing.assert_close(belief.memory, expected.memory, rtol=1e-5, atol=1e-5)
    assert global_stream_states() == streams


def test_the_planned_action_is_the_best_one_of_a_known_reward() -> None:
    # The decoder shows the latent state itself, the dynamics add the action to it, and the reward wants it at 0.5.
    model = LatentStateSpaceModel(
        spaces.Box(-np.inf, np.inf, (1,), np.float32),
        spaces.Box(-1, 1, (1,), np.float32),
        options=LatentOptions(latent_size=1, hidden=(), encoder_hidden=(), posterior="single", min_std=1e-3),
        reward_fn=lambda obs, action, next_obs: -(next_obs[:, 0] - 0.5).square(),
        termination_fn=never_terminates,
        device="cpu",
    )
    with th.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder.layers[0].weight.fill_(1)
        model.encoder.layers[0].weight.fill_(1)
        model.posterior.head.net.layers[0].weight[0] = 1
        model.dynamics.head.net.layers[0].weight[0, 1] = 1
        for head in (model.posterior.head, model.dynamics.head):
            head.net.layers[0].bias[1] = -20
    for form in ("state", "belief"):
        policy = MPCPolicy(model.in_form(form), CEM(200, 5), 1, seed=1)
        action, _ = policy.predict(np.float32([0.2]))
        assert action == pytest.approx([0.3], abs=0.03)


def test_gradients_flow_through_steps_and_weights_are_left_out() -> None:
    model = small_model(termination_fn=never_terminates)
    weight = th.zeros(3, 2, requires_grad=True)

    class Linear:
        def sample(self, obs: th.Tensor, *, generator: th.Generator) -> tuple[th.Tensor, None]:
            return th.tanh(obs @ weight), None

    start = th.ones(4, 3)
    unrolled = unroll(model, Linear(), start, 3, generator=torch_generator(0))
    unrolled.reward.sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


@every_posterior
@pytest.mark.parametrize("recurrent", [0, 5])
def test_a_saved_model_predicts_and_filters_the_same_bits(kind: Any, recurrent: int, tmp_path: Path) -> None:
    model = small_model(**kind, recurrent_size=recurrent, learn_decoder_std=True, termination_fn=never_terminates)
    model.obs_normalizer.set_statistics(th.tensor([[0.0, 5.0], [2.0, 9.0]]))
    model.reward_range.copy_(th.tensor([-0.5, 0.5]))
    restored = load(save(model, tmp_path / "latent"), device="cpu")
    assert restored.options == model.options
    assert restored.sensor_space == SENSORS
    assert restored.action_space == ACTIONS
    for here, there in zip(filtered(model, small_batch()), filtered(restored, small_batch()), strict=True):
        assert all(th.equal(a, b) for a, b in zip(here, there, strict=True))
    action = small_batch().action[:, 0]
    one, other = (m.step(here, action, generator=torch_generator(1))[1] for m in (model, restored))
    assert all(th.equal(a, b) for a, b in zip(one, other, strict=True))
    assert th.equal(model.decode(here), restored.decode(here))


def test_a_saved_model_keeps_its_form_and_asks_for_functions(tmp_path: Path) -> None:
    model = small_model(form="belief")
    path = save(model, tmp_path / "latent")
    assert load(path, device="cpu").form == "belief"
    with pytest.raises(ValueError, match="learned head in place of reward_fn"):
        load(path, device="cpu", reward_fn=lambda obs, action, next_obs: obs[:, 0])


def test_building_and_filtering_leave_global_streams_alone() -> None:
    streams = global_stream_states()
    for kind in POSTERIORS.values():
        model = small_model(**kind, recurrent_size=5)
        filtered(model, small_batch())
        twin = small_model(**kind, recurrent_size=5)
        assert all(th.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert global_stream_states() == streams


def test_a_learned_reward_stays_in_the_range_of_the_data() -> None:
    model = small_model()
    model.reward_range.copy_(th.tensor([-0.01, 0.02]))
    state = model.reset(th.randn(50, 3, generator=torch_generator(0)) * 9, generator=torch_generator(0))
    reward = model.step(state, th.zeros(50, 2), generator=torch_generator(1))[1].reward.detach()
    assert float(reward.min()) == pytest.approx(-0.01)
    assert float(reward.max()) == pytest.approx(0.02)


def test_known_functions_see_decoded_sensors_and_env_actions() -> None:
    seen: list[tuple[th.Tensor, ...]] = []

    def reward_fn(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        seen.append((obs, action, next_obs))
        return obs[:, 0]

    model = LatentStateSpaceModel(SENSORS, ACTIONS, reward_fn=reward_fn, device="cpu")
    model.obs_normalizer.set_statistics(th.tensor([[0.0, 5.0], [2.0, 9.0]]))
    state = model.reset(th.randn(4, 8, generator=torch_generator(0)), generator=torch_generator(0))
    following, prediction = model.step(state, th.ones(4, 2), generator=torch_generator(1))
    th.testing.assert_close(seen[0][0], model.decode(state))
    th.testing.assert_close(seen[0][2], model.decode(following))
    assert seen[0][1].tolist() == [[2.0, 1.0]] * 4
    th.testing.assert_close(prediction.reward, model.decode(state)[:, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LatentOptions(posterior="kalman"), "posterior must be one of"),  # type: ignore[arg-type]
        (lambda: LatentOptions(posterior="factorised filter", summary="none"), "name it posterior='single'"),
        (lambda: LatentOptions(latent_size=1, deterministic=True), "latent_size of at least 2"),
        (lambda: LatentOptions(learn_decoder_std=True, decoder_std=0.01), "must lie above min_decoder_std"),
        (lambda: small_model(form="dream"), "form must be one of"),
        (lambda: small_model(summary="transformer", memory_size=6), "multiple of 4"),
        (lambda: small_model().reset(th.zeros(4, 2), generator=torch_generator(0)), "filter sensor readings"),
        (
            lambda: small_model().observe(
                small_model().initial(4), th.zeros(4, 2), th.zeros(4, 3), th.ones(4), generator=torch_generator(0)
            ),
            "sensor readings",
        ),
    ],
)
def test_impossible_things_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_ensemble_is_no_latent_model() -> None:
    assert not isinstance(EnsembleDynamics(SENSORS, ACTIONS, num_members=2, num_elites=1, hidden=(4,)), LatentModel)


FAR = spaces.Box(-np.inf, np.inf, (2,), np.float64)


def far_rows(count: int = 200) -> Transitions:
    """A walk in steps of centimetres at five million metres, where float32 numbers are half a metre apart."""
    steps = 0.05 * th.randn(count + 1, 2, dtype=th.float64, generator=torch_generator(0))
    obs = 5.5e6 + steps.cumsum(0)
    action, never = th.zeros(count, 2), th.zeros(count, dtype=th.bool)
    return Transitions(obs[:-1], action, th.zeros(count), obs[1:], never, th.arange(count) % 20 == 19)


@pytest.mark.parametrize("kind", ["filter", "smoother"])
def test_float64_sensors_far_from_zero_keep_their_changes(kind: Any) -> None:
    options = LatentOptions(**{**SMALL, "posterior": kind, "decoder_std": 0.3})
    form: Any = "state" if kind == "smoother" else "belief"
    model = LatentStateSpaceModel(FAR, ACTIONS, options=options, form=form, device="cpu")
    near = LatentStateSpaceModel(SENSORS, ACTIONS, options=options, form=form, device="cpu")
    rows = far_rows()
    model.set_statistics(rows)
    moved = rows._replace(obs=(rows.obs - 5.5e6).float(), next_obs=(rows.next_obs - 5.5e6).float())
    near.set_statistics(moved)
    where = th.ones(200, dtype=th.bool)
    shown = [
        each.observe(each.initial(200), rows.action, data.obs, where, generator=torch_generator(1))
        for each, data in ((model, rows), (near, moved))
    ]
    th.testing.assert_close(shown[0].mean, shown[1].mean, rtol=1e-4, atol=1e-5)
    decoded = model.decode(shown[0])
    assert decoded.dtype == th.float64
    th.testing.assert_close(decoded - 5.5e6, near.decode(shown[1]).double(), rtol=1e-4, atol=1e-4)
    stepped = [
        each.step(state, rows.action, generator=torch_generator(2))[1].next_obs
        for each, state in ((model, shown[0]), (near, shown[1]))
    ]
    assert stepped[0].dtype == th.float32, "features are float32"
    th.testing.assert_close(stepped[0], stepped[1], rtol=1e-3, atol=1e-4)


def test_a_fit_to_float64_sensors_is_that_to_the_same_ones_near_zero() -> None:
    config, rows = SequenceFitConfig(max_gradient_steps=20, batch_size=8, window=10, validate_every=20), far_rows()
    near = rows._replace(obs=(rows.obs - 5.5e6).float(), next_obs=(rows.next_obs - 5.5e6).float())
    qualities = []
    for space, data in ((FAR, rows), (SENSORS, near)):
        model = LatentStateSpaceModel(space, ACTIONS, options=LatentOptions(**SMALL), device="cpu")
        qualities.append(SequenceTrainer(model, config).fit(data).quality)
    assert qualities[0].bound == pytest.approx(qualities[1].bound, rel=1e-3)
    assert qualities[0].closed_loop_r2[:2] == pytest.approx(qualities[1].closed_loop_r2[:2], abs=1e-2)
