"""The exported state of live environments: a fresh one that is loaded with it goes on to the last bit."""

from __future__ import annotations

import enum
import threading
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces, wrappers
from stable_baselines3.common.monitor import Monitor

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.copies.env_state import env_state, load_env_state, why_not_exportable
from mbrl_wrappers.storage.state_file import read_state, write_state
from mbrl_wrappers.tasks import AngleObservation, ForwardVelocityObservation, TabularObservation

IDS = (
    *("Hopper-v5", "Reacher-v5", "InvertedPendulum-v5", "Ant-v5", "Humanoid-v5", "Pusher-v5"),
    *("Pendulum-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"),
    *("FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1", "mbrl_wrappers/ContinuousCartPole-v0"),
)


def went_on(env: gymnasium.Env, steps: int = 20) -> Any:
    """Steps with the environment's own random actions, resets where episodes end, one more reset, and a draw."""
    seen = []
    for _ in range(steps):
        *answer, info = env.step(env.action_space.sample())
        seen.append(answer)
        if answer[2] or answer[3]:
            info.get("episode", {}).pop("t", None)
            seen.append([info.get("episode"), env.reset()])
    return comparable([seen, env.reset(), env.action_space.sample(), env.observation_space.sample()])


def led(env: gymnasium.Env, steps: int, seed: int = 3) -> gymnasium.Env:
    env.reset(seed=seed)
    env.action_space.seed(seed)
    env.observation_space.seed(seed)
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return env


def through_a_file(env: gymnasium.Env, folder: Path) -> Any:
    state = env_state(env)
    assert state is not None, why_not_exportable(env)
    write_state(folder / "env.safetensors", state)
    return read_state(folder / "env.safetensors")[0]


@pytest.mark.parametrize("steps", [0, 7, 60])
@pytest.mark.parametrize("name", IDS)
def test_a_fresh_environment_goes_on_to_the_last_bit(name: str, steps: int, tmp_path: Path) -> None:
    env = led(gymnasium.make(name), steps)
    state = through_a_file(env, tmp_path)
    fresh = gymnasium.make(name)
    load_env_state(fresh, state)
    assert comparable(through_a_file(fresh, tmp_path)) == comparable(state)
    assert went_on(fresh) == went_on(env)


def test_a_state_without_what_a_step_computed_would_not_do() -> None:
    """Ant pays for positions that lag by one physics step: the physics state alone gives another reward."""
    env = led(gymnasium.make("Ant-v5"), 30)
    state: Any = env_state(env)
    other = gymnasium.make("Ant-v5")
    load_env_state(other, state)
    import mujoco

    raw: Any = other.unwrapped
    mujoco.mj_forward(raw.model, raw.data)
    assert went_on(other) != went_on(env)


WRAPPED: dict[str, Any] = {
    "limit": lambda: wrappers.TimeLimit(gymnasium.make("Pendulum-v1").unwrapped, 23),
    "monitor": lambda: Monitor(gymnasium.make("CartPole-v1")),
    "statistics": lambda: wrappers.RecordEpisodeStatistics(gymnasium.make("CartPole-v1")),
    "rescaled": lambda: wrappers.RescaleAction(gymnasium.make("Hopper-v5"), np.float32(-0.5), np.float32(0.5)),
    "clipped": lambda: wrappers.ClipAction(gymnasium.make("Pendulum-v1")),
    "reward": lambda: wrappers.TransformReward(gymnasium.make("Pendulum-v1"), lambda reward: 0.1 * reward),
    "normalised": lambda: wrappers.NormalizeReward(wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1"))),
    "stacked": lambda: wrappers.FrameStackObservation(gymnasium.make("Pendulum-v1"), 3),
    "sticky": lambda: wrappers.StickyAction(gymnasium.make("Pendulum-v1"), 0.5),
    "delayed": lambda: wrappers.DelayObservation(gymnasium.make("Pendulum-v1"), 2),
    "time": lambda: wrappers.TimeAwareObservation(gymnasium.make("Pendulum-v1")),
    "float32": lambda: wrappers.DtypeObservation(gymnasium.make("CartPole-v1"), np.float64),
    "velocity": lambda: ForwardVelocityObservation(gymnasium.make("Hopper-v5")),
    "angles": lambda: AngleObservation(gymnasium.make("Acrobot-v1"), (0, 1)),
    "numbered": lambda: TabularObservation(gymnasium.make("MountainCar-v0"), 8),
    "drawn": lambda: gymnasium.make("CartPole-v1", render_mode="rgb_array"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_go_on_as_well(name: str, tmp_path: Path) -> None:
    env = led(WRAPPED[name](), 15)
    fresh = WRAPPED[name]()
    load_env_state(fresh, through_a_file(env, tmp_path))
    assert went_on(fresh, 40) == went_on(env, 40)


def test_a_monitor_knows_its_episodes_and_how_long_they_took(tmp_path: Path) -> None:
    env = led(Monitor(gymnasium.make("CartPole-v1"), str(tmp_path / "one")), 70)
    fresh = Monitor(gymnasium.make("CartPole-v1"), str(tmp_path / "two"))
    load_env_state(fresh, through_a_file(env, tmp_path))
    for name in ("rewards", "episode_returns", "episode_lengths", "episode_times", "total_steps", "needs_reset"):
        assert getattr(fresh, name) == getattr(env, name), name
    assert fresh.t_start == pytest.approx(env.t_start, abs=1.0)
    assert len(fresh.episode_returns) > 1
    env.close()
    fresh.close()


class Suit(enum.Enum):
    HEARTS = 1
    SPADES = 2


class Track:
    """An object of a class of its own inside an environment."""

    def __init__(self) -> None:
        self.laps, self.marks = 0, [0.0]

    def __repr__(self) -> str:
        return f"{self.laps} {self.marks}"


class Everything(gymnasium.Env[Any, Any]):
    """Holds data of every kind that is exported, and lets all of it decide what it answers."""

    def __init__(self) -> None:
        self.action_space = spaces.Box(-1, 1, (2,))
        self.observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)})
        self.buffer = np.zeros((4, 3), order="F")
        self.row = self.buffer[2]
        self.words, self.numbers = np.array(["ab", "c"]), np.array([1, 2], np.uint16)
        self.tensor = th.zeros(3)
        self.track = self.again = Track()
        self.queue, self.seen = deque([1.0], maxlen=4), {1, 2}
        self.table: dict[Any, Any] = {(0, 1): [1, 2], None: OrderedDict(x=1)}
        self.shared = self.table[0, 1]
        self.suit, self.phase, self.small = Suit.HEARTS, 1 + 2j, np.float32(0.1)
        self.raw, self.lazy = b"ab", None
        self.bits, self.torch = np.random.Generator(np.random.Philox(3)), th.Generator().manual_seed(3)
        self.legacy = np.random.RandomState(3)
        count = 0

        def counted() -> int:
            nonlocal count
            count += 1
            return count

        self.counted = counted
        self.method = self._draw

    def _draw(self) -> float:
        return float(self.np_random.random())

    def _answer(self) -> Any:
        told = repr([
            self.buffer.tolist(), self.row.tolist(), self.words.tolist(), self.numbers.tolist(), self.tensor.tolist(),
            vars(self.track), list(self.queue), sorted(self.seen), self.table, self.shared, self.suit, self.phase,
            repr(self.small), self.raw, self.lazy, self.counted(), self.method(), self.bits.random(),
            self.legacy.random_sample(), th.rand(2, generator=self.torch).tolist(),
        ])  # fmt: skip
        self.told = told
        return {"a": np.array([hash(told) % 1000 / 1000, 0], np.float32), "b": 0}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.queue.append(2.0)
        self.lazy = Track() if self.lazy is None else self.lazy
        return self._answer(), {}

    def step(self, action: Any) -> Any:
        self.row += action[0]
        self.words[0], self.numbers[1] = "xy", self.numbers[1] + 1
        self.tensor += 1
        self.track.laps += 1
        self.track.marks.append(0.5)
        self.queue.append(float(action[1]))
        self.seen.add(self.track.laps)
        self.shared.append(3)
        self.table[self.track.laps] = self.lazy
        self.suit, self.phase, self.small = Suit.SPADES, self.phase * 1j, np.float32(action[0])
        self.raw += b"c"
        return self._answer(), float(self.numbers[1]), False, False, {}


def test_data_of_every_kind_is_exported_and_shares_what_it_shared(tmp_path: Path) -> None:
    env = led(Everything(), 9)
    fresh: Any = Everything()
    load_env_state(fresh, through_a_file(env, tmp_path))
    assert fresh.track is fresh.again
    assert fresh.shared is fresh.table[0, 1]
    assert np.shares_memory(fresh.row, fresh.buffer)
    assert type(fresh.small) is np.float32
    assert fresh.numbers.dtype == np.uint16
    one, other = vars(env), vars(fresh)
    for name in ("words", "numbers", "buffer", "row", "raw", "phase", "suit", "queue", "seen"):
        assert comparable(one[name]) == comparable(other[name]), name
    assert went_on(fresh, 5) == went_on(env, 5)


class Hidden(gymnasium.Env[Any, Any]):
    """An environment whose ``thing`` decides whether its state can be exported."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

    def __init__(self, thing: Any = None) -> None:
        self.thing = thing

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        return 0, 0.0, False, False, {}


def numbers() -> Any:
    yield from range(10)


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (numbers(), "Hidden"),
        (threading.Lock(), "Hidden"),
        (np.array([object()]), "object"),
        (np.zeros(2**24), "MiB"),
        (th.zeros(2, requires_grad=True), "gradients"),
        (iter([1, 2]), "no plain data"),
    ],
)
def test_what_is_no_data_is_named(thing: Any, words: str) -> None:
    env = Hidden(thing)
    env.reset(seed=0)
    assert env_state(env) is None
    assert "thing" in why_not_exportable(env)
    assert words in why_not_exportable(env)


COUNTS = {"steps": 0}


class CountsElsewhere(Hidden):
    """Keeps a part of its state in a global variable."""

    def step(self, action: Any) -> Any:
        COUNTS["steps"] += 1
        return 0, float(COUNTS["steps"]), False, False, {}


class KeepsToItself(Hidden):
    """Has a slot, which is no attribute in its dictionary."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def step(self, action: Any) -> Any:
        self.count += 1
        return 0, float(self.count), False, False, {}


@pytest.mark.parametrize("kind", [CountsElsewhere, KeepsToItself])
def test_a_state_that_attributes_do_not_hold_is_found_by_the_trial(kind: Any) -> None:
    env = led(kind(), 3)
    assert env_state(env) is None
    assert kind.__name__ in why_not_exportable(env)


def test_the_live_environment_and_the_global_streams_are_left_alone() -> None:
    one, other = (led(gymnasium.make("Hopper-v5"), 5) for _ in range(2))
    before = (th.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    env_state(one)
    assert th.equal(before[0], th.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert went_on(one) == went_on(other)


def test_the_states_of_something_else_are_refused_and_change_nothing() -> None:
    hopper: Any = env_state(led(gymnasium.make("Hopper-v5"), 5))
    walker = led(gymnasium.make("Walker2d-v5"), 5)
    with pytest.raises(ValueError, match="HopperEnv.*Walker2dEnv"):
        load_env_state(walker, hopper)
    with pytest.raises(ValueError, match="from outside inwards"):
        load_env_state(gymnasium.make("Hopper-v5").unwrapped, hopper)
    with pytest.raises(ValueError, match="observation_space"):
        load_env_state(gymnasium.make("Hopper-v5", exclude_current_positions_from_observation=False), hopper)
    heavy: Any = led(gymnasium.make("Hopper-v5"), 5)
    heavy.unwrapped.model.body_mass[1] += 1
    with pytest.raises(ValueError, match="differs from the simulated model"):
        load_env_state(heavy, hopper)
    with pytest.raises(ValueError, match="lacks"):
        load_env_state(heavy, {})
    older: Any = env_state(led(gymnasium.make("Hopper-v5"), 5))
    older["layers"][-1]["attributes"]["model"]["state"]["mujoco"] = "3.1.0"
    with pytest.raises(ValueError, match=r"mujoco 3\.1\.0"):
        load_env_state(gymnasium.make("Hopper-v5"), older)


class OwnState(Hidden):
    """Says itself what its state is."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def state_dict(self) -> Any:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


def test_an_environment_may_keep_its_state_itself() -> None:
    env, fresh = OwnState(), OwnState()
    env.count = 7
    state: Any = env_state(env)
    assert state["layers"][0] == {"class": "tests.copies.test_env_state.OwnState", "own": {"count": 7}}
    load_env_state(fresh, state)
    assert fresh.count == 7


def test_streams_of_spaces_that_belong_to_a_class_are_kept() -> None:
    env = led(Hidden(), 3)
    state: Any = env_state(env)
    drawn = [env.action_space.sample() for _ in range(20)]
    load_env_state(env, state)
    assert [env.action_space.sample() for _ in range(20)] == drawn
