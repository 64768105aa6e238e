"""Films of episodes, as MP4 or GIF.

Gymnasium's own ``RecordVideo`` needs moviepy; imageio with its bundled ffmpeg is smaller and works off-line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from mbrl_wrappers.optional import require


def choose_renderer() -> None:
    """Render off-screen through EGL on Linux without a display; call it before MuJoCo is first used."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")


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
