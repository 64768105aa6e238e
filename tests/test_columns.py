"""Recorded arrays as transitions: scaled, checked, cut into episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import ActionCodec, Transitions, TransitionStore
from mbrl_wrappers.columns import EndWatch
from tests.oracle import HIGH, LOW, oracle_step

CODEC = ActionCodec(spaces.Box(LOW, HIGH))


def data(rows: int = 12, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(rows, 3)).astype(np.float32)
    action = rng.uniform(LOW, HIGH, (rows, 2)).astype(np.float32)
    next_obs, reward, terminated = (part.numpy() for part in oracle_step(th.as_tensor(obs), th.as_tensor(action)))
    return dict(obs=obs, action=action, reward=reward, next_obs=next_obs, terminated=terminated)


def test_recorded_actions_are_scaled() -> None:
    given = data()
    rows = Transitions.from_numpy(**given, codec=CODEC)
    np.testing.assert_allclose(rows.action, 2 * (given["action"] - LOW) / (HIGH - LOW) - 1, atol=1e-6)
    for name in ("obs", "reward", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(rows, name), given[name])
    assert [column.dtype for column in rows] == [th.float32] * 4 + [th.bool] * 2
    assert rows.last.all()  # rows drawn independently: none continues another


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_they_are_what_a_store_makes_of_them(dtype: Any) -> None:
    given = {name: value.astype(dtype) if value.dtype.kind == "f" else value for name, value in data().items()}
    given["action"] = given["action"].astype(np.float64).clip(LOW, HIGH)
    store = TransitionStore(100, spaces.Box(-np.inf, np.inf, (3,), dtype), CODEC.action_space)
    store.extend(**given)
    for one, other in zip(Transitions.from_numpy(**given, codec=CODEC), store.transitions(), strict=True):
        assert th.equal(one, other)


def test_episodes_end_by_flags_and_by_jumps() -> None:
    obs = np.array([0.0, 1, 2, 10, 11, 12])[:, None]
    next_obs = np.array([1.0, 2, 3, 11, 12, 13])[:, None]
    codec = ActionCodec(spaces.Discrete(2, start=1))
    flags = np.array([0, 0, 0, 0, 1, 0])
    rows = Transitions.from_numpy(
        obs, [1, 2, 1, 2, 1, 2], np.zeros(6), next_obs, np.zeros(6, bool), truncated=flags, codec=codec
    )
    assert rows.action.tolist() == [[1, 0], [0, 1]] * 3
    assert rows.last.tolist() == [False, False, True, False, True, True]
    assert not rows.terminated.any()


def test_one_episode_may_come_with_all_its_observations() -> None:
    rows = Transitions.from_numpy(
        np.arange(4.0)[:, None], np.zeros(3, int), np.ones(3), None, [0, 0, 1], codec=ActionCodec(spaces.Discrete(2))
    )
    assert (rows.obs[:, 0].tolist(), rows.next_obs[:, 0].tolist()) == ([0, 1, 2], [1, 2, 3])
    assert rows.terminated.tolist() == rows.last.tolist() == [False, False, True]


def test_changes_far_from_zero_are_kept() -> None:
    given = data() | {"obs": data()["obs"].astype(np.float64) + 5.5e6}
    given["next_obs"] = given["obs"] + 0.1
    rows = Transitions.from_numpy(**given, codec=CODEC)
    np.testing.assert_allclose(rows.next_obs - rows.obs, 0.1, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.full((12, 2), 5.0)}, r"Step 0 of environment 0: \[5\.0, 5\.0\] is not an action of Box"),
        ({"action": np.zeros((12, 1))}, r"action must have shape \(12, 2\), got \(12, 1\)"),
        ({"obs": np.zeros(12)}, r"obs must have shape \(B, O\), got \(12,\)"),
        ({"next_obs": np.zeros((12, 2))}, r"next_obs must have shape \(12, 3\)"),
        ({"reward": np.zeros((12, 2))}, r"reward must have shape \(12,\), got \(12, 2\)"),
        ({"reward": np.full(12, np.nan)}, "reward is nan"),
    ],
)
def test_what_does_not_belong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transitions.from_numpy(**(data() | change), codec=CODEC)


def one_step(action: float, reward: float, codec: ActionCodec) -> Transitions:
    return Transitions.from_numpy(np.zeros((1, 1)), [[action]], [reward], np.ones((1, 1)), [False], codec=codec)


def test_the_largest_number_of_float32_is_stored_and_the_next_one_refused() -> None:
    codec, largest = ActionCodec(spaces.Box(-1, 1, (1,))), float(np.finfo(np.float32).max)
    assert one_step(0, largest, codec).reward.item() == largest
    with pytest.raises(ValueError, match="reward"):
        one_step(0, np.nextafter(largest, np.inf), codec)


def test_an_action_may_be_outside_by_a_ten_thousandth_of_the_width() -> None:
    codec = ActionCodec(spaces.Box(-1000, 1000, (1,)))
    assert one_step(1000.1, 0, codec).action.item() == pytest.approx(1.0001)
    for action in (1000.3, -1000.3):
        with pytest.raises(ValueError, match="not an action"):
            one_step(action, 0, codec)


@pytest.mark.parametrize(("moved", "lost"), [(2.0, False), (2.25, True)])
def test_an_end_may_move_twice_as_far_as_any_step_before(moved: float, lost: bool) -> None:
    obs, next_obs = np.array([[0.0], [1.0]]), np.array([[1.0], [1.0 + moved]])
    assert EndWatch(1).any_lost(obs, next_obs, np.array([False, True]), next_obs) == lost
