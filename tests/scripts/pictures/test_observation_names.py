"""Names of observation entries, against what the simulator says of the same entries."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, RescaleObservation, TimeLimit

from mbrl_wrappers.tasks import AngleObservation, ForwardVelocityObservation
from scripts.pictures.observation_names import observation_names
from tests.oracle import OracleEnv

HOPPER = [
    "rootz", "rooty", "thigh_joint", "leg_joint", "foot_joint",
    "rootx velocity", "rootz velocity", "rooty velocity", "thigh_joint velocity", "leg_joint velocity",
    "foot_joint velocity",
]  # fmt: skip


def test_joints_of_a_task() -> None:
    assert observation_names(gym.make("Hopper-v5")) == HOPPER
    shown = gym.make("Hopper-v5", exclude_current_positions_from_observation=False)
    assert observation_names(shown) == ["rootx", *HOPPER]


def test_a_free_joint_has_seven_places_and_six_rates() -> None:
    names = observation_names(gym.make("Ant-v5"))
    assert names[:6] == ["root z", "root qw", "root qx", "root qy", "root qz", "hip_1"]
    assert names[13:20] == [
        "root x velocity", "root y velocity", "root z velocity", "root wx velocity", "root wy velocity",
        "root wz velocity", "hip_1 velocity",
    ]  # fmt: skip
    assert names[27:29] == ["cfrc_ext 0", "cfrc_ext 1"]
    assert len(names) == 105


def test_numbered_states_are_numbered() -> None:
    assert observation_names(gym.make("FrozenLake-v1"))[::15] == ["state 0", "state 15"]


@pytest.mark.parametrize("task", ["Walker2d", "HalfCheetah", "Swimmer", "Humanoid", "InvertedPendulum"])
def test_each_name_stands_where_its_joint_is_observed(task: str) -> None:
    """Moving one joint changes the entry of its name, and no other place."""
    env: Any = gym.make(f"{task}-v5")
    names, robot = observation_names(env), env.unwrapped
    env.reset(seed=0)
    before = robot._get_obs().copy()
    joint = robot.model.njnt - 1  # a hinge in all of them
    place = int(robot.model.jnt_qposadr[joint])
    robot.data.qpos[place] += 0.25
    changed = np.flatnonzero(np.abs(robot._get_obs() - before) > 1e-9)
    assert [names[index] for index in changed] == [robot.model.joint(joint).name]


def test_our_wrappers_are_seen_through() -> None:
    shown = gym.make("Hopper-v5", exclude_current_positions_from_observation=False)
    env = AngleObservation(ForwardVelocityObservation(shown), [1])
    assert observation_names(TimeLimit(env, 5)) == [
        HOPPER[0], *HOPPER[2:], "forward velocity", "sin rooty", "cos rooty",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("env", "size"),
    [
        (lambda: gym.make("Pendulum-v1"), 3),
        (lambda: gym.make("Reacher-v5"), 10),
        (OracleEnv, 3),
        (lambda: RescaleObservation(gym.make("Pendulum-v1"), -1, 1), 3),
        (lambda: FlattenObservation(FrameStackObservation(gym.make("Hopper-v5"), 2)), 22),
    ],
)
def test_otherwise_entries_have_numbers(env: Any, size: int) -> None:
    assert observation_names(env()) == [f"observation {index}" for index in range(size)]
