"""Chooses MuJoCo's renderer on a machine without a display; imports nothing that would fix the choice first."""

from __future__ import annotations

import os
import sys


def choose_renderer() -> None:
    """Render off-screen through EGL on Linux without a display; call it before MuJoCo is first used."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
