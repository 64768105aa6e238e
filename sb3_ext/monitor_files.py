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

AnyEnv = VecEnv | gymnasium.Env[Any, Any] | None


def monitor_file_sizes(env: AnyEnv) -> dict[str, int]:
    """The size in bytes of each monitor file of ``env``, by name."""
    sizes = {}
    for writer in _writers(env):
        writer.file_handler.flush()
        sizes[Path(writer.file_handler.name).name] = os.fstat(writer.file_handler.fileno()).st_size
    return sizes


def cut_monitor_files(env: AnyEnv, sizes: Mapping[str, int]) -> None:
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


def _writers(env: AnyEnv) -> Iterator[ResultsWriter]:
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecMonitor) and env.results_writer is not None:
            yield env.results_writer
        env = env.venv
    for single in env.envs if isinstance(env, DummyVecEnv) else ():
        yield from _writers(single)
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, Monitor) and env.results_writer is not None:
            yield env.results_writer
        env = env.env
