"""A full disk, a folder without rights, a file in its place: a sentence says so, and what was saved stays."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from mbrl_wrappers.states import Ring
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from tests.storage.run_folders import CountingRing, files_below, plain, run_state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 1 and 2."""
    ring = CountingRing(10)
    for step in (1, 2):
        ring.add(4)
        RunCheckpoints(tmp_path / "run").save(step, run_state(step, ring))
    return tmp_path / "run"


def save(checkpoints: RunCheckpoints, step: int) -> None:
    ring = CountingRing(10)
    ring.add(4 * step)
    checkpoints.save(step, run_state(step, ring))


@pytest.mark.parametrize("call", [0, 1, 2, 3, 5, 7])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fills_up_costs_no_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: int, code: int
) -> None:
    """The disk refuses from some write on; with room again the run saves as if nothing had happened."""
    before = {path: path.read_bytes() for path in files_below(folder)}
    real, calls = os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > call:
            raise OSError(code, os.strerror(code))
        real(handle)

    checkpoints = RunCheckpoints(folder)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=rf"step 3 was not written to .*{os.strerror(code)}.* step 2 is as it was"
    ) as error:
        save(checkpoints, 3)
    assert error.value.errno == code
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in files_below(folder)} == before
    save(checkpoints, 3)
    found = RunCheckpoints(folder).load()
    assert found is not None
    ring = CountingRing(10)
    ring.add(12)
    assert plain(found.state) == plain(run_state(3, ring))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_previous_checkpoint(small_disk: Path) -> None:
    checkpoints = RunCheckpoints(small_disk)
    for step in (1, 2):
        checkpoints.save(step, {"weights": np.full(2**14, float(step))})
    for _ in range(2):
        with pytest.raises(OSError, match="No space left on device") as error:
            checkpoints.save(3, {"replay": Ring({"rows": np.zeros((2**14, 16))}, 2**14, 2**14)})
        assert error.value.errno == errno.ENOSPC
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(3, {"weights": np.full(2**14, 3.0)})  # nothing half-written takes the room
    found = checkpoints.load()
    assert found is not None
    assert found.state["weights"][0] == 3


def without_rights(folder: Path, report: Connection) -> None:
    """Load and save as a user who may do anything with no file."""
    if os.geteuid() == 0:  # who may write anywhere
        os.setgid(65534)
        os.setuid(65534)
    checkpoints = RunCheckpoints(folder)
    found = checkpoints.load()
    report.send(found and found.step)
    try:
        checkpoints.save(3, {})
    except PermissionError as error:
        report.send(str(error))


def test_a_read_only_folder_is_named_and_can_still_be_loaded(folder: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    mine, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as top:  # pytest's own folders are closed to other users
        Path(top).chmod(0o755)
        copy = Path(shutil.copytree(folder, Path(top) / "run"))
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        child = context.Process(target=without_rights, args=(copy, theirs))
        child.start()
        theirs.close()
        step, said = mine.recv(), mine.recv()
        child.join()
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)
    mine.close()
    assert step == 2
    assert f"The folder {copy} cannot be written to (Permission denied): give one that this user may write to" in said


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="is a file: name a folder|cannot be written to"):
            RunCheckpoints(path).save(1, {})
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_taken_away_meanwhile_is_made_anew(folder: Path) -> None:
    checkpoints = RunCheckpoints(folder)
    checkpoints.load()
    shutil.rmtree(folder)
    save(checkpoints, 3)
    found = checkpoints.load()
    assert found is not None
    assert found.step == 3
