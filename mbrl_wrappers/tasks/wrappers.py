"""Observation wrappers that make a task easier to model, and its reward exact.

* :class:`AngleObservation` replaces angles by their sines and cosines.
* :class:`ForwardVelocityObservation` shows the velocity over the step that the reward pays for, and hides the
  absolute position.

:func:`mbrl_wrappers.tasks.task_functions` sees through both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mbrl_wrappers.spaces import check_observation_space

Array = NDArray[Any]

HIDDEN_POSITIONS: dict[str, int] = {
    "gymnasium.envs.mujoco.hopper_v5.HopperEnv": 1,
    "gymnasium.envs.mujoco.walker2d_v5.Walker2dEnv": 1,
    "gymnasium.envs.mujoco.half_cheetah_v5.HalfCheetahEnv": 1,
    "gymnasium.envs.mujoco.swimmer_v5.SwimmerEnv": 2,
    "gymnasium.envs.mujoco.ant_v5.AntEnv": 2,
    "gymnasium.envs.mujoco.humanoid_v5.HumanoidEnv": 2,
}
"""The tasks that pay for forward velocity, and how many coordinates (x, or x and y) say where the robot is."""


def class_name(thing: object) -> str:
    """The full name of an object's exact class: how tasks and wrappers are told apart without importing them."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


class AngleObservation(gymnasium.ObservationWrapper[Array, Any, Array], RecordConstructorArgs):
    """Replaces angles by their sines and cosines, so that a turn past pi is no jump for a model.

    The observation becomes ``[other entries in their order, sines, cosines]`` in the dtype it had.

    Args:
        env: an environment whose observation is a one-dimensional float Box.
        indices: which entries are angles in radians, each once.

    Raises:
        ValueError: an index is repeated or out of range.
        TypeError: the observation space is not a one-dimensional float Box.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], indices: Sequence[int]) -> None:
        RecordConstructorArgs.__init__(self, indices=indices)
        gymnasium.ObservationWrapper.__init__(self, env)
        inner = check_observation_space(env.observation_space)
        size = inner.shape[0]
        self.indices = tuple(int(index) for index in indices)
        if len(set(self.indices)) != len(self.indices) or not all(0 <= index < size for index in self.indices):
            raise ValueError(
                f"indices={tuple(indices)} must name entries of the observation, each once, from 0 to {size - 1}."
            )
        self.others = tuple(index for index in range(size) if index not in self.indices)
        one = np.ones(2 * len(self.indices), inner.dtype)
        low = np.concatenate([inner.low[list(self.others)], -one])
        high = np.concatenate([inner.high[list(self.others)], one])
        self.observation_space = spaces.Box(low, high, dtype=inner.dtype.type)

    def observation(self, observation: Array) -> Array:
        """``(O,)`` to ``(O + number of angles,)``."""
        angles = observation[list(self.indices)]
        return np.concatenate([observation[list(self.others)], np.sin(angles), np.cos(angles)])


class ForwardVelocityObservation(gymnasium.Wrapper[Array, Any, Array, Any], RecordConstructorArgs):
    """Appends the forward velocity of the step that led here, and hides the absolute position.

    The last entry is what the task itself pays for, :math:`(x' - x)/dt` as its ``info["x_velocity"]`` says it: the
    root's in Hopper, Walker2d, HalfCheetah and Swimmer, the main body's in Ant, the centre of mass's in Humanoid.
    It is 0 after a reset. The absolute x (and y), shown by environments that were built with
    ``exclude_current_positions_from_observation=False``, is left out. So a model that predicts the successor's
    observation predicts everything the reward needs, where the robot stands does not matter, and no precision is
    lost far from the origin. As an *input* the entry carries nothing new and does no harm.

    Args:
        env: one of these six v5 tasks. Other observation wrappers go around this one, not inside.

    Raises:
        TypeError: the task does not pay for forward velocity, or is not a v5 task.
        ValueError: an observation wrapper lies inside.
    """

    def __init__(self, env: gymnasium.Env[Array, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        task: Any = env.unwrapped
        if class_name(task) not in HIDDEN_POSITIONS:
            tasks = ", ".join(name.rsplit(".", 1)[1].removesuffix("Env") for name in HIDDEN_POSITIONS)
            raise TypeError(
                f"ForwardVelocityObservation knows the v5 tasks {tasks}, not {class_name(task)}; "
                "other rewards do not need it, or have to be learned."
            )
        inner = check_observation_space(env.observation_space)
        if inner.shape != task.observation_space.shape:
            raise ValueError(
                "Another wrapper has already changed the observation, so its positions cannot be found: put "
                "ForwardVelocityObservation directly around the task and the other wrapper around it."
            )
        excluded = bool(task._exclude_current_positions_from_observation)
        self.hidden = 0 if excluded else HIDDEN_POSITIONS[class_name(task)]
        unbounded = np.array([np.inf], inner.dtype)
        low = np.concatenate([inner.low[self.hidden :], -unbounded])
        high = np.concatenate([inner.high[self.hidden :], unbounded])
        self.observation_space = spaces.Box(low, high, dtype=inner.dtype.type)

    def _observe(self, observation: Array, velocity: float) -> Array:
        return np.append(observation[self.hidden :], observation.dtype.type(velocity))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode; the velocity is 0."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observe(observation, 0.0), info

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance; the velocity is that of this step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(observation, float(info["x_velocity"])), reward, terminated, truncated, info
