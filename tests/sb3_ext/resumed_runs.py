"""Runs that are killed in the middle and resumed, held against one that was not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger

from mbrl_wrappers.states import Ring
from sb3_ext import DynaConfig, RunCheckpoint
from sb3_ext.callback_states import every_callback
from sb3_ext.run_state import run_state

RARE = DynaConfig(
    model_train_freq=60,
    rollout_freq=30,
    rollouts_per_step=3,
    retain_steps=60,
    min_real_rows=40,
    first_fit_gradient_steps=10,
)
TIMES = ("/t", "seconds", "t_start", "episode_times", "time/", "/files/")
NOBODYS_STREAM = "/observation_space/streams/"
"""SBX builds its networks with an observation that it draws without a seed; nobody draws one after that."""


class Kill(BaseException):
    """Ends ``learn()`` as a kill does, without a word to any callback."""


class KillAt(BaseCallback):
    """Kills the run at a real step."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            raise Kill
        return True


class Rows(KVWriter):
    """Keeps the rows of a log, times left out."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.rows.append((step, {key: value for key, value in key_values.items() if not _is_time(key)}))

    def close(self) -> None: ...


class Built(NamedTuple):
    """An agent and the callbacks of its run."""

    agent: BaseAlgorithm
    callbacks: list[BaseCallback]


class Ended(NamedTuple):
    """What a run came to."""

    state: dict[str, Any]
    rows: list[tuple[int, dict[str, Any]]]
    restored_to: list[int]


def run(
    folder: Path, build: Callable[[], Built], steps: int, kills: Sequence[int] = (), every: int = 50, **learn: Any
) -> Ended:
    """Take ``steps`` with what ``build`` makes, killed at each of ``kills`` and built and resumed anew after it."""
    rows: list[tuple[int, dict[str, Any]]] = []
    restored = []
    for kill in (*kills, math.inf):
        agent, callbacks = build()
        log = Rows()
        agent.set_logger(Logger(None, [log]))
        checkpoint = RunCheckpoint(folder, every=every)
        whole = [*callbacks, checkpoint, KillAt(kill)]
        done = checkpoint.restore(agent, whole)
        restored.append(done)
        rows = [row for row in rows if row[0] <= done]
        try:
            agent.learn(steps - done, callback=whole, reset_num_timesteps=not done, **{"log_interval": 1, **learn})
        except Kill:
            checkpoint.release()
        rows += log.rows
        if agent.env is not None and kill != math.inf:
            agent.env.close()
    return Ended(run_state(agent, every_callback(callbacks), 0), rows, restored)


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two states differ, times left out."""
    if _is_time(place) or NOBODYS_STREAM in place:
        return
    if isinstance(one, Ring):
        one, other = one.columns, other.columns
    if isinstance(one, dict):
        if set(one) != set(other):
            yield f"{place}: {sorted(set(one) ^ set(other))}"
        for key in set(one) & set(other):
            yield from differences(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{place}/{number}")
    elif isinstance(one, th.Tensor | np.ndarray):
        if not np.array_equal(np.asarray(one), np.asarray(other), equal_nan=one.dtype not in (bool, th.bool)):
            yield place
    elif one != other and not (one != one and other != other):  # NaN is as good as NaN
        yield f"{place}: {one!r} and {other!r}"


def _is_time(name: str) -> bool:
    return any(name.endswith(time) if time == "/t" else time in name for time in TIMES)
