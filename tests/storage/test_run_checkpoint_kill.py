"""A process that dies while it saves leaves a folder that loads a whole checkpoint, no older than the last finished."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbrl_wrappers.storage import ring_shards
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints, checkpoint_folders
from mbrl_wrappers.storage.run_manifest import read_run_manifest
from tests.storage.run_folders import CountingRing, files_below, plain, run_state

CAPACITY = 40
ROWS_PER_STEP = 3
CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "open", "close")


def state_at(step: int) -> dict[str, Any]:
    ring = CountingRing(CAPACITY)
    ring.add(step * ROWS_PER_STEP)
    return run_state(step, ring)


def save_forever(folder: Path, report: Connection) -> None:
    """Resume, and save step after step, telling of each that is finished."""
    ring_shards.MAX_ROWS = 8
    checkpoints = RunCheckpoints(folder)
    found = checkpoints.load()
    step = 0 if found is None else found.step
    report.send(step)
    with checkpoints.lock():
        while True:
            step += 1
            checkpoints.save(step, state_at(step))
            report.send(step)


def save_and_die(folder: Path, step: int, calls: int) -> None:
    """Save, and die at the system call of a number; exit with 3 if there are fewer."""
    ring_shards.MAX_ROWS = 8
    checkpoints = RunCheckpoints(folder)
    assert checkpoints.load() is not None
    left = [calls]

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    checkpoints.save(step, state_at(step))
    os._exit(3)


@pytest.fixture(scope="module")
def context() -> Any:
    """Processes that start in milliseconds, forked from one that has imported torch and started no thread."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.storage.test_run_checkpoint_kill"])
    return server


def is_clean(folder: Path) -> bool:
    """Whether every file belongs to a checkpoint."""
    paths = checkpoint_folders(folder)
    named = {shard.name for path in paths for shard in read_run_manifest(path).shards}
    found = {path.name for path in files_below(folder)} - {"manifest.json", "state.safetensors"}
    return found == named and not list(folder.glob(".*"))


def killed_at_random_instants(folder: Path, context: Any, times: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    finished = 0
    for _ in range(times):
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=save_forever, args=(folder, theirs))
        child.start()
        theirs.close()
        assert mine.recv() >= finished  # the child resumed from no older one than we know of
        for _ in range(rng.integers(3)):
            finished = mine.recv()
        time.sleep(rng.uniform(0, 0.1))
        child.kill()
        child.join()
        try:
            while True:
                finished = mine.recv()
        except EOFError:
            mine.close()
        found = RunCheckpoints(folder).load()
        if found is None:
            assert finished == 0
            continue
        assert found.step in (finished, finished + 1)  # it may have died between renaming and telling
        assert plain(found.state) == plain(state_at(found.step))
        finished = found.step
    assert finished > 0
    RunCheckpoints(folder).save(finished + 1, state_at(finished + 1))
    assert is_clean(folder)


def test_a_kill_at_a_random_instant_leaves_a_whole_checkpoint(tmp_path: Path, context: Any) -> None:
    killed_at_random_instants(tmp_path, context, times=3, seed=0)


@pytest.mark.slow
def test_many_kills_leave_a_whole_checkpoint_each(tmp_path: Path, context: Any) -> None:
    killed_at_random_instants(tmp_path, context, times=40, seed=1)


def killed_at_calls(folder: Path, context: Any, calls: Iterator[int]) -> int:
    """How many of ``calls`` killed the child before it was done."""
    ring_shards_rows = ring_shards.MAX_ROWS
    ring_shards.MAX_ROWS = 8
    try:
        checkpoints = RunCheckpoints(folder)
        for step in range(1, 4):
            checkpoints.save(step, state_at(step))
    finally:
        ring_shards.MAX_ROWS = ring_shards_rows
    last, deaths = 3, 0
    for number in calls:
        child = context.Process(target=save_and_die, args=(folder, last + 1, number))
        child.start()
        child.join()
        found = RunCheckpoints(folder).load()
        assert found is not None
        assert found.step in (last, last + 1)
        assert plain(found.state) == plain(state_at(found.step))
        last = found.step
        if child.exitcode == 3:
            assert is_clean(folder)
            break
        assert child.exitcode == 9
        deaths += 1
    return deaths


def test_a_death_at_a_system_call_leaves_a_whole_checkpoint(tmp_path: Path, context: Any) -> None:
    assert killed_at_calls(tmp_path, context, iter(range(0, 60, 6))) >= 5


@pytest.mark.slow
def test_a_death_at_every_system_call_leaves_a_whole_checkpoint(tmp_path: Path, context: Any) -> None:
    deaths = killed_at_calls(tmp_path, context, iter(range(10_000)))
    assert 50 <= deaths < 10_000
