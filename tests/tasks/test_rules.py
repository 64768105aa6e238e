"""Terminations: thousands of states against the environment's own judgement, limits, and rows that are not finite."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from numpy.typing import NDArray
from torch import Tensor

from mbrl_wrappers.tasks import AngleObservation, ForwardVelocityObservation, never_terminates, task_functions
from mbrl_wrappers.tasks.rules import Bound, Healthy

SMALL_HUMANOID = {f"include_{part}_in_observation": False for part in ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")}
NO_ACTION = th.zeros(0)


def ends(env: gymnasium.Env[Any, Any], rows: Any) -> list[bool]:
    termination_fn = task_functions(env).termination_fn
    assert termination_fn is not None
    obs = th.as_tensor(np.array(rows), dtype=th.float64)
    result: list[bool] = termination_fn(obs, NO_ACTION, obs).tolist()
    assert result == termination_fn(obs.float(), NO_ACTION, obs.float()).tolist()
    return result


def random_states(env: Any, count: int, hidden: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Observations (velocities not clipped) of random states and whether the environment calls them healthy."""
    rng = np.random.default_rng(0)
    rows, healthy = [], []
    for _ in range(count):
        env.data.qpos[:] = env.init_qpos + rng.normal(size=env.model.nq) * rng.choice([0.05, 0.3, 1.0])
        env.data.qvel[:] = rng.normal(size=env.model.nv)
        if rng.random() < 0.5:  # one entry far away, in either direction
            values = env.data.qvel if rng.random() < 0.7 else env.data.qpos
            values[rng.integers(len(values))] = rng.uniform(-200, 200)
        rows.append(np.concatenate([env.data.qpos[hidden:], env.data.qvel]))
        healthy.append(bool(env.is_healthy))
    return np.array(rows), np.array(healthy)


@pytest.mark.parametrize(
    ("task", "kwargs", "hidden"),
    [
        ("Hopper-v5", {}, 1),
        ("Hopper-v5", {"exclude_current_positions_from_observation": False}, 0),
        ("Walker2d-v5", {}, 1),
        ("Ant-v5", {"include_cfrc_ext_in_observation": False}, 2),
        ("Humanoid-v5", SMALL_HUMANOID, 2),
    ],
)
def test_ten_thousand_states_are_judged_as_by_the_environment(task: str, kwargs: dict[str, Any], hidden: int) -> None:
    env = gymnasium.make(task, **kwargs)
    rows, healthy = random_states(env.unwrapped, 10_000, hidden)
    assert 500 < healthy.sum() < 9_500
    obs = th.as_tensor(rows)
    termination_fn = task_functions(env).termination_fn
    assert termination_fn is not None
    np.testing.assert_array_equal(termination_fn(obs, NO_ACTION, obs).numpy(), ~healthy)


@pytest.mark.parametrize("value", [-150.0, -100.0, 100.0, 150.0])
@pytest.mark.parametrize("index", range(2, 11))
def test_hopper_ends_at_large_values_of_either_sign(index: int, value: float) -> None:
    row = np.zeros(11)
    row[0] = 1.25
    wild = row.copy()
    wild[index] = value
    near = row.copy()
    near[index] = np.sign(value) * 99.9
    assert ends(gymnasium.make("Hopper-v5"), [row, wild, near]) == [False, True, False]


@pytest.mark.parametrize(
    ("task", "index", "standing", "value", "end"),
    [
        ("Hopper-v5", 0, 1.25, 0.7, True),
        ("Hopper-v5", 1, 1.25, 0.2, True),
        ("Hopper-v5", 1, 1.25, -0.2, True),
        ("Walker2d-v5", 0, 1.25, 0.8, True),
        ("Walker2d-v5", 0, 1.25, 2.0, True),
        ("Walker2d-v5", 1, 1.25, -1.0, True),
        ("Ant-v5", 0, 0.5, 0.2, False),
        ("Ant-v5", 0, 0.5, 1.0, False),
        ("Humanoid-v5", 0, 1.5, 1.0, True),
        ("Humanoid-v5", 0, 1.5, 2.0, True),
        ("InvertedPendulum-v5", 1, 0.0, 0.2, False),
        ("InvertedPendulum-v5", 1, 0.0, -0.2, False),
        ("CartPole-v1", 0, 0.0, 2.4, False),
        ("MountainCar-v0", 0, 0.0, 0.5, True),
    ],
)
def test_limits_are_strict_or_not_as_in_the_task(
    task: str, index: int, standing: float, value: float, end: bool
) -> None:
    env = gymnasium.make(task)
    assert env.observation_space.shape is not None
    row = np.zeros(env.observation_space.shape[0])
    row[0] = standing
    before, after = row.copy(), row.copy()
    row[index], before[index], after[index] = value, value - 1e-3, value + 1e-3
    got = ends(env, [before, row, after])
    assert got[1] is end
    assert got[0] != got[2]


def test_the_shown_velocity_is_no_part_of_hopper_s_state() -> None:
    row = np.array([1.25, *np.zeros(10), 150.0])
    assert ends(ForwardVelocityObservation(gymnasium.make("Hopper-v5")), [row]) == [False]


def test_mountain_car_has_to_arrive_at_the_speed_asked_for() -> None:
    env = gymnasium.make("MountainCarContinuous-v0", goal_velocity=0.02)
    assert ends(env, [[0.5, 0.019], [0.5, 0.02], [0.44, 0.03]]) == [False, True, False]


def test_double_pendulum_ends_at_a_tip_height_of_one() -> None:
    angle = np.arccos(1 / 1.2)  # straight and leaning: 1.2 cos(angle) = 1
    rows = []
    for a in (angle - 1e-3, angle + 1e-3):
        rows.append([0, np.sin(a), 0, np.cos(a), 1, 0, 0, 0, 0])
    assert ends(gymnasium.make("InvertedDoublePendulum-v5"), rows) == [False, True]


@pytest.mark.parametrize("flipped", [False, True])
def test_of_several_bounds_the_tightest_counts(flipped: bool) -> None:
    bounds = (Bound(0, 3, -5.0, 5.0), Bound(1, 2, -1.0, 9.0), Bound(2, 3, -9.0, 2.0))
    healthy = Healthy(3, bounds[::-1] if flipped else bounds, inclusive=True)
    rows = th.tensor([[-5.0, 0, 0], [-5.1, 0, 0], [0, -1.1, 0], [0, 5.1, 0], [0, 5, 0], [0, 0, -5.1], [0, 0, 2.1]])
    assert healthy(rows).tolist() == [True, False, False, False, True, False, False]
    assert Healthy(3, bounds)(rows[[0, 4]]).tolist() == [False, False]


def test_acrobot_ends_where_both_angles_say_so() -> None:
    first, second = np.array([np.pi, 2.0, 2.0, np.pi]), np.array([0.0, 1.0, -1.0, np.pi])
    rows = np.stack([np.cos(first), np.sin(first), np.cos(second), np.sin(second), 0 * first, 0 * first], 1)
    height = -np.cos(first) - np.cos(first + second)
    assert ends(gymnasium.make("Acrobot-v1"), rows) == (height > 1).tolist() == [True, True, False, False]


FALLING = [
    "Hopper-v5",
    "Walker2d-v5",
    "Ant-v5",
    "Humanoid-v5",
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "CartPole-v1",
]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("task", FALLING)
def test_a_row_that_is_not_finite_is_a_fall(task: str, bad: float) -> None:
    env = gymnasium.make(task)
    obs, _ = env.reset(seed=0)
    rows = np.tile(obs.astype(np.float64), (len(obs) + 1, 1))
    rows[np.arange(len(obs)), np.arange(len(obs))] = bad
    assert ends(env, rows) == [True] * len(obs) + [False]


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Reacher-v5", "Pendulum-v1", "MountainCar-v0", "Acrobot-v1"])
def test_a_row_that_is_not_finite_is_never_a_success(task: str) -> None:
    env = gymnasium.make(task)
    assert env.observation_space.shape is not None
    assert ends(env, np.full((1, env.observation_space.shape[0]), np.nan)) == [False]


def test_a_health_rule_that_was_switched_off_never_ends() -> None:
    known = task_functions(gymnasium.make("Walker2d-v5", terminate_when_unhealthy=False))
    assert known.termination_fn is never_terminates
    assert "terminate_when_unhealthy=False" in known.notes[-1]


def test_never_terminates_is_one_false_per_row() -> None:
    rows: Tensor = th.full((3, 4), float("nan"))
    assert never_terminates(rows, rows, rows).tolist() == [False] * 3


def test_whole_turns_matter_only_where_a_robot_lives_on_upside_down() -> None:
    ending = task_functions(AngleObservation(ForwardVelocityObservation(gymnasium.make("Hopper-v5")), [1]))
    assert ending.exact == {"reward", "termination"}
    env = gymnasium.make("Hopper-v5", terminate_when_unhealthy=False)
    living = task_functions(AngleObservation(ForwardVelocityObservation(env), [1]))
    assert living.exact == {"termination"}
    assert living.reward_fn is None
    assert "whole turns" in living.notes[-1]
