"""Names for the entries of an observation, where the environment tells what they are."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from mbrl_wrappers.tasks import AngleObservation, ForwardVelocityObservation

# Of MuJoCo's joint types (mjtJoint), in the order of their numbers: free, ball, slide, hinge.
_PLACES = (("x", "y", "z", "qw", "qx", "qy", "qz"), ("qw", "qx", "qy", "qz"), ("",), ("",))
_RATES = (("x", "y", "z", "wx", "wy", "wz"), ("wx", "wy", "wz"), ("",), ("",))


def observation_names(env: gym.Env[Any, Any]) -> list[str]:
    """One name per entry of the observation: joints and blocks of a MuJoCo task, else ``observation <index>``.

    A numbered state has one entry per number, as models see it. Our own observation wrappers are seen through. Behind
    any other that changes the observation, nothing is known.

    Args:
        env: a live environment with a one-dimensional or Discrete observation.
    """
    if isinstance(env.observation_space, gym.spaces.Discrete):
        first = int(env.observation_space.start)
        return [f"state {first + index}" for index in range(int(env.observation_space.n))]
    size = int((env.observation_space.shape or (0,))[0])
    try:
        names = _names(env)
    except (AttributeError, KeyError, TypeError):  # an environment may lack, or mean, anything by these attributes
        names = []
    return names if len(names) == size else [f"observation {index}" for index in range(size)]


def _names(env: gym.Env[Any, Any]) -> list[str]:
    if not isinstance(env, gym.Wrapper):
        return _task_names(env)
    inner = _names(env.env)
    if isinstance(env, ForwardVelocityObservation):
        return [*inner[env.hidden :], "forward velocity"]
    if isinstance(env, AngleObservation):
        angles = [inner[index] for index in env.indices]
        return [inner[i] for i in env.others] + [f"sin {name}" for name in angles] + [f"cos {name}" for name in angles]
    return inner if env.observation_space == env.env.observation_space else []


def _task_names(task: Any) -> list[str]:
    """Names from ``observation_structure``, which Gymnasium's MuJoCo v5 tasks have."""
    places, rates = _joint_names(task.model, _PLACES), _joint_names(task.model, _RATES)
    names: list[str] = []
    for block, length in task.observation_structure.items():
        if block == "skipped_qpos":
            places = places[length:]
        elif block == "qpos":
            names += places
        elif block == "qvel":
            names += [f"{name} velocity" for name in rates]
        else:
            names += [f"{block} {index}" for index in range(length)]
    return names


def _joint_names(model: Any, coordinates: tuple[tuple[str, ...], ...]) -> list[str]:
    """The coordinates of all joints of a MuJoCo model, in the order of ``qpos`` (or ``qvel``)."""
    names = []
    for joint in range(model.njnt):
        name = model.joint(joint).name or f"joint {joint}"
        names += [f"{name} {part}".strip() for part in coordinates[int(model.jnt_type[joint])]]
    return names
