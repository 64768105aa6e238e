"""The mixed buffer: exact counts, exact rows, and SB3's own buffer when nothing is synthetic."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import Transitions
from sb3_ext import MixedReplayBuffer
from sb3_ext.synthetic import SyntheticBuffer
from tests.oracle import OracleEnv

OBS = spaces.Box(-np.inf, np.inf, (2,), np.float64)
ACTION = spaces.Box(np.array([-0.4, 0.0], np.float32), np.array([0.4, 3.0], np.float32))


def make_buffer(
    size: int = 20, n_envs: int = 1, action_space: spaces.Space[Any] = ACTION, **kwargs: Any
) -> MixedReplayBuffer:
    return MixedReplayBuffer(size, OBS, action_space, device="cpu", n_envs=n_envs, **kwargs)


def fill(buffer: ReplayBuffer, steps: int, *, first: int = 0) -> None:
    """Step ``t`` of environment ``i`` has observation ``[t, i]``; step 3 fails and step 5 runs out of time.

    Those two lead to ``[t + 1, i + 0.5]``, where no episode begins.
    """
    n = buffer.n_envs
    for t in range(first, first + steps):
        obs = np.stack([[t, i] for i in range(n)]).astype(np.float64)
        action = (
            np.full((n, 1), t % 3) if isinstance(buffer.action_space, spaces.Discrete) else np.full((n, 2), t / 100)
        )
        buffer.add(
            obs,
            obs + np.array([1, 0.5 if t in (3, 5) else 0]),
            action,
            np.full(n, float(t)),
            np.full(n, t in (3, 5)),
            [{"TimeLimit.truncated": t == 5}] * n,
        )


def imagined(rows: int, value: float = -1.0, actions: int = 2) -> Transitions:
    ones = th.ones(rows)
    obs = value * ones[:, None].expand(rows, 2)
    action = th.eye(actions)[th.arange(rows) % actions]
    return Transitions(obs, action, value * ones, obs, th.arange(rows) % 2 == 0, ones.bool())


def is_synthetic(samples: Any) -> th.Tensor:
    return samples.rewards[:, 0] < 0


def test_with_nothing_synthetic_it_is_sb3s_buffer_to_the_bit() -> None:
    mixed, stock = make_buffer(), ReplayBuffer(20, OBS, ACTION, device="cpu")
    for buffer in (mixed, stock):
        fill(buffer, 15)
    for batch in (1, 7, 256):
        np.random.seed(3)  # noqa: NPY002
        ours = mixed.sample(batch)
        np.random.seed(3)  # noqa: NPY002
        theirs = stock.sample(batch)
        assert all(th.equal(a, b) for a, b in zip(ours[:5], theirs[:5], strict=True))


def test_with_ratio_one_synthetic_rows_change_nothing() -> None:
    mixed, stock = make_buffer(real_ratio=1.0), ReplayBuffer(20, OBS, ACTION, device="cpu")
    for buffer in (mixed, stock):
        fill(buffer, 15)
    mixed.synthetic.add_batch(imagined(10))
    np.random.seed(3)  # noqa: NPY002
    ours = mixed.sample(64)
    np.random.seed(3)  # noqa: NPY002
    assert th.equal(ours.observations, stock.sample(64).observations)


@pytest.mark.parametrize(
    ("ratio", "batch", "real"),
    [(0.05, 256, 13), (0.05, 8, 1), (0.0, 256, 0), (0.5, 7, 4), (0.001, 10, 1), (0.99, 10, 10)],
)
def test_every_batch_has_its_exact_share_of_real_rows(ratio: float, batch: int, real: int) -> None:
    buffer = make_buffer(real_ratio=ratio)
    fill(buffer, 15)
    buffer.synthetic.add_batch(imagined(250))
    for _ in range(5):
        samples = buffer.sample(batch)
        assert len(samples.rewards) == batch
        assert int((~is_synthetic(samples)).sum()) == real


def test_slices_of_a_large_batch_are_mixed_too() -> None:
    buffer = make_buffer(real_ratio=0.5)
    fill(buffer, 15)
    buffer.synthetic.add_batch(imagined(320))
    shares = [float(part.float().mean()) for part in is_synthetic(buffer.sample(32 * 20)).split(32)]
    assert min(shares) > 0.1
    assert max(shares) < 0.9


def test_rows_stay_together_when_they_are_shuffled() -> None:
    buffer = make_buffer(real_ratio=0.5)
    fill(buffer, 15)
    buffer.synthetic.add_batch(imagined(60))
    samples = buffer.sample(100)
    real = ~is_synthetic(samples)
    assert samples.observations.dtype == th.float64
    th.testing.assert_close(samples.next_observations[real, 0], samples.observations[real, 0] + 1)
    th.testing.assert_close(samples.rewards[real, 0].double(), samples.observations[real, 0])
    assert (samples.observations[~real] == -1).all()
    assert (samples.dones[real, 0] == (samples.observations[real, 0] == 3)).all()  # the time limit is masked


def test_real_and_synthetic_rows_are_normalised_alike() -> None:
    env = VecNormalize(DummyVecEnv([lambda: TimeLimit(OracleEnv(), 5)]))
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, 2.0]), np.array([4.0, 9.0])  # type: ignore[union-attr]
    env.ret_rms.var = np.array(25.0)
    env.clip_reward, env.epsilon = 100.0, 0.0
    buffer = make_buffer(real_ratio=0.5)
    fill(buffer, 15)
    buffer.synthetic.add_batch(imagined(50, value=-7.0)._replace(next_obs=th.full((50, 2), -3.0)))
    samples = buffer.sample(60, env=env)
    synthetic = samples.rewards[:, 0] < 0
    assert int(synthetic.sum()) == 30
    th.testing.assert_close(samples.observations[synthetic].float(), th.tensor([[-4.0, -3.0]]).expand(30, 2))
    th.testing.assert_close(samples.next_observations[synthetic].float(), th.tensor([[-2.0, -5 / 3]]).expand(30, 2))
    th.testing.assert_close(samples.rewards[synthetic], th.full((30, 1), -7 / 5))
    real = samples.rewards[~synthetic, 0] * 5  # the reward of step t is t, its observation [t, 0]
    th.testing.assert_close(samples.observations[~synthetic, 0].float(), (real - 1) / 2)
    th.testing.assert_close(samples.next_observations[~synthetic, 0].float(), real / 2)


def test_a_reset_that_no_flag_announces_still_ends_the_sequence() -> None:
    buffer = make_buffer()
    fill(buffer, 3)
    fill(buffer, 2, first=10)
    assert buffer.real_transitions().last.tolist() == [False, False, True, False, True]


def test_real_transitions_in_time_order_per_environment() -> None:
    buffer = make_buffer(size=20, n_envs=2)
    fill(buffer, 7)
    rows = buffer.real_transitions()
    assert rows.obs.tolist() == [[t, i] for i in range(2) for t in range(7)]
    assert rows.obs.dtype == th.float32
    assert rows.terminated.tolist() == [t == 3 for _ in range(2) for t in range(7)]
    assert rows.last.tolist() == [t in (3, 5, 6) for _ in range(2) for t in range(7)]
    th.testing.assert_close(rows.next_obs[:, 0], rows.obs[:, 0] + 1)
    assert buffer.num_real == 14


def test_real_transitions_after_the_ring_went_round() -> None:
    buffer = make_buffer(size=8)
    fill(buffer, 11)
    rows = buffer.real_transitions()
    assert rows.obs[:, 0].tolist() == list(range(3, 11))
    assert rows.last.tolist() == [t in (3, 5, 10) for t in range(3, 11)]
    assert float(buffer.dones.sum()) == 2.0  # the buffer itself is untouched


@pytest.mark.parametrize("start", [0, 5])
def test_discrete_actions_are_one_hot_outside_and_indices_inside(start: int) -> None:
    buffer = make_buffer(action_space=spaces.Discrete(3, start=start), real_ratio=0.0)
    for t in range(3):
        buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.array([[start + t]]), np.zeros(1), np.zeros(1), [{}])
    assert buffer.real_transitions().action.tolist() == th.eye(3).tolist()
    buffer.synthetic.add_batch(imagined(200, actions=3))
    actions = buffer.sample(200).actions
    assert actions.shape == (200, 1)
    assert sorted(set(actions.flatten().tolist())) == [start, start + 1, start + 2]


@pytest.mark.parametrize(("offset", "dtype"), [(0.0, th.float32), (5.5e6, th.float64), (-5.5e6, th.float64)])
def test_changes_far_from_zero_are_not_lost(offset: float, dtype: th.dtype) -> None:
    """Near 5.5 million float32 knows steps of one half."""
    buffer = make_buffer(n_envs=2)
    steps = np.random.default_rng(0).uniform(-0.05, 0.05, (10, 2, 2))
    place = np.zeros((2, 2)) + offset
    for step in steps:
        buffer.add(place, place + step, np.zeros((2, 2)), np.zeros(2), np.zeros(2), [{}] * 2)
        place = place + step
    rows = buffer.real_transitions()
    assert rows.obs.dtype == rows.next_obs.dtype == dtype
    changes = (rows.next_obs - rows.obs).double().numpy().reshape(2, 10, 2).swapaxes(0, 1)
    np.testing.assert_allclose(changes, steps, atol=2e-8 if offset == 0 else 2e-9)


def test_box_actions_pass_unscaled_because_sb3_scaled_them() -> None:
    buffer = make_buffer()
    fill(buffer, 5)
    th.testing.assert_close(buffer.real_transitions().action[:, 0], th.arange(5) / 100)


def test_start_states_cover_every_step_of_every_environment() -> None:
    buffer = make_buffer(n_envs=2)
    fill(buffer, 6)
    obs = buffer.sample_observations(2000, np.random.default_rng(0))
    counts = np.unique(obs, axis=0, return_counts=True)[1]
    assert len(counts) == 12
    assert counts.min() > 100
    with pytest.raises(ValueError, match="empty"):
        make_buffer().sample_observations(1, np.random.default_rng(0))


def test_sampling_never_touches_the_global_stream_for_synthetic_rows() -> None:
    buffer = make_buffer(real_ratio=0.0)
    buffer.synthetic.add_batch(imagined(64))
    numpy_state, torch_state = np.random.get_state()[1].copy(), th.get_rng_state()  # type: ignore[union-attr,index]  # noqa: NPY002
    buffer.sample(64)
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[index]  # noqa: NPY002
    assert th.equal(th.get_rng_state(), torch_state)


def stored(rows: SyntheticBuffer) -> list[float]:
    return sorted(rows.take(np.arange(len(rows))).reward[:, 0].tolist())


def batch_of(*values: float) -> Transitions:
    rows = len(values)
    return imagined(rows)._replace(reward=th.tensor(values))


def test_what_is_too_much_leaves_the_newest_synthetic_rows() -> None:
    synthetic = make_buffer(synthetic_size=5).synthetic
    for step in range(4):
        synthetic.add_batch(batch_of(step), step)
    assert stored(synthetic) == [0, 1, 2, 3]
    synthetic.add_batch(batch_of(10, 11, 12), 10)
    assert stored(synthetic) == [2, 3, 10, 11, 12]
    synthetic.add_batch(batch_of(*range(20, 32)), 20)  # more than are kept
    assert stored(synthetic) == [27, 28, 29, 30, 31]
    synthetic.add_batch(batch_of(40), 40)
    synthetic.add_batch(batch_of(50), 50)
    synthetic.set_capacity(2)
    assert stored(synthetic) == [40, 50]
    synthetic.set_capacity(3)
    synthetic.add_batch(batch_of(60, 61), 60)
    assert stored(synthetic) == [50, 60, 61]
    synthetic.set_capacity(9)
    synthetic.expire(50)
    assert stored(synthetic) == [60, 61]


def test_synthetic_rows_are_removed_at_their_age_and_the_others_stay_whole() -> None:
    synthetic = make_buffer(synthetic_size=100).synthetic
    assert synthetic.oldest is None
    synthetic.expire(10**9)  # nothing to remove
    for step in (5, 3, 9, 3):
        synthetic.add_batch(imagined(4, value=step), step)
    assert synthetic.oldest == 3
    synthetic.expire(2)
    assert len(synthetic) == 16
    synthetic.expire(3)
    assert stored(synthetic) == [5] * 4 + [9] * 4
    assert synthetic.oldest == 5
    rows = synthetic.take(np.arange(8))
    np.testing.assert_array_equal(rows.obs, rows.reward.repeat(2, 1))
    np.testing.assert_array_equal(rows.next_obs, rows.obs)
    synthetic.expire(9)
    assert len(synthetic) == 0
    assert synthetic.oldest is None
    synthetic.add_batch(batch_of(7), 11)
    assert stored(synthetic) == [7]


def test_a_handful_of_synthetic_rows_fills_no_batch() -> None:
    """Three of them became 243 rows of each batch of 256."""
    buffer = make_buffer(size=300, real_ratio=0.05)
    fill(buffer, 300)
    buffer.synthetic.add_batch(imagined(3))
    assert not is_synthetic(buffer.sample(256)).any()
    buffer.synthetic.add_batch(imagined(239))
    assert not is_synthetic(buffer.sample(256)).any()
    buffer.synthetic.add_batch(imagined(1))
    assert int(is_synthetic(buffer.sample(256)).sum()) == 243
    # Smaller batches take fewer and need fewer; those of SBX, twenty in one, need no more than 250.
    assert [buffer.fewest_synthetic(batch) for batch in (1, 2, 32, 20 * 256)] == [1, 1, 30, 250]
    assert int(is_synthetic(buffer.sample(20 * 256)).sum()) == 0
    buffer.synthetic.add_batch(imagined(7))
    assert int(is_synthetic(buffer.sample(20 * 256)).sum()) == 4864


def test_synthetic_draws_follow_the_seed_and_by_default_that_of_the_action_space() -> None:
    """SB3 seeds the action space with the agent's seed before it builds the buffer."""

    def draws(seed: int | None, agent_seed: int | None) -> list[int]:
        space = spaces.Box(-1, 1, (2,))
        space.seed(agent_seed)
        buffer = make_buffer(action_space=space, seed=seed)
        assert space.sample().tolist() == _sample(agent_seed) or agent_seed is None  # the space draws as before
        return buffer._rng.integers(2**62, size=2).tolist()

    assert draws(None, 0) == draws(None, 0)
    assert draws(None, 0) != draws(None, 1)
    assert draws(7, 0) == draws(7, 1)
    assert draws(7, 0) != draws(8, 0)
    assert draws(None, None) != draws(None, None)


def _sample(seed: int | None) -> list[float]:
    space = spaces.Box(-1, 1, (2,))
    space.seed(seed)
    sample: list[float] = space.sample().tolist()
    return sample


def test_capacity_is_capped_and_its_memory_known_beforehand() -> None:
    buffer = make_buffer(synthetic_size=1000)
    assert buffer.reserve_synthetic(10**9) == 1000 * (4 * (2 + 2 + 2 + 2) + 8)
    assert buffer.synthetic.capacity == 1000
    with pytest.warns(UserWarning, match="GiB"):
        make_buffer(synthetic_size=10**8).reserve_synthetic(10**8)


def test_pickling_drops_the_synthetic_rows_and_keeps_the_real_ones() -> None:
    buffer = make_buffer(seed=4)
    fill(buffer, 6)
    buffer.synthetic.add_batch(imagined(10))
    copy = pickle.loads(pickle.dumps(buffer))
    assert len(copy.synthetic) == 0
    assert len(buffer.synthetic) == 10
    assert th.equal(copy.real_transitions().obs, buffer.real_transitions().obs)
    for each in (buffer, copy):
        each.real_ratio = 0.0
    copy.synthetic.add_batch(imagined(10))
    assert th.equal(copy.sample(9).actions, buffer.sample(9).actions)  # the streams went along


@pytest.mark.parametrize(
    ("where", "value"), [("observation", np.nan), ("next observation", np.inf), ("action", np.nan), ("reward", -np.inf)]
)
def test_non_finite_rows_are_refused_at_the_door(where: str, value: float) -> None:
    buffer = make_buffer()
    fill(buffer, 4)
    zero = np.zeros((1, 2))
    row = {"observation": zero, "next observation": zero + 1, "action": zero + 2, "reward": np.zeros(1)}
    row[where].flat[0] = value
    with pytest.raises(ValueError, match=f"The {where} of environment step 4 is not finite at index"):
        buffer.add(*row.values(), np.zeros(1), [{}])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"optimize_memory_usage": True}, "optimize_memory_usage"),
        ({"handle_timeout_termination": False}, "handle_timeout_termination"),
        ({"real_ratio": 1.5}, "real_ratio"),
        ({"synthetic_size": 0}, "synthetic_size"),
    ],
)
def test_impossible_settings_raise_at_construction(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_buffer(**kwargs)


def test_unsupported_spaces_raise_at_construction() -> None:
    with pytest.raises(TypeError, match="FlattenObservation"):
        MixedReplayBuffer(10, spaces.Dict({"a": OBS}), ACTION)
    with pytest.raises(TypeError, match="image"):
        MixedReplayBuffer(10, spaces.Box(0, 255, (4, 4, 3), np.uint8), ACTION)
    with pytest.raises(TypeError, match="Enumerate"):
        MixedReplayBuffer(10, OBS, spaces.MultiDiscrete([2, 2]))


def test_a_buffer_that_is_reset_counts_from_zero() -> None:
    buffer = make_buffer(n_envs=2)
    fill(buffer, 4)
    buffer.synthetic.add_batch(imagined(3), 1)
    buffer.reset()
    assert (buffer.real_steps, buffer.num_real, len(buffer.synthetic)) == (0, 0, 0)
    fill(buffer, 2)
    assert buffer.real_steps == 4
    assert buffer.row_ids().tolist() == [0, 2, 1, 3]
