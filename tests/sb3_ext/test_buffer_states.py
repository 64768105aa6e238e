"""Replay buffers go on from their state: rows, ages, positions and draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.her import HerReplayBuffer

from mbrl_wrappers.states import Ring
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from mbrl_wrappers.types import Transitions
from sb3_ext import MixedReplayBuffer
from sb3_ext.replay_ring import check_can_be_kept, load_replay_ring, replay_ring

BOX = spaces.Box(-np.inf, np.inf, (2,), np.float64)
ACTION = spaces.Box(-1, 1, (1,), np.float32)


def mixed(size: int = 30, actions: spaces.Space[Any] = ACTION, seed: int = 5) -> MixedReplayBuffer:
    return MixedReplayBuffer(size, BOX, actions, n_envs=2, device="cpu", real_ratio=0.5, synthetic_size=20, seed=seed)


def add(buffer: ReplayBuffer, number: int) -> None:
    obs = np.full((2, 2), float(number))
    done = np.full(2, number % 7 == 0)
    buffer.add(obs, obs + 1, np.full((2, 1), 0.1), np.full(2, number), done, [{}, {"TimeLimit.truncated": True}])


def imagine(buffer: MixedReplayBuffer, number: int) -> None:
    obs = th.full((6, 2), -float(number))
    flags = th.zeros(6, dtype=th.bool)
    buffer.synthetic.add_batch(Transitions(obs, obs[:, :1] * 0, obs[:, 0], obs - 1, flags, flags), buffer.real_steps)


def go_on(buffer: MixedReplayBuffer, numbers: range) -> list[np.ndarray]:
    """Steps, imagined rows that push out and expire others, and the batches drawn in between."""
    found = []
    for number in numbers:
        add(buffer, number)
        if number % 3 == 0:
            imagine(buffer, number)
            buffer.synthetic.expire(buffer.real_steps - 12)
        np.random.seed(number)  # noqa: NPY002 - SB3 draws the real rows from the global stream
        batch = buffer.sample(8)
        found.append(np.concatenate([column.numpy().ravel() for column in batch[:5]]))
        found.append(buffer.row_ids().numpy())
    return found


@pytest.mark.parametrize("before", [1, 8, 11, 40], ids=lambda number: f"after {number} steps")
def test_a_mixed_buffer_goes_on_from_a_checkpoint(tmp_path: Path, before: int) -> None:
    """Nothing imagined yet, some, a synthetic part that was full, and a real part that has wrapped around."""
    buffer, other = mixed(), mixed(seed=6)
    go_on(buffer, range(before))
    checkpoints = RunCheckpoints(tmp_path)
    checkpoints.save(before, {"replay": buffer.state_dict()})
    found = checkpoints.load()
    assert found is not None
    expected = go_on(buffer, range(before, before + 20))
    other.load_state_dict(found.state["replay"])
    for mine, theirs in zip(expected, go_on(other, range(before, before + 20)), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (other.real_steps, len(other.synthetic), other.synthetic.oldest) == (
        buffer.real_steps, len(buffer.synthetic), buffer.synthetic.oldest
    )  # fmt: skip
    assert other.observations.dtype == np.float64


def test_the_ring_counts_what_was_ever_written() -> None:
    buffer = mixed(size=10)  # five steps of two environments
    go_on(buffer, range(8))
    ring = buffer.state_dict()["real"]
    assert isinstance(ring, Ring)
    assert (ring.written, ring.capacity, ring.filled) == (8, 5, 5)
    assert ring.columns["observations"][:, 0, 0].tolist() == [5, 6, 7, 3, 4]


def test_states_of_other_buffers_are_refused() -> None:
    buffer = mixed()
    go_on(buffer, range(9))
    state = buffer.state_dict()
    with pytest.raises(ValueError, match="keeps 15 steps and this one 20"):
        mixed(size=40).load_state_dict(state)
    with pytest.raises(ValueError, match=r"actions of the stored replay buffer is float32 of shape .* another task"):
        mixed(actions=spaces.Discrete(3)).load_state_dict(state)
    rows = {**state["synthetic"]["rows"], "obs": np.zeros((1, 3), np.float32)}
    with pytest.raises(ValueError, match="obs of the imagined rows has shape"):
        buffer.synthetic.load_state_dict({**state["synthetic"], "rows": rows})
    with pytest.raises(ValueError, match="and the capacity is 1"):
        buffer.synthetic.load_state_dict({**state["synthetic"], "capacity": 1})


def test_a_buffer_of_dictionaries_goes_on_from_its_ring() -> None:
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (1,))})

    def build() -> DictReplayBuffer:
        return DictReplayBuffer(3, space, ACTION)

    def step(buffer: DictReplayBuffer, number: int) -> None:
        obs = {"a": np.full((1, 2), number / 10), "b": np.full((1, 1), number / 20)}
        buffer.add(obs, obs, np.zeros((1, 1)), np.array([number]), np.array([False]), [{}])

    buffer, other = build(), build()
    for number in range(5):
        step(buffer, number)
    load_replay_ring(other, replay_ring(buffer, 5))
    for each in (buffer, other):
        step(each, 5)
    np.testing.assert_array_equal(buffer.observations["a"], other.observations["a"])
    assert (other.pos, other.full, other.rewards.ravel().tolist()) == (0, True, [3, 4, 5])


def test_a_buffer_that_needs_its_environment_is_refused() -> None:
    with pytest.raises(TypeError, match="rows of a HerReplayBuffer cannot be kept"):
        check_can_be_kept(HerReplayBuffer.__new__(HerReplayBuffer))
