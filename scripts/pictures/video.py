"""Films of episodes, as MP4 or GIF.

Gymnasium's own ``RecordVideo`` needs moviepy; imageio with its bundled ffmpeg is smaller and works off-line.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np

from mbrl_wrappers.optional import require


def check_rendering(env: gym.Env[Any, Any]) -> None:
    """Refuse an environment that cannot be filmed here, before anything is played.

    Args:
        env: was reset, and made with ``render_mode="rgb_array"``.

    Raises:
        ValueError: if it draws nothing, or something that drawing needs is missing.
    """
    try:
        frame = env.render()
    except Exception as error:  # drivers and windows fail in ways of their own
        raise ValueError(f"--video: {env} cannot be drawn here: {str(error) or type(error).__name__}") from error
    if not isinstance(frame, np.ndarray):
        raise ValueError(f"--video: {env} draws no pictures.")


def frames_per_second(env: gym.Env[Any, Any]) -> float:
    """The speed at which ``env`` is meant to be shown; 30 when it does not say."""
    return float(env.metadata.get("render_fps") or 30)


class Film:
    """Writes frames to a file as they come; a context manager.

    Args:
        path: ``.mp4`` or ``.gif``.
        fps: frames per second.

    Raises:
        ValueError: for another ending.
        ImportError: if imageio is missing.
    """

    def __init__(self, path: Path, fps: float) -> None:
        imageio = require("imageio.v2", extra="video")
        if path.suffix == ".mp4":
            require("imageio_ffmpeg", extra="video")
            options: dict[str, Any] = {"fps": fps, "macro_block_size": 2}
        elif path.suffix == ".gif":
            options = {"duration": 1000.0 / fps, "loop": 0}
        else:
            raise ValueError(f"A film is .mp4 or .gif, got {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._writer = imageio.get_writer(path, **options)

    def add(self, frame: Any) -> None:
        """Append one ``(height, width, 3)`` uint8 frame."""
        self._writer.append_data(frame)

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()
