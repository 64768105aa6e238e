"""A buffer that stores sensor readings and infers features anew at every sample."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.latent import BeliefTracker, LatentStateSpaceModel
from mbrl_wrappers.latent.window_features import window_features
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.training.sequence_windows import Episodes
from sb3_ext.latent import BeliefReplayBuffer, BeliefVecEnv
from tests.sb3_ext.latent.belief_agents import masked, small_model
from tests.sb3_ext.latent.counting import ACTIONS, CountEnv, RecordingModel


def filled(env: BeliefVecEnv, steps: int, size: int = 1000, **kwargs: Any) -> BeliefReplayBuffer:
    """A buffer after so many steps of random actions, and what SB3 would have passed to it."""
    buffer = BeliefReplayBuffer(
        size, env.observation_space, env.action_space, device="cpu", n_envs=env.num_envs, seed=0, **kwargs
    )
    rng, obs = np.random.default_rng(0), env.reset()
    for _ in range(steps):
        scaled = rng.uniform(-1, 1, (env.num_envs, 1)).astype(np.float32)
        following, reward, dones, infos = env.step(2 * scaled)
        stored = following.copy()
        for row in np.flatnonzero(dones):
            stored[row] = infos[row]["terminal_observation"]
        buffer.add(obs, stored, scaled, reward, dones, infos)
        obs = following
    return buffer


def counts(lengths: list[int]) -> BeliefVecEnv:
    model: Any = RecordingModel()
    envs = [lambda n=n, i=i: CountEnv(n, 10 * i) for i, n in enumerate(lengths)]
    return BeliefVecEnv(DummyVecEnv(envs), model)  # type: ignore[arg-type]


def test_windows_end_with_the_step_and_stay_inside_of_its_episode() -> None:
    buffer = filled(counts([5, 3]), 9, window=3)
    step, env = np.array([0, 1, 4, 5, 7, 8]), np.array([0, 0, 0, 0, 1, 1])
    windows = buffer.windows(step, env)
    assert windows.length.tolist() == [2, 3, 4, 2, 3, 4]
    assert windows.first.tolist() == [True, True, False, True, True, True]
    shown = [row[:n, 0].tolist() for row, n in zip(windows.obs, windows.length.tolist(), strict=True)]
    assert shown[:3] == [[100, 101], [100, 101, 102], [102, 103, 104, 105]]
    assert shown[3:] == [[200, 201], [1300, 1301, 1302], [1300, 1301, 1302, 1303]]
    scaled = buffer.actions[2:5, 0, 0]
    np.testing.assert_array_equal(windows.action[2, :, 0].numpy(), scaled)
    np.testing.assert_allclose(windows.reward[2].numpy(), 2 * scaled, rtol=1e-6)
    assert windows.terminated[2].tolist() == [False, False, True]


def test_windows_do_not_reach_over_the_pointer_of_a_full_ring() -> None:
    buffer = filled(counts([50]), 13, size=10, window=4)
    assert buffer.full
    assert buffer.pos == 3
    windows = buffer.windows(np.array([3, 4, 1]), np.array([0, 0, 0]))  # the two oldest rows, and one across the seam
    assert windows.length.tolist() == [2, 3, 5]
    assert windows.obs[2, :, 0].tolist() == [108, 109, 110, 111, 112]
    assert windows.obs[0, :2, 0].tolist() == [103, 104]
    assert windows.first.tolist() == [False, False, False]


def refiltered(model: LatentStateSpaceModel, buffer: BeliefReplayBuffer) -> np.ndarray[Any, Any]:
    """What the present model says before each stored step, filtered reading by reading from each reset."""
    before, _ = buffer.recorded_observations()
    rows, tracker = [], BeliefTracker(model, buffer.n_envs, seed=9)
    for step in range(buffer.size()):
        begins = np.ones(buffer.n_envs, bool) if step == 0 else buffer.dones[step - 1].astype(bool)
        if step:
            tracker.follow(2 * buffer.actions[step - 1], before[step])
        tracker.begin(begins, before[step])
        rows.append(tracker.features())
    return np.concatenate(rows)


@pytest.mark.parametrize("form", ["belief", "state"])
@pytest.mark.parametrize(
    "options",
    [
        {"posterior": "factorised filter"},
        {"posterior": "single"},
        {"posterior": "filter", "deterministic": True},
        {"posterior": "filter", "summary": "none", "recurrent_size": 5, "deterministic": True},
        {"posterior": "factorised smoother"},
    ],
    ids=str,
)
def test_features_inferred_anew_are_those_that_the_environment_showed(form: Any, options: dict[str, Any]) -> None:
    model = small_model(form, **options)
    env = BeliefVecEnv(DummyVecEnv([masked(4), masked(6)]), model, seed=1)
    buffer = filled(env, 12, window=6)
    buffer.use_model(model)
    step, row = np.repeat(np.arange(12), 2), np.tile([0, 1], 12)
    before, after = buffer._inferred(step, row, torch_generator(0))
    compared = before.shape[1]
    if form == "state" and not model.options.deterministic:
        compared = model.options.recurrent_size  # the rest is a draw
    # A deterministic state is scaled to one: where it was small, so is the rounding error that comes with it.
    exact: dict[str, float] = {"rtol": 0, "atol": 5e-3 if model.options.deterministic else 1e-5}
    np.testing.assert_allclose(before[:, :compared], buffer.observations[step, row][:, :compared], **exact)
    np.testing.assert_allclose(after[:, :compared], buffer.next_observations[step, row][:, :compared], **exact)
    with th.no_grad():  # the model is refitted: what is drawn now is what the new weights say
        for weight in model.parameters():
            weight.add_(0.05)
    renewed, _ = buffer._inferred(step, row, torch_generator(0))
    if compared:
        assert (renewed[:, :compared] - before[:, :compared]).abs().max() > 2e-2
        np.testing.assert_allclose(renewed[:, :compared], refiltered(model, buffer)[:, :compared], **exact)


@pytest.mark.parametrize("posterior", ["single", "factorised filter", "filter", "smoother", "factorised smoother"])
def test_what_was_known_before_a_step_does_not_depend_on_its_outcome(posterior: Any) -> None:
    model = small_model("state", posterior=posterior)
    buffer = filled(BeliefVecEnv(DummyVecEnv([masked(50)]), model, seed=1), 30, window=5)
    windows = buffer.windows(np.arange(30), np.zeros(30, np.int64))
    before, after = window_features(model, windows, generator=torch_generator(0))
    each = th.arange(30)
    windows.obs[each, windows.length - 1] += 1.0
    windows.action[each, windows.length - 2] += 1.0
    changed_before, changed_after = window_features(model, windows, generator=torch_generator(0))
    assert th.equal(before, changed_before)
    assert (after - changed_after).abs().amax(1).min() > 1e-6


def test_stored_rows_are_the_sensor_readings_in_the_order_of_time() -> None:
    buffer = filled(counts([5, 3]), 9)
    rows = buffer.real_transitions()
    assert rows.obs[:, 0].tolist()[:6] == [100, 101, 102, 103, 104, 200]
    assert rows.next_obs[:, 0].tolist()[:6] == [101, 102, 103, 104, 105, 201]
    assert rows.last[:9].tolist() == [False] * 4 + [True] + [False] * 3 + [True]
    episodes = Episodes.of(rows, buffer.row_ids())
    assert episodes.steps.tolist() == [5, 4, 3, 3, 3]
    assert episodes.first.all()


def test_starts_of_branches_are_features_of_stored_steps() -> None:
    model = small_model()
    buffer = filled(BeliefVecEnv(DummyVecEnv([masked(5)]), model, seed=1), 10, window=6)
    buffer.use_model(model)
    starts = buffer.sample_observations(50, np.random.default_rng(0))
    distance = np.abs(starts[:, None] - buffer.observations[None, :10, 0]).max(-1).min(1)
    assert distance.max() < 1e-5


def test_what_cannot_work_is_refused() -> None:
    env = counts([5])
    buffer = filled(env, 4)
    with pytest.raises(ValueError, match="no model to infer"):
        buffer.sample(2)
    with pytest.raises(ValueError, match="the same model in the same form"):
        buffer.use_model(small_model())
    with pytest.raises(ValueError, match="no sensor readings"):
        buffer.add(np.zeros((1, 4)), np.zeros((1, 4)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(ValueError, match="window"):
        BeliefReplayBuffer(10, env.observation_space, ACTIONS, device="cpu", window=0)
    transformer = small_model("state", posterior="filter", summary="transformer", context=8)
    buffer = BeliefReplayBuffer(10, transformer.observation_space, ACTIONS, device="cpu", window=8)
    with pytest.raises(ValueError, match="looks back"):
        buffer.use_model(transformer)


def test_a_buffer_goes_on_from_its_state() -> None:
    model = small_model("state", posterior="filter")  # its features are draws
    env = BeliefVecEnv(DummyVecEnv([masked(5), masked(7)]), model, seed=1)
    buffer, other = filled(env, 13, size=20), filled(env, 3, size=20)
    for one in (buffer, other):
        one.use_model(model)
    buffer.sample(4)
    other.load_state_dict(buffer.state_dict())
    samples = []
    for one in (buffer, other):
        np.random.seed(0)  # noqa: NPY002 - SB3 draws rows from the global stream
        samples.append(one.sample(32))
    for mine, theirs in zip(*samples, strict=True):
        assert mine is None or th.equal(mine, theirs)
    assert th.equal(buffer.real_transitions().obs, other.real_transitions().obs)
    with pytest.raises(ValueError, match="no state of a BeliefReplayBuffer"):
        other.load_state_dict({"mixed": {}})


def test_a_pickled_buffer_keeps_its_rows_and_leaves_the_model_out() -> None:
    model = small_model()
    buffer = filled(BeliefVecEnv(DummyVecEnv([masked(5)]), model, seed=1), 10)
    buffer.use_model(model)
    copy = pickle.loads(pickle.dumps(buffer))
    assert copy._latent is None
    copy.use_model(model)
    np.random.seed(0)  # noqa: NPY002 - SB3 draws rows from the global stream
    one = buffer.sample(8)
    np.random.seed(0)  # noqa: NPY002
    assert th.equal(one.observations, copy.sample(8).observations)


def test_float64_readings_are_stored_as_they_are() -> None:
    env = counts([9])
    buffer = filled(env, 2)
    far = 5.5e6 + np.array([[0.01]])
    infos = [{"sensors_before": far[0], "sensors": far[0] + 0.05}]
    wide = BeliefReplayBuffer(10, env.observation_space, env.action_space, device="cpu", seed=0)
    wide.add(buffer.observations[0], buffer.next_observations[0], np.zeros((1, 1)), np.zeros(1), np.zeros(1), infos)
    assert wide.windows(np.array([0]), np.array([0])).obs[0, :2, 0].tolist() == [far[0, 0], far[0, 0] + 0.05]
    assert wide.real_transitions().obs.dtype == th.float64
    assert buffer.real_transitions().obs.dtype == th.float32


def test_readings_that_are_more_than_all_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("sb3_ext.latent.belief_buffer.check_memory", lambda size, *words: asked.append(size))
    filled(counts([5, 3]), 2, size=100)
    assert asked == [2 * 4 * 100], "two arrays of float32 readings, one for each of 100 steps"
