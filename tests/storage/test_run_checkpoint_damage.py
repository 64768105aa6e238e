"""Damage to a checkpoint is found wherever it is, and the checkpoint before it stands in."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbrl_wrappers.storage import ring_shards
from mbrl_wrappers.storage.file_format import CheckpointError
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints, check_checkpoint, checkpoint_folders
from mbrl_wrappers.storage.run_manifest import read_run_manifest
from tests.storage.run_folders import CountingRing, plain, run_state


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is not waited for."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints, of steps 10, 20 and 30, each with two rings of several shards."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    ring = CountingRing(40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_shards, "MAX_ROWS", 8)
        checkpoints = RunCheckpoints(folder)
        for step in (10, 20, 30):
            ring.add(10)
            checkpoints.save(step, run_state(step, ring), about={"step": step})
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def truth(step: int) -> Any:
    ring = CountingRing(40)
    ring.add(step)
    return plain(run_state(step, ring))


def files_of(checkpoint: Path) -> list[Path]:
    """Every file of a checkpoint."""
    shards = read_run_manifest(checkpoint).shards
    folder = checkpoint.parent / "shards"
    return [checkpoint / "manifest.json", checkpoint / "state.safetensors", *(folder / shard.name for shard in shards)]


@contextmanager
def damaged(files: list[Path], rng: np.random.Generator) -> Iterator[str]:
    """One file with another byte, cut off, or exchanged with another of the checkpoint."""
    path, other = (files[number] for number in rng.choice(len(files), 2, replace=False))
    contents = path.read_bytes(), other.read_bytes()
    kind = ("byte", "truncation", "swap")[rng.integers(3)]
    if kind == "byte":
        changed = bytearray(contents[0])
        changed[rng.integers(len(changed))] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
    elif kind == "truncation":
        path.write_bytes(contents[0][: rng.integers(len(contents[0]))])
    else:
        path.write_bytes(contents[1])
        other.write_bytes(contents[0])
    try:
        yield f"{kind} of {path.name}"
    finally:
        path.write_bytes(contents[0])
        other.write_bytes(contents[1])


def every_damage_is_found(folder: Path, times: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    newest = checkpoint_folders(folder)[-1]
    files = files_of(newest)
    for _ in range(times):
        with damaged(files, rng) as what:
            with pytest.raises(CheckpointError, match=r"(truncated|corrupt|belongs to)[^\n]*\."):
                RunCheckpoints(folder).load(30)
            with pytest.warns(UserWarning, match=f"newer ones are damaged: {re.escape(str(folder))}") as warned:
                found = RunCheckpoints(folder).load()
            assert found is not None, what
            assert (found.step, plain(found.state)) == (20, truth(20)), what
            assert len(warned) == 1, what
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = RunCheckpoints(folder).load()
    assert found is not None
    assert (found.step, plain(found.state)) == (30, truth(30))


def test_any_damage_is_found_and_the_previous_checkpoint_loads(folder: Path) -> None:
    every_damage_is_found(folder, 60, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_damages_are_found_and_the_previous_checkpoint_loads(folder: Path) -> None:
    every_damage_is_found(folder, 1000, seed=1)


def test_any_other_byte_in_a_manifest_is_found(folder: Path) -> None:
    checkpoint = checkpoint_folders(folder)[-1]
    path, rng = checkpoint / "manifest.json", np.random.default_rng(0)
    original = path.read_bytes()
    for position in range(0, len(original), 7):
        changed = bytearray(original)
        changed[position] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            read_run_manifest(checkpoint)
    for content in (original + b"\n", original.replace(b" ", b"\t", 1), original.replace(b'": 3', b'": 3.0', 1)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="SHA-256 differs"):
            read_run_manifest(checkpoint)


def _exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


DISORDERS: dict[str, Callable[[list[Path]], object]] = {
    "files of two checkpoints exchanged": lambda c: _exchange(c[2] / "state.safetensors", c[1] / "state.safetensors"),
    "manifests of two checkpoints exchanged": lambda c: _exchange(c[2] / "manifest.json", c[1] / "manifest.json"),
    "folders of two checkpoints exchanged": lambda c: _exchange(c[2], c[1]),
    "two checkpoints damaged": lambda c: [(path / "manifest.json").unlink() for path in c[1:]],
    "checkpoints that are files": lambda c: [(shutil.rmtree(path), path.touch()) for path in c[1:]],
    "manifests that are folders": lambda c: [
        ((path / "manifest.json").unlink(), (path / "manifest.json").mkdir()) for path in c[1:]
    ],
}


@pytest.mark.parametrize("disorder", DISORDERS)
def test_the_oldest_stands_in_for_two(folder: Path, disorder: str) -> None:
    DISORDERS[disorder](checkpoint_folders(folder))
    with pytest.warns(UserWarning, match="newer ones are damaged"):
        found = RunCheckpoints(folder).load()
    assert found is not None
    assert plain(found.state) == truth(10)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(folder: Path) -> None:
    for path in checkpoint_folders(folder):
        (path / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"No checkpoint in .*run is whole: .* is missing\. .* new folder"):
        RunCheckpoints(folder).load()


def test_damaged_ones_do_not_take_the_place_of_whole_ones(folder: Path) -> None:
    """Of the two last, both damaged, nothing is kept once there is a new one."""
    for path in checkpoint_folders(folder)[1:]:
        (path / "state.safetensors").write_bytes(b"")
    checkpoints = RunCheckpoints(folder, keep=2)
    with pytest.warns(UserWarning, match="damaged"):
        checkpoints.load()
    checkpoints.save(11, {"step": 11})
    assert checkpoints.steps() == [10, 11]


def test_a_shard_that_vanished_is_written_again(folder: Path) -> None:
    checkpoints = RunCheckpoints(folder)
    assert checkpoints.load() is not None
    ring = CountingRing(40)
    ring.add(30)
    checkpoints.save(31, run_state(31, ring))
    for path in files_of(checkpoint_folders(folder)[1])[2:]:
        path.unlink()
    checkpoints.save(32, run_state(32, ring))
    found = RunCheckpoints(folder).load()
    assert found is not None
    assert (found.step, plain(found.state)["replay"]) == (32, plain(run_state(32, ring))["replay"])


def test_a_check_builds_nothing_and_finds_the_same(folder: Path) -> None:
    for path, step in zip(checkpoint_folders(folder), (10, 20, 30), strict=True):
        assert check_checkpoint(path).step == step
    shard = files_of(path)[-1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=f"{shard.name} is corrupt: its SHA-256"):
        check_checkpoint(path)
