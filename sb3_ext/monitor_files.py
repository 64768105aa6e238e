"""The files that SB3's monitors append to, cut back to where they were when a run was saved."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor


def monitor_file_sizes(env: VecEnv | None) -> dict[str, int]:
    """The size in bytes of each monitor file of ``env``, by name."""
    sizes = {}
    for writer in _writers(env):
        writer.file_handler.flush()
        sizes[Path(writer.file_handler.name).name] = os.fstat(writer.file_handler.fileno()).st_size
    return sizes


def cut_monitor_files(env: VecEnv | None, sizes: Mapping[str, int]) -> None:
    """Remove the rows that were written after the run was saved, and warn of rows that are missing."""
    for writer in _writers(env):
        path = Path(writer.file_handler.name)
        size = sizes.get(path.name, 0)
        if path.stat().st_size < size or writer.file_handler.mode.startswith("w"):
            warnings.warn(
                f"{path} was begun anew, so it lacks the episodes before the run was resumed: build the monitor with "
                "override_existing=False.",
                stacklevel=2,
            )
        else:
            os.truncate(path, size)


def _writers(env: VecEnv | None) -> Iterator[ResultsWriter]:
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecMonitor) and env.results_writer is not None:
            yield env.results_writer
        env = env.venv
    for single in env.envs if isinstance(env, DummyVecEnv) else ():
        inner: gymnasium.Env[Any, Any] = single
        while isinstance(inner, gymnasium.Wrapper):
            if isinstance(inner, Monitor) and inner.results_writer is not None:
                yield inner.results_writer
            inner = inner.env
