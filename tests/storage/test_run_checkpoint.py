"""Run checkpoints: what comes back, what is written again, what is kept, and what is said of other versions."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from mbrl_wrappers.states import Ring
from mbrl_wrappers.storage import ring_shards, run_manifest
from mbrl_wrappers.storage.file_format import CheckpointError
from mbrl_wrappers.storage.folder_lock import FolderInUse
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints, checkpoint_folders
from mbrl_wrappers.storage.run_manifest import NewerFormat, read_run_manifest
from tests.storage.run_folders import CountingRing, files_below, plain, run_state

ROWS = 8


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 8 slots, in place of thousands, and a disk that is not waited for."""
    monkeypatch.setattr(ring_shards, "MAX_ROWS", ROWS)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def shards_of(folder: Path) -> list[list[str]]:
    """The shard names of the first ring of each checkpoint, from the oldest to the newest."""
    return [[shard.name for shard in read_run_manifest(path).rings[0].shards] for path in checkpoint_folders(folder)]


def rewritten(folder: Path) -> list[int]:
    """Which shards of the newest checkpoint are not those of the one before the last."""
    *_, old, _, new = shards_of(folder)
    return [number for number, name in enumerate(new) if number >= len(old) or name != old[number]]


def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    ring = CountingRing(20)
    checkpoints = RunCheckpoints(tmp_path / "run")
    assert checkpoints.load() is None
    assert checkpoints.steps() == []
    for step in (5, 19, 50):
        ring.add(step - ring.written)
        state = run_state(step, ring)
        path = checkpoints.save(step, state, about={"task": "Hopper-v5", "step": step})
        found = RunCheckpoints(tmp_path / "run").load()
        assert found is not None
        assert plain(found.state) == plain(state)
        assert (found.step, found.about, found.path) == (step, {"task": "Hopper-v5", "step": step}, path)
        assert found.versions["torch"] == th.__version__
    assert checkpoints.steps() == [5, 19, 50]
    again = RunCheckpoints(tmp_path / "run").load(19)
    assert again is not None
    assert again.state["replay"]["real"].columns["numbers"].tolist() == list(range(19))


@pytest.mark.parametrize(
    "column",
    [
        np.zeros((4, 0), dtype=np.float64),
        np.arange(4, dtype=np.uint8),
        np.array([True, False, True, True]),
        np.arange(24.0).reshape(4, 2, 3)[:, ::-1],
        np.arange(8.0).reshape(2, 4).T,
    ],
)
def test_columns_of_every_kind_come_back(tmp_path: Path, column: Any) -> None:
    checkpoints = RunCheckpoints(tmp_path)
    checkpoints.save(1, {"ring": Ring({"column": column}, 4, 9), "empty": Ring({"column": column[:0]}, 0, 9)})
    found = checkpoints.load()
    assert found is not None
    for name, rows in (("ring", column), ("empty", column[:0])):
        back = found.state[name].columns["column"]
        assert (back.dtype, back.shape) == (rows.dtype, rows.shape)
        np.testing.assert_array_equal(back, rows)
        back += back  # and may be written to


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        (np.array(["a", "b"]), TypeError, "ring/column is of type <U1"),
        ([1, 2], TypeError, "ring/column is of type list"),
        (np.zeros(3), ValueError, r"shape \(3,\), and 2 slots are filled"),
        (np.array(1.0), ValueError, r"shape \(\)"),
    ],
)
def test_columns_that_are_none_are_refused(tmp_path: Path, column: Any, error: type[Exception], message: str) -> None:
    checkpoints = RunCheckpoints(tmp_path)
    checkpoints.save(1, {"ring": Ring({"column": np.zeros(2)}, 2, 9)})
    before = files_below(tmp_path)
    with pytest.raises(error, match=message):
        checkpoints.save(2, {"ring": Ring({"column": column}, 2, 9)})
    assert files_below(tmp_path) == before


def test_only_shards_with_new_slots_are_written(tmp_path: Path) -> None:
    """Capacity 40 in shards of 8: which are new follows from the slots written since the save before the last."""
    ring, checkpoints, written = CountingRing(40), RunCheckpoints(tmp_path, keep=99), []

    def save(count: int) -> list[int]:
        ring.add(count)
        checkpoints.save(len(written), run_state(ring.written, ring))
        written.append(ring.written)
        return rewritten(tmp_path) if len(written) > 2 else []

    save(10), save(0)
    assert save(0) == []
    assert save(3) == [1]  # slots 10 to 12
    assert save(2) == [1]  # 10 to 14 since the save before the last
    assert save(2) == [1, 2]  # 13 to 16
    assert save(20) == [1, 2, 3, 4]  # 15 to 36
    assert save(7) == [0, 2, 3, 4]  # 17 to 43: the ring is full and slots 0 to 3 are new
    assert save(1) == [0, 4]  # 37 to 44
    assert save(39) == [0, 1, 2, 3, 4]
    assert save(0) == [0, 1, 2, 3, 4]
    assert save(0) == []
    for step, count in enumerate(written):
        found = checkpoints.load(step)
        assert found is not None
        assert sorted(found.state["replay"]["real"].columns["numbers"]) == list(range(max(0, count - 40), count))


@pytest.mark.parametrize("seed", range(4))
def test_no_new_slot_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Rings and shards of any size; which slots are new is known from the counts alone, not from rows that differ."""
    monkeypatch.setattr(ring_shards, "_sample", lambda *args: "same")
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(ring_shards, "MAX_ROWS", int(rng.integers(1, 7)))
    ring, checkpoints = CountingRing(int(rng.integers(1, 25))), RunCheckpoints(tmp_path)
    for step in range(15):
        ring.add(int(rng.choice([0, 1, 2, 5, rng.integers(30)])))
        checkpoints.save(step, run_state(step, ring))
        found = RunCheckpoints(tmp_path).load()
        assert found is not None
        assert plain(found.state) == plain(run_state(step, ring))


def test_two_checkpoints_in_a_row_share_no_file(tmp_path: Path) -> None:
    ring, checkpoints = CountingRing(40), RunCheckpoints(tmp_path)
    for _ in range(6):
        ring.add(9)
        checkpoints.save(ring.written, run_state(ring.written, ring))
        names = shards_of(tmp_path)
        assert not any(set(one) & set(other) for one, other in itertools.pairwise(names))
    assert set(names[0]) & set(names[2])


def test_a_resumed_run_writes_only_new_slots_from_its_second_save_on(tmp_path: Path) -> None:
    ring, checkpoints = CountingRing(40), RunCheckpoints(tmp_path)
    for count in (30, 1):
        ring.add(count)
        checkpoints.save(ring.written, run_state(ring.written, ring))
    resumed = RunCheckpoints(tmp_path)
    assert resumed.load() is not None
    for count in (1, 1):
        ring.add(count)
        resumed.save(ring.written, run_state(ring.written, ring))
    assert rewritten(tmp_path) == [3, 4]  # 31 and 32


def test_rows_of_another_run_are_never_taken_over(tmp_path: Path) -> None:
    """The same folder, capacity and count, but other numbers in the slots."""
    for change in ({"offset": 7}, {"capacity": 41}):
        checkpoints = RunCheckpoints(tmp_path / str(change))
        ring = CountingRing(40)
        ring.add(30)
        for step in range(2):
            checkpoints.save(step, run_state(30, ring))
        other = CountingRing(**{"capacity": 40, **change})
        other.add(32)
        checkpoints.save(32, run_state(32, other))
        found = checkpoints.load()
        assert found is not None
        assert plain(found.state) == plain(run_state(32, other))


def test_the_last_ones_are_kept_and_unneeded_shards_removed(tmp_path: Path) -> None:
    ring, checkpoints = CountingRing(40), RunCheckpoints(tmp_path, keep=2)
    for step in range(1, 9):
        ring.add(3)
        checkpoints.save(step, run_state(step, ring))
    assert checkpoints.steps() == [7, 8]
    named = {shard.name for path in checkpoint_folders(tmp_path) for shard in read_run_manifest(path).shards}
    assert {path.name for path in (tmp_path / "shards").iterdir()} == named
    assert {path.name for path in tmp_path.iterdir()} == {
        "lock",
        "shards",
        *(path.name for path in checkpoint_folders(tmp_path)),
    }


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    for name in ("shards/mine.txt", "notes.txt", "shards/folder/mine.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    checkpoints = RunCheckpoints(tmp_path, keep=2)
    for step in range(4):
        checkpoints.save(step, {"step": step})
    assert sum(path.read_text() == "mine" for path in files_below(tmp_path) if path.suffix == ".txt") == 2


def test_a_run_that_is_taken_back_goes_on_from_there(tmp_path: Path) -> None:
    ring, checkpoints = CountingRing(40), RunCheckpoints(tmp_path)
    for step in (10, 20, 30):
        checkpoints.save(step, run_state(step, ring))
    checkpoints.load(10)
    checkpoints.save(15, run_state(15, ring))
    assert checkpoints.steps() == [20, 30, 15]
    found = RunCheckpoints(tmp_path).load()
    assert found is not None
    assert found.step == 15
    checkpoints.save(15, {"again": True})
    assert checkpoints.steps() == [20, 30, 15]
    found = checkpoints.load(15)
    assert found is not None
    assert found.state == {"again": True}


def test_a_step_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    checkpoints = RunCheckpoints(tmp_path)
    checkpoints.save(3, {})
    with pytest.raises(CheckpointError, match=r"no checkpoint at step 4; there are \[3\]"):
        checkpoints.load(4)


@pytest.mark.parametrize(("keep", "step"), [(1, 0), (2, -1)])
def test_wrong_numbers_are_refused(tmp_path: Path, keep: int, step: int) -> None:
    with pytest.raises(ValueError, match="must"):
        RunCheckpoints(tmp_path, keep=keep).save(step, {})


def test_what_a_run_says_of_itself_is_strict_json(tmp_path: Path) -> None:
    for about in ({"nan": float("nan")}, {"path": tmp_path}):
        with pytest.raises(TypeError, match="strict JSON"):
            RunCheckpoints(tmp_path).save(1, {}, about=about)
    assert files_below(tmp_path) == []


def test_a_newer_format_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = RunCheckpoints(tmp_path)
    checkpoints.save(1, {})
    monkeypatch.setattr(run_manifest, "FORMAT_VERSION", 2)
    checkpoints.save(2, {})
    monkeypatch.undo()
    before = files_below(tmp_path)
    for action in (checkpoints.load, lambda: checkpoints.save(3, {})):
        with pytest.raises(NewerFormat, match=r"step-2 has format version 2, written by mbrl-wrappers \S+; .*Upgrade"):
            action()
    assert files_below(tmp_path) == before
    found = checkpoints.load(1)
    assert found is not None


@pytest.mark.parametrize("library", ["mujoco", "gymnasium", "torch", "python"])
def test_other_versions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    checkpoints = RunCheckpoints(tmp_path)
    real = run_manifest.library_versions()
    from mbrl_wrappers.storage import run_checkpoint

    monkeypatch.setattr(run_checkpoint, "library_versions", lambda: {**real, library: "0.0.1", "gone": "1"})
    checkpoints.save(1, {"a": 1})
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="not bit for bit") as warned:
        found = checkpoints.load()
    assert found is not None
    assert found.versions[library] == "0.0.1"
    (warning,) = warned
    assert f"{library} 0.0.1 (now {real[library]})" in str(warning.message)
    assert "gone 1 (now not installed)" in str(warning.message)
    assert warning.filename == __file__


HOLD = """
import sys, time
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
with RunCheckpoints(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_a_dead_one_is_not_waited_for(tmp_path: Path) -> None:
    """Two runs in one folder: the second hears which process has it; after a SIGKILL the folder is free."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    checkpoints = RunCheckpoints(tmp_path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for action in (lambda: checkpoints.lock().__enter__(), lambda: checkpoints.save(1, {})):
            with pytest.raises(FolderInUse, match=f"in use by process {holder.pid}: .*another folder"):
                action()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]
    with checkpoints.lock():
        checkpoints.save(1, {})
    assert checkpoints.steps() == [1]


def test_a_second_writer_in_this_process_is_refused(tmp_path: Path) -> None:
    with (
        RunCheckpoints(tmp_path).lock(),
        pytest.raises(FolderInUse, match=f"process {os.getpid()}, this one"),
        RunCheckpoints(tmp_path / "x" / "..").lock(),
    ):
        pass
    with RunCheckpoints(tmp_path).lock():  # and is free again
        pass


def test_a_manifest_is_text_for_people(tmp_path: Path) -> None:
    path = RunCheckpoints(tmp_path).save(12, {"a": 1}, about={"task": "Hopper-v5"})
    content = json.loads((path / "manifest.json").read_text())["content"]
    assert (content["step"], content["about"], content["number"]) == (12, {"task": "Hopper-v5"}, 1)
    assert re.fullmatch(r"\d{8}-step-12", path.name)
