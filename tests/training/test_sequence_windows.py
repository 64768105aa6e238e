"""Windows of sequences: cut at episode ends and at the pointer of a ring, and aligned in time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.latent import SequenceBatch
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.training.sequence_windows import Episodes
from mbrl_wrappers.types import Transitions
from sb3_ext import MixedReplayBuffer

COUNTS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)


def counter(*lengths: int, episode: int = 0) -> Transitions:
    r"""Episodes in which observation :math:`t` is (episode, t), the action t / 100 and the reward 10 t + action."""
    columns: list[tuple[Any, ...]] = []
    for number, length in enumerate(lengths):
        for time in range(length):
            obs, following = [number + episode, time], [number + episode, time + 1]
            end = time == length - 1
            columns.append((obs, [time / 100], 10 * time + time / 100, following, end and number % 2 == 0, end))
    obs, action, reward, next_obs, terminated, last = map(th.tensor, map(list, zip(*columns, strict=True)))
    return Transitions(obs.float(), action.float(), reward.float(), next_obs.float(), terminated, last)


def check_alignment(batch: SequenceBatch) -> None:
    """Every window counts on within one episode, and its actions, rewards and ends are those of its steps."""
    for row in range(len(batch.obs)):
        n = int(batch.length[row])
        obs, times = batch.obs[row, :n], batch.obs[row, :n, 1]
        assert (obs[:, 0] == obs[0, 0]).all(), "a window crosses the end of an episode"
        assert times.tolist() == [float(times[0]) + i for i in range(n)]
        assert bool(batch.first[row]) == (float(times[0]) == 0)
        th.testing.assert_close(batch.action[row, : n - 1, 0], times[:-1] / 100)
        th.testing.assert_close(batch.reward[row, : n - 1], 10 * times[:-1] + times[:-1] / 100)
        assert not batch.terminated[row, : n - 2].any()


def test_windows_lie_inside_of_episodes_and_are_aligned() -> None:
    episodes = Episodes.of(counter(7, 3, 12, 1))
    assert episodes.steps.tolist() == [7, 3, 12, 1]
    assert episodes.first.all()
    batch = episodes.draw(500, 4, generator=torch_generator(0))
    check_alignment(batch)
    assert batch.obs.shape == (500, 5, 2)
    assert batch.action.shape == (500, 4, 1)
    short = batch.length[batch.obs[:, 0, 0] == 1]
    assert set(short.tolist()) == {2, 3, 4}, "at most three steps, which are four observations, and padding"
    assert set(batch.length[batch.obs[:, 0, 0] == 3].tolist()) == {2}
    assert batch.valid.sum(1).tolist() == batch.length.tolist()


def test_every_row_is_in_windows_equally_often() -> None:
    rows = counter(7, 3, 12, 1)
    batch = Episodes.of(rows).draw(20_000, 4, generator=torch_generator(0))
    seen = batch.obs[:, :-1][batch.valid_steps]
    counts = th.tensor([(seen == row).all(1).sum() for row in rows.obs]).float()
    assert len(counts) == 23
    # Each row is in 4 of 35 windows: about 2,286 times, with a standard deviation below 50.
    assert (counts / (20_000 * 4 / 35) - 1).abs().max() < 0.1


def test_the_last_observation_of_an_episode_and_its_end_are_in_a_window() -> None:
    batch = Episodes.of(counter(5, 5)).window(th.tensor([0, 1]), th.tensor([1, 1]), 4)
    assert batch.obs[:, :, 1].tolist() == [[1, 2, 3, 4, 5]] * 2
    assert batch.terminated.tolist() == [[False, False, False, True], [False] * 4]
    assert batch.first.tolist() == [False, False]


def test_the_same_generator_draws_the_same_windows() -> None:
    episodes = Episodes.of(counter(30, 20))
    one, other, third = (episodes.draw(9, 4, generator=torch_generator(seed)) for seed in (0, 0, 1))
    assert th.equal(one.obs, other.obs)
    assert not th.equal(one.obs, third.obs)


def test_a_cover_shows_each_row_once() -> None:
    batch = Episodes.of(counter(7, 3, 12)).cover(4, 100)
    check_alignment(batch)
    seen = sorted(
        (float(obs[0]), float(obs[1]))
        for row, n in zip(batch.obs, batch.length.tolist(), strict=True)
        for obs in row[: n - 1]
    )
    assert seen == [
        (number, float(time)) for number, length in ((0.0, 7), (1.0, 3), (2.0, 12)) for time in range(length)
    ]
    assert len(Episodes.of(counter(7, 3, 12)).cover(4, 3).obs) == 3


def test_a_jump_inside_of_an_episode_ends_its_piece() -> None:
    rows = counter(6)
    rows.next_obs[2, 1] = 77.0
    episodes = Episodes.of(rows)
    assert episodes.steps.tolist() == [3, 3]


def test_an_episode_that_begins_where_the_last_one_ended_is_another_one() -> None:
    rows = counter(6)
    rows.last[2] = True
    episodes = Episodes.of(rows)
    assert episodes.steps.tolist() == [3, 3]
    assert episodes.first.all()


def test_shuffled_rows_are_refused() -> None:
    rows = counter(30, 30)
    order = th.randperm(60, generator=torch_generator(0))
    with pytest.raises(ValueError, match="do not begin where the row before them led"):
        Episodes.of(Transitions(*(column[order] for column in rows)))
    with pytest.raises(ValueError, match="no transitions"):
        Episodes.of(Transitions(*(column[:0] for column in rows)))


class Counter(gymnasium.Env[Any, Any]):
    """Counts its steps; episode ``number`` has ``5 + number`` of them."""

    observation_space, action_space = COUNTS, ACTIONS

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.number, self.time = self.number + 2, 0
        return np.float32([self.number, 0]), {}

    def step(self, action: Any) -> Any:
        reward = 10 * self.time + self.time / 100
        self.time += 1
        end = self.time == 5 + self.number
        return np.float32([self.number, self.time]), reward, False, end, {}


@pytest.mark.parametrize("steps", [12, 40])
@pytest.mark.parametrize("kind", ["store", "buffer"])
def test_windows_of_a_ring_are_cut_at_its_pointer(kind: str, steps: int) -> None:
    envs = DummyVecEnv([lambda number=number: Counter(number) for number in range(2)])
    obs = envs.reset()
    store = TransitionStore(50, COUNTS, ACTIONS, num_envs=2)
    buffer = MixedReplayBuffer(50, COUNTS, ACTIONS, n_envs=2)
    for _ in range(steps):
        action = np.float32([[env.time / 100] for env in envs.envs])
        following, reward, done, infos = envs.step(action)
        true = following.copy()
        for row, info in enumerate(infos):
            if done[row]:
                true[row] = info["terminal_observation"]
        store.add(obs, action, reward, true, np.zeros(2, bool), done)
        buffer.add(obs, true, action, reward, done, infos)
        obs = following
    rows = store.transitions() if kind == "store" else buffer.real_transitions()
    ids = store.row_ids() if kind == "store" else buffer.row_ids()
    episodes = Episodes.of(rows, ids)
    batch = episodes.draw(300, 4, generator=torch_generator(0))
    check_alignment(batch)
    begins = rows.obs[episodes.begin, 1] == 0
    assert th.equal(episodes.first, begins), "the oldest rows of a full ring are no beginning"
    assert bool((~begins).any()) == (steps == 40)
    assert int(episodes.steps.sum()) == rows.num_rows


def test_a_holdout_is_of_whole_episodes_and_stays_the_same() -> None:
    few, many = Episodes.of(counter(*[5] * 20)), Episodes.of(counter(*[5] * 200))
    train, held = few.split(0.2, seed=3)
    assert len(train.begin) + len(held.begin) == 20
    assert not set(train.number.tolist()) & set(held.number.tolist())
    more_train, more_held = many.split(0.2, seed=3)
    assert set(held.number.tolist()) <= set(more_held.number.tolist())
    assert set(train.number.tolist()) <= set(more_train.number.tolist())
    assert 25 <= len(more_held.begin) <= 55
    assert few.split(0.2, seed=4)[1].number.tolist() != held.number.tolist()


def test_one_episode_is_divided_in_time() -> None:
    train, held = Episodes.of(counter(20)).split(0.2, seed=0)
    assert train.steps.tolist() == [16]
    assert held.steps.tolist() == [4]
    assert held.window(th.tensor([0]), th.tensor([0]), 4).obs[0, :, 1].tolist() == [16, 17, 18, 19, 20]
    assert not held.first.any()
    two = Episodes.of(counter(20, 20)).split(0.01, seed=0)
    assert [len(part.begin) for part in two] == [1, 1]


def test_the_oldest_rows_of_endless_environments_are_no_beginning() -> None:
    """Rings in which no episode ends: each environment is one run, and their first numbers rise."""
    times = th.arange(50, 60).float()
    obs, never = th.stack([times, times], 1), th.zeros(10, dtype=th.bool)
    newest = th.arange(10) == 9
    half = Transitions(obs, times[:, None] / 100, times, obs + 1, never, newest)
    rows = Transitions(*(th.cat([column, column]) for column in half))
    late = Episodes.of(rows, th.cat([th.arange(100, 120, 2), th.arange(101, 121, 2)]))
    assert late.first.tolist() == [False, False]
    early = Episodes.of(rows, th.cat([th.arange(0, 20, 2), th.arange(1, 21, 2)]))
    assert early.first.tolist() == [True, True]


@pytest.mark.parametrize("seed", range(6))
def test_most_rows_are_trained_on_however_long_single_runs_are(seed: int) -> None:
    train, held = Episodes.of(counter(100, 3)).split(0.1, seed=seed)
    assert (train.num_steps, held.num_steps) == (100, 3)
    train, held = Episodes.of(counter(5, 3)).split(0.8, seed=seed)
    assert {train.num_steps, held.num_steps} == {3, 5}
