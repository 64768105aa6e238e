"""How MuJoCo draws on a machine without a display; free of imports that would decide it too early."""

from __future__ import annotations

import os
import sys


def choose_renderer() -> None:
    """Render off-screen through EGL on Linux without a display; call it before MuJoCo is first used."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
