"""Pictures in place of observations: small grey frames, drawn in numpy for the pendulum and by MuJoCo for its tasks."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.tasks.wrappers import class_name

Array = NDArray[Any]

PENDULUM = "gymnasium.envs.classic_control.pendulum.PendulumEnv"

ROD_WIDTH = 0.18
"""Half the width of the drawn rod, in lengths of the rod."""

FIELD = 1.3
"""Half the width of the picture, in lengths of the rod."""


class FrameObservation(gymnasium.Wrapper[Array, Any, Array, Any], RecordConstructorArgs):
    """Shows a grey picture ``(size * size,)`` of the task, in [0, 1] and row by row, in place of its observation.

    The pendulum is drawn in numpy. Any other task has to be made with ``render_mode="rgb_array"``; its picture is
    averaged over blocks of pixels. One picture shows no velocity.

    Args:
        env: the task.
        size: rows and columns of the picture.

    Raises:
        ValueError: for a task that draws no pictures, or smaller ones.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], size: int = 16) -> None:
        RecordConstructorArgs.__init__(self, size=size)
        gymnasium.Wrapper.__init__(self, env)
        self.size = at_least("size", size, 4)
        self._is_pendulum = class_name(env.unwrapped) == PENDULUM
        if not self._is_pendulum and env.render_mode != "rgb_array":
            raise ValueError(
                f"{class_name(env.unwrapped)} has to draw its own pictures: make it with render_mode='rgb_array'."
            )
        self.observation_space = spaces.Box(0.0, 1.0, (size * size,), np.float32)

    def _frame(self) -> Array:
        if self._is_pendulum:
            task: Any = self.env.unwrapped
            return rod_frame(float(task.state[0]), self.size).ravel()
        picture: Any = self.env.render()
        return shrunk(np.asarray(picture), self.size).ravel()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode."""
        _, info = self.env.reset(seed=seed, options=options)
        return self._frame(), info

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance, and draw what came of it."""
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._frame(), reward, terminated, truncated, info


def rod_frame(angle: float, size: int) -> NDArray[np.float32]:
    """A rod that hangs from the middle of the picture ``(size, size)``, in [0, 1]; its edge falls off over a pixel.

    Args:
        angle: in radians from upright, counter-clockwise.
        size: pixels.
    """
    edge = FIELD * (1 - 1 / size)
    x, y = np.meshgrid(np.linspace(-edge, edge, size), np.linspace(edge, -edge, size))
    along_x, along_y = -np.sin(angle), np.cos(angle)
    along = np.clip(x * along_x + y * along_y, 0.0, 1.0)  # the nearest point of the rod
    distance = np.hypot(x - along * along_x, y - along * along_y)
    pixel = 2 * FIELD / size
    picture: NDArray[np.float32] = np.clip((ROD_WIDTH - distance) / pixel + 0.5, 0.0, 1.0).astype(np.float32)
    return picture


def shrunk(picture: Array, size: int) -> NDArray[np.float32]:
    """The middle square of ``picture (height, width, 3)`` of bytes, grey, averaged to ``(size, size)`` in [0, 1].

    Raises:
        ValueError: for a picture of fewer pixels.
    """
    side = min(picture.shape[:2])
    block = side // size
    if not block:
        raise ValueError(f"A picture of {picture.shape[:2]} pixels cannot be shown as {size} x {size}: draw it larger.")
    kept = block * size
    top, left = ((length - kept) // 2 for length in picture.shape[:2])
    grey = picture[top : top + kept, left : left + kept].astype(np.float32).mean(-1) / 255.0
    averaged: NDArray[np.float32] = grey.reshape(size, block, size, block).mean((1, 3))
    return averaged
