"""Data sets stored at once, ends that were recorded wrongly, observations far from zero."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers.replay import TransitionStore
from tests.oracle import HIGH, LOW
from tests.test_replay import ACTION_SPACE, OBS_SPACE, fill, same


def recorded(steps: int, num_envs: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Steps of environments that are reset after some ends, and at times without one; environment units."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(steps, num_envs, 2))
    next_obs = obs + rng.normal(size=obs.shape)
    goes_on = rng.random((steps - 1, num_envs)) < 0.7
    obs[1:][goes_on] = next_obs[:-1][goes_on]
    terminated, truncated = rng.random((2, steps, num_envs)) < 0.1
    action = rng.uniform(LOW, HIGH, (steps, num_envs, 2))
    reward = rng.normal(size=(steps, num_envs))
    return dict(obs=obs, action=action, reward=reward, next_obs=next_obs, terminated=terminated, truncated=truncated)


@pytest.mark.filterwarnings("ignore:An episode's last step")  # ends without a reset
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("pieces", [(1, 30), (7, 12, 1, 11), (31,)])
@pytest.mark.parametrize("capacity", [12, 100])
def test_many_steps_at_once_are_the_same_as_one_by_one(num_envs, pieces, capacity) -> None:
    data = recorded(31, num_envs)
    one, other = (TransitionStore(capacity * num_envs, OBS_SPACE, ACTION_SPACE, num_envs) for _ in range(2))
    for step in range(31):
        one.add(**{name: column[step] for name, column in data.items()})
    begin = 0
    for length in pieces:
        rows = {name: column[begin : begin + length] for name, column in data.items()}
        other.extend(**(rows if num_envs > 1 else {name: column[:, 0] for name, column in rows.items()}))
        begin += length
    assert same(one.transitions(), other.transitions())
    assert th.equal(one.row_ids(), other.row_ids())
    assert len(one) == len(other) == min(31, capacity) * num_envs


def test_an_episode_with_all_its_observations_needs_no_successors() -> None:
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    path = np.arange(8.0).reshape(4, 2)
    action = np.array([[-0.4, -1.0], [0.4, 3.0], [0.0, 1.0]])
    for _ in range(2):
        store.extend(path, action, [1.0, 2.0, 3.0], None, [False, False, True])
    rows = store.transitions()
    assert rows.obs.tolist() == [[0, 1], [2, 3], [4, 5]] * 2
    assert rows.next_obs.tolist() == [[2, 3], [4, 5], [6, 7]] * 2
    np.testing.assert_allclose(rows.action, [[-1, -1], [1, 1], [0, 0]] * 2, atol=1e-6)
    assert rows.last.tolist() == rows.terminated.tolist() == [False, False, True] * 2
    with pytest.raises(ValueError, match=r"one more than its steps: got 3 steps and observations of shape \(3, 2\)"):
        store.extend(path[:3], action, [1.0, 2.0, 3.0], None, [False, False, True])


def test_nothing_is_stored_of_arrays_that_are_wrong_somewhere() -> None:
    good = {name: column[:, 0] for name, column in recorded(20, 1).items()}
    for name, index, value, message in [
        ("obs", (3, 1), np.nan, r"Step 3 of environment 0: obs\[1\] is nan"),
        ("reward", 19, np.inf, "Step 19 of environment 0: reward is inf"),
        ("action", (5, 0), 0.5, r"Step 5 of environment 0: \[0\.5, .*\] is not an action of Box"),
        ("terminated", 2, 7, "terminated must hold True and False"),
    ]:
        store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
        column = good[name].astype(float)
        column[index] = value
        with pytest.raises(ValueError, match=message):
            store.extend(**(good | {name: column}))
        assert (len(store), store.steps_seen) == (0, 0)
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    with pytest.raises(ValueError, match=r"reward must have shape \(20,\), got \(19,\)"):
        store.extend(**(good | {"reward": good["reward"][1:]}))
    with pytest.raises(ValueError, match="action must hold numbers"):
        store.extend(**(good | {"action": good["action"].astype(object)}))
    store.extend(**{name: column[:0] for name, column in good.items()})
    assert len(store) == 0


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Box(-2.0, 2.0, (1,)), [2.1]),
        (spaces.Box(-5, 5, (1,), np.int64), [2.5]),
        (spaces.Box(-5, 5, (1,), np.int64), [6]),
        (spaces.Discrete(2), 2),
        (spaces.Discrete(2, start=1), 0),
    ],
)
def test_actions_outside_of_their_space_are_refused(space, action) -> None:
    store = TransitionStore(10, OBS_SPACE, space)
    with pytest.raises(ValueError, match=r"is not an action of .* in the units of the environment"):
        store.add([0, 0], action, 0.0, [1, 1], False, False)
    assert len(store) == 0


def test_an_action_on_its_bound_may_be_rounded() -> None:
    store = TransitionStore(10, OBS_SPACE, spaces.Box(-0.1, 0.1, (1,), np.float64))
    store.add([0, 0], np.array([0.1], np.float32), 0.0, [1, 1], False, False)  # float32(0.1) > 0.1
    assert store.transitions().action.item() == pytest.approx(1)


def test_a_jump_in_one_dimension_ends_an_episode() -> None:
    store = TransitionStore(10, OBS_SPACE, ACTION_SPACE)
    store.add([0, 0], [0, 0], 0.0, [1, 1], False, False)
    store.add([1, 2], [0, 0], 0.0, [2, 3], False, False)  # where the second dimension was, it is no more
    store.add([2, 3], [0, 0], 0.0, [3, 4], False, False)
    assert store.transitions().last.tolist() == [True, False, True]


def test_a_recorded_jump_in_one_dimension_ends_an_episode() -> None:
    store = TransitionStore(10, OBS_SPACE, ACTION_SPACE)
    obs, next_obs = np.array([[0.0, 0], [1, 2], [2, 3]]), np.array([[1.0, 1], [2, 3], [3, 4]])
    store.extend(obs, np.zeros((3, 2)), np.zeros(3), next_obs, np.zeros(3, bool))
    assert store.transitions().last.tolist() == [True, False, True]


def walk(store: TransitionStore, *, first_of_next: bool, episodes: int = 4, length: int = 5) -> None:
    """Episodes of small steps from far apart starts; at their ends the next start in place of the final observation."""
    starts = 10.0 * np.arange(episodes + 1)
    for start, following in pairwise(starts):
        for step in range(length):
            obs, last = start + 0.1 * step, step == length - 1
            led = following if last and first_of_next else obs + 0.1
            store.add([obs, 0.0], [0.0, 0.0], 0.0, [led, 0.0], False, last)


def test_successors_that_belong_to_the_next_episode_are_warned_of_once() -> None:
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    with pytest.warns(UserWarning, match="jump to where the next episode begins") as caught:
        walk(store, first_of_next=True)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    walk(TransitionStore(100, OBS_SPACE, ACTION_SPACE), first_of_next=False)  # a warning would be an error


def test_recorded_successors_that_belong_to_the_next_episode_are_warned_of() -> None:
    obs = np.array([0.0, 0.1, 0.2, 5.0, 5.1])[:, None]
    columns = (
        obs,
        np.zeros(5),
        np.zeros(5),
        np.append(obs[1:], [[5.2]], 0),
        [False] * 5,
        [False, False, True, False, True],
    )
    with pytest.warns(UserWarning, match="jump to where the next episode begins"):
        TransitionStore(100, spaces.Box(-9, 9, (1,)), spaces.Box(-1, 1, ())).extend(*columns)


def test_an_environment_that_goes_on_from_its_ends_is_not_warned_of() -> None:
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    for step in range(20):
        store.add([step, 0.0], [0, 0], 0.0, [step + 1, 0.0], False, step % 5 == 4)
    assert store.transitions().last.tolist() == [step % 5 == 4 for step in range(20)]


def test_all_steps_so_far_say_what_a_jump_is() -> None:
    """One ordinary step of 4, then small ones: an end that moves by 3 and is not followed by a reset is no jump."""
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    places = [0.0, 4.0, 4.1, 4.2, 7.2, 7.3]
    for index, (place, led) in enumerate(pairwise(places)):
        store.add([place, 0.0], [0, 0], 0.0, [led, 0.0], False, index == 3)
    assert len(store) == 5


def test_one_array_for_both_observations_is_refused() -> None:
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    memory = np.zeros(2)
    with pytest.raises(ValueError, match="one array: .* Keep a copy"):
        store.add(memory, [0, 0], 0.0, memory[:], False, False)
    store.add(memory.copy(), [0, 0], 0.0, memory, False, False)
    path = np.zeros((3, 2))
    store.add(path[0], [0, 0], 0.0, path[1], False, False)
    assert len(store) == 2


@pytest.mark.parametrize("offset", [5.5e6, -3e8, 1.7e9])
def test_changes_far_from_zero_are_kept(offset) -> None:
    """Float32 numbers near 5.5 million are half apart, so that steps of 0.1 were 0 or 0.5."""
    rng = np.random.default_rng(0)
    path = offset + np.cumsum(rng.uniform(-0.1, 0.1, (51, 2)), 0)
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    store.extend(path, np.tile([0.0, 1.0], (50, 1)), np.zeros(50), None, np.zeros(50, bool))
    for rows in (store.transitions(), store.sample(500, np.random.default_rng(0))):
        assert (rows.obs.dtype, rows.next_obs.dtype) == (th.float64, th.float64)
        assert (rows.action.dtype, rows.reward.dtype) == (th.float32, th.float32)
    rows = store.transitions()
    np.testing.assert_array_equal(rows.next_obs - rows.obs, np.diff(path, axis=0))
    assert set(store.sample_observations(20, np.random.default_rng(1))[:, 0]) < set(path[:, 0])


def test_observations_near_zero_are_float32() -> None:
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    fill(store, 20)
    rows = store.transitions()
    assert (rows.obs.dtype, rows.next_obs.dtype) == (th.float32, th.float32)


def test_a_file_keeps_the_precision(tmp_path) -> None:
    store = TransitionStore(100, OBS_SPACE, ACTION_SPACE)
    path = 5.5e6 + np.arange(12.0).reshape(6, 2) / 10
    store.extend(path, np.tile([0.0, 1.0], (5, 1)), np.zeros(5), None, np.zeros(5, bool))
    loaded = TransitionStore.load(store.save(tmp_path / "real")).transitions()
    assert same(loaded, store.transitions())
    assert loaded.obs.dtype == th.float64
