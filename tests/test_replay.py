from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.storage import file_format as checkpoint_file
from mbrl_wrappers.storage.file_format import CheckpointError
from mbrl_wrappers.types import Transitions
from tests.oracle import HIGH, LOW, DiscreteOracleEnv, OracleEnv

OBS_SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float64)
ACTION_SPACE = spaces.Box(LOW, HIGH)


def fill(store: TransitionStore, steps: int, ends: dict[int, list[int]] | None = None, first: int = 0) -> None:
    """Step ``t`` of environment ``n`` goes from ``100 n + t`` to ``100 n + t + 1`` and earns ``t``."""
    for step in range(first, first + steps):
        start = np.array([[100.0 * env + step, -step] for env in range(store.num_envs)])
        over = np.array([step in (ends or {}).get(env, []) for env in range(store.num_envs)])
        action = np.tile([0.4, 1.0], (store.num_envs, 1))
        store.add(
            start,
            action,
            np.full(store.num_envs, float(step)),
            start + np.array([1, -1]),
            over,
            np.zeros(len(over), bool),
        )


def same(one: Transitions, other: Transitions) -> bool:
    return all(th.equal(a, b) for a, b in zip(one, other, strict=True))


def test_rows_come_out_env_by_env_in_the_order_of_time() -> None:
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE, num_envs=2)
    fill(store, 3, ends={1: [1]})
    assert len(store) == 6
    rows = store.transitions()
    assert rows.obs[:, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert rows.next_obs[:, 0].tolist() == [1, 2, 3, 101, 102, 103]
    assert rows.reward.tolist() == [0, 1, 2, 0, 1, 2]
    assert rows.terminated.tolist() == [False, False, False, False, True, False]
    # The newest row of each environment is a last one as well.
    assert rows.last.tolist() == [False, False, True, False, True, True]
    assert [field.dtype for field in rows] == [th.float32] * 4 + [th.bool] * 2


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 9])
def test_the_ring_keeps_the_newest_steps(steps) -> None:
    store = TransitionStore(7, OBS_SPACE, ACTION_SPACE, num_envs=2)
    assert store.capacity == 8  # whole steps
    fill(store, steps)
    kept = list(range(max(0, steps - 4), steps))
    rows = store.transitions()
    assert rows.obs[:, 0].tolist() == kept + [100 + step for step in kept]
    assert rows.last.tolist() == ([False] * (len(kept) - 1) + [True]) * 2
    assert (len(store), store.steps_seen) == (2 * len(kept), steps)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("steps", [2, 5, 9])
def test_each_row_has_the_number_of_its_collection(num_envs, steps) -> None:
    store = TransitionStore(5 * num_envs, OBS_SPACE, ACTION_SPACE, num_envs)
    fill(store, steps)
    rows = store.transitions()
    env, step = rows.obs[:, 0] // 100, rows.reward
    assert store.row_ids().tolist() == (step * num_envs + env).tolist()
    assert store.row_ids().dtype == th.int64


def test_reading_does_not_mark_the_newest_row_for_good() -> None:
    store = TransitionStore(10, OBS_SPACE, ACTION_SPACE)
    fill(store, 2)
    assert store.transitions().last.tolist() == [False, True]
    fill(store, 1, first=2)
    assert store.transitions().last.tolist() == [False, False, True]


def test_actions_are_stored_as_model_actions() -> None:
    store = TransitionStore(10, OBS_SPACE, ACTION_SPACE)
    for action in ([-0.4, -1.0], [0.4, 3.0], [0.0, 1.0], [0.2, 2.0]):
        store.add([0, 0], action, 0.0, [0, 0], False, False)
    expected = [[-1, -1], [1, 1], [0, 0], [0.5, 0.5]]
    np.testing.assert_allclose(store.transitions().action, expected, atol=1e-6)
    discrete = TransitionStore(10, OBS_SPACE, spaces.Discrete(3, start=5), num_envs=2)
    discrete.add(np.zeros((2, 2)), np.array([5, 7]), [0, 0], np.zeros((2, 2)), [False, False], [False, False])
    assert discrete.transitions().action.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_truncations_are_last_but_not_terminated() -> None:
    store = TransitionStore(10, OBS_SPACE, ACTION_SPACE)
    for terminated, truncated in [(True, False), (False, True), (True, True), (False, False)]:
        store.add([0, 0], [0, 0], 0.0, [0, 0], terminated, truncated)
    rows = store.transitions()
    assert rows.terminated.tolist() == [True, False, True, False]
    assert rows.last.tolist() == [True, True, True, True]


def test_a_reset_that_was_not_announced_ends_the_episode() -> None:
    store = TransitionStore(10, OBS_SPACE, ACTION_SPACE, num_envs=2)
    fill(store, 2)
    fill(store, 2, first=7)  # both environments jump from 2 to 7
    rows = store.transitions()
    assert rows.last.tolist() == [False, True, False, True] * 2
    assert not rows.terminated.any()


def test_float64_observations_that_continue_are_not_taken_for_a_reset() -> None:
    env = OracleEnv(np.float64)
    store = TransitionStore(100, env.observation_space, env.action_space)
    obs, _ = env.reset(seed=0)
    obs = obs + 1e-9  # float64 values that float32 cannot hold
    for _ in range(5):
        following = obs + np.pi * 1e-3
        store.add(obs, np.zeros(2), 0.0, following, False, False)
        obs = following
    assert store.transitions().last.tolist() == [False] * 4 + [True]


def test_samples_are_stored_rows_and_repeat_with_the_seed() -> None:
    store = TransitionStore(12, OBS_SPACE, ACTION_SPACE, num_envs=3)
    fill(store, 9, ends={0: [6], 2: [7]})
    rows = store.sample(2000, np.random.default_rng(0))
    assert same(rows, store.sample(2000, np.random.default_rng(0)))
    every = store.transitions()
    index = {value: i for i, value in enumerate(every.obs[:, 0].tolist())}
    picked = th.tensor([index[value] for value in rows.obs[:, 0].tolist()])
    assert th.bincount(picked, minlength=12).min() > 100
    # All fields come from the same row; the newest rows are only marked by transitions().
    for drawn, stored in zip(rows[:5], every[:5], strict=True):
        assert th.equal(drawn, stored[picked])
    observations = store.sample_observations(500, np.random.default_rng(1))
    assert (observations.shape, observations.dtype) == ((500, 2), np.float64)  # as the space says
    assert set(observations[:, 0]) == set(index)


def test_an_empty_store() -> None:
    store = TransitionStore(12, OBS_SPACE, ACTION_SPACE, num_envs=3)
    assert len(store) == 0
    assert [tuple(field.shape) for field in store.transitions()] == [(0, 2), (0, 2), (0,), (0, 2), (0,), (0,)]
    for draw in (store.sample, store.sample_observations):
        with pytest.raises(ValueError, match="empty"):
            draw(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("obs", [[0, 0], [0, np.nan]], r"Step 2 of environment 1: obs\[1\] is nan"),
        ("next_obs", [[-np.inf, 0], [0, 0]], r"Step 2 of environment 0: next_obs\[0\] is -inf"),
        ("next_obs", [[1e300, 0], [0, 0]], r"next_obs\[0\] is 1e\+300"),  # infinite once it is a float32
        ("reward", [0, np.nan], r"Step 2 of environment 1: reward is nan"),
        ("action", [[0, 0], [np.nan, 0]], r"action\[0\] is nan"),
        ("obs", np.zeros((2, 3)), r"obs must have shape \(2, 2\), got \(2, 3\)"),
        ("reward", 0.0, r"reward must have shape \(2,\), got \(\)"),
        ("terminated", [False], r"terminated must have shape \(2,\)"),
    ],
)
def test_bad_numbers_stop_at_the_door(field, value, message) -> None:
    store = TransitionStore(12, OBS_SPACE, ACTION_SPACE, num_envs=2)
    fill(store, 2)
    before = store.transitions()
    good = dict(obs=np.zeros((2, 2)), action=np.zeros((2, 2)), reward=[0, 0], next_obs=np.zeros((2, 2)))
    good |= dict(terminated=[False, False], truncated=[False, False])
    with pytest.raises(ValueError, match=message):
        store.add(**(good | {field: value}))
    assert same(before, store.transitions())
    assert len(store) == 4


def test_discrete_actions_that_do_not_exist_are_refused() -> None:
    store = TransitionStore(12, OBS_SPACE, spaces.Discrete(3, start=5))
    for action in (4, 8, 5.5):
        with pytest.raises(ValueError, match="is not an action of Discrete"):
            store.add([0, 0], action, 0.0, [0, 0], False, False)


@pytest.mark.parametrize("steps", [0, 3, 11])
def test_a_loaded_store_goes_on_as_if_nothing_had_happened(steps, tmp_path) -> None:
    stores = [TransitionStore(8, OBS_SPACE, ACTION_SPACE, num_envs=2) for _ in range(2)]
    fill(stores[0], steps, ends={0: [1]})
    loaded = TransitionStore.load(stores[0].save(tmp_path / "real"))
    assert same(loaded.transitions(), stores[0].transitions())
    assert (loaded.observation_space, loaded.codec.action_space) == (OBS_SPACE, ACTION_SPACE)
    for store in (loaded, stores[0]):
        fill(store, 3, first=steps)
    assert same(loaded.transitions(), stores[0].transitions())
    draws = [store.sample(50, np.random.default_rng(0)) for store in (loaded, stores[0])]
    assert same(*draws)


def test_damaged_and_foreign_files_are_refused(tmp_path) -> None:
    store = TransitionStore(8, OBS_SPACE, ACTION_SPACE)
    fill(store, 5)
    path = store.save(tmp_path / "real")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="corrupt"):
        TransitionStore.load(path)
    path.write_bytes(content[:-40])
    with pytest.raises(CheckpointError, match="truncated"):
        TransitionStore.load(path)
    zipfile.ZipFile(path, "w").close()
    with pytest.raises(CheckpointError):
        TransitionStore.load(path)


def altered(path, tensors=None, **config) -> None:
    """Write the file anew, as an honest writer of other contents would."""
    manifest, stored = checkpoint_file.read(path)
    stored = {**stored, **(tensors or {})}
    kept = {name: tensor for name, tensor in stored.items() if tensor is not None}
    checkpoint_file.write(path, manifest.kind, {**manifest.config, **config}, kept)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"capacity": 1e13}, "capacity must be an integer of at least"),
        ({"capacity": 10**13}, "more than any file holds"),
        ({"capacity": 10**30}, "more than any file holds"),
        ({"capacity": "x"}, "capacity must be an integer of at least"),
        ({"capacity": True}, "capacity must be an integer of at least"),
        ({"capacity": 0}, "capacity must be an integer of at least"),
        ({"capacity": 3}, "not 3 of its steps"),
        ({"num_envs": 0}, "num_envs must be an integer of at least"),
        ({"num_envs": 2}, "of its steps"),
        ({"steps_seen": -1}, "steps_seen must be an integer of at least"),
        ({"steps_seen": 4}, "not 4 of its steps"),
        ({"steps_seen": 10**25}, "cannot have seen"),
        ({"observation_space": None}, "not the description of a space"),
        ({"observation_space": {"type": "Discrete", "n": 3, "start": 0, "dtype": "int64"}}, "is a table of 3 states"),
        ({"observation_space": {"type": "Box", "shape": [10**9], "dtype": "float32"}}, "description of a space"),
        ({"action_space": {"type": "Discrete", "n": 3, "start": 0, "dtype": "int64"}}, "'action' is float32"),
        ({"action_space": {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"}}, "positive"),
    ],
)
def test_a_file_cannot_ask_for_an_impossible_store(config, message, tmp_path) -> None:
    store = TransitionStore(8, OBS_SPACE, ACTION_SPACE)
    fill(store, 5)
    path = store.save(tmp_path / "real")
    altered(path, **config)
    with pytest.raises(CheckpointError, match=f"real.* is corrupt: .*{message}"):
        TransitionStore.load(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"reward": None}, r"holds the tensors \['action', 'last', 'next_obs', 'obs', 'terminated'\]"),
        ({"extra": th.zeros(5, 1)}, "holds the tensors"),
        ({"obs": th.zeros(5, 1, 3)}, r"'obs' is float32 of shape \(5, 1, 3\)"),
        ({"action": th.zeros(5, 1, 2, dtype=th.float64)}, "'action' is float64"),
        ({"reward": th.full((5, 1), th.nan)}, "'reward' has a number that is not finite"),
        ({"reward": th.zeros(5, 1, dtype=th.bfloat16)}, "corrupt"),
    ],
)
def test_tensors_that_do_not_belong_are_refused(tensors, message, tmp_path) -> None:
    store = TransitionStore(8, OBS_SPACE, ACTION_SPACE)
    fill(store, 5)
    path = store.save(tmp_path / "real")
    altered(path)
    TransitionStore.load(path)  # as it was
    altered(path, tensors)
    with pytest.raises(CheckpointError, match=message):
        TransitionStore.load(path)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TransitionStore(0, OBS_SPACE, ACTION_SPACE)
    with pytest.raises(TypeError, match="image"):
        TransitionStore(5, spaces.Box(0, 255, (8, 8, 3), np.uint8), ACTION_SPACE)
    with pytest.raises(TypeError, match="MultiDiscrete"):
        TransitionStore(5, OBS_SPACE, spaces.MultiDiscrete([2, 2]))


@pytest.mark.parametrize("make", [OracleEnv, DiscreteOracleEnv])
def test_a_real_loop_never_crosses_a_reset(make) -> None:
    env = make()
    store = TransitionStore(1000, env.observation_space, env.action_space)
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for step in range(300):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        store.add(obs, action, reward, following, terminated, truncated)
        obs = env.reset()[0] if terminated or step % 50 == 49 else following
    rows = store.transitions()
    joined = (rows.next_obs[:-1] == rows.obs[1:]).all(1)
    assert th.equal(joined, ~rows.last[:-1])
    assert int(rows.last.sum()) > int(rows.terminated.sum()) > 0
    if make is OracleEnv:
        assert rows.action.abs().max() <= 1 + 1e-6
        assert (rows.action[:, 1] * (HIGH[1] - LOW[1]) / 2 + (HIGH[1] + LOW[1]) / 2).max() > 2
