"""Checkpoints from strangers: nothing in them runs, no name leads out of the folder, and memory stays in bounds."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

import mbrl_wrappers
from mbrl_wrappers import TransitionStore
from mbrl_wrappers.storage import file_format
from mbrl_wrappers.storage.checkpoint import load_starts, read_manifest
from mbrl_wrappers.storage.file_format import CheckpointError
from mbrl_wrappers.storage.ring_shards import ColumnRecord, FileRecord, RingRecord, record_of
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from mbrl_wrappers.storage.run_manifest import RunManifest, manifest_bytes, read_run_manifest
from mbrl_wrappers.storage.state_file import read_state, write_state
from tests.memory import MEBIBYTE, largest_memory, little_memory
from tests.storage.run_folders import CountingRing, run_state


class Songbird:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is not waited for."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with two rings of one shard each."""
    ring = CountingRing(10)
    ring.add(4)
    return RunCheckpoints(tmp_path / "run").save(1, run_state(1, ring))


def signed(checkpoint: Path, **fields: Any) -> None:
    """Write the manifest anew with other fields and an honest hash, as a stranger can."""
    manifest = dataclasses.replace(read_run_manifest(checkpoint), **fields)
    (checkpoint / "manifest.json").write_bytes(manifest_bytes(manifest))


def refused(checkpoint: Path, message: str = ".", limit: int = 8 * MEBIBYTE) -> None:
    """The checkpoint is refused in a sentence, with little memory."""
    before = largest_memory()
    with little_memory(limit), pytest.raises(CheckpointError, match=message) as error:
        RunCheckpoints(checkpoint.parent).load(1)
    assert largest_memory() - before < 64 * MEBIBYTE
    assert len(str(error.value)) < 1500


def pickles(song: Path) -> list[bytes]:
    """The canary as a pickle, as a torch file, and as a numpy array of objects."""
    torch_file, array = io.BytesIO(), io.BytesIO()
    th.save(Songbird(song), torch_file)
    np.save(array, np.array([Songbird(song)], dtype=object), allow_pickle=True)
    return [pickle.dumps(Songbird(song)), torch_file.getvalue(), array.getvalue()]


def with_ring(checkpoint: Path, **fields: Any) -> RunManifest:
    manifest = read_run_manifest(checkpoint)
    signed(checkpoint, rings=(dataclasses.replace(manifest.rings[0], **fields), *manifest.rings[1:]))
    return manifest


def test_pickles_are_run_by_no_reader(checkpoint: Path, tmp_path: Path) -> None:
    """Model files, stores, states; the manifest, the state and the shards of a checkpoint, their hashes honest."""
    song = tmp_path / "song"
    path = tmp_path / "file.safetensors"
    for content in pickles(song):
        path.write_bytes(content)
        for reader in (mbrl_wrappers.load, load_starts, read_manifest, TransitionStore.load, read_state):
            with pytest.raises(CheckpointError):
                reader(path)
        manifest = read_run_manifest(checkpoint)
        state, shard = checkpoint / "state.safetensors", checkpoint.parent / "shards" / manifest.shards[0].name
        intact = {file: file.read_bytes() for file in (checkpoint / "manifest.json", state, shard)}
        for file in intact:
            file.write_bytes(content)
            if file == state:
                signed(checkpoint, state=record_of(state))
            if file == shard:
                with_ring(checkpoint, shards=(record_of(shard),))
            refused(checkpoint)
            for name, old in intact.items():
                name.write_bytes(old)
    assert not song.exists()
    assert RunCheckpoints(checkpoint.parent).load(1) is not None
    pickle.loads(pickles(song)[0])
    assert song.exists(), "the canary itself works"


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.safetensors",
        "/etc/passwd",
        "..",
        "",
        "a" * 32,
        "A" * 32 + ".safetensors",
        "0" * 31 + "/.safetensors",
    ],
)
def test_names_that_lead_elsewhere_are_refused(checkpoint: Path, name: str) -> None:
    shard = read_run_manifest(checkpoint).rings[0].shards[0]
    secret = checkpoint.parent.parent / "secret.safetensors"
    secret.write_bytes((checkpoint.parent / "shards" / shard.name).read_bytes())
    with_ring(checkpoint, shards=(shard._replace(name=name),))
    refused(checkpoint, "a name that no shard has")


def test_the_state_has_one_name(checkpoint: Path) -> None:
    signed(checkpoint, state=read_run_manifest(checkpoint).state._replace(name="../../secret.safetensors"))
    refused(checkpoint, "the state is in state.safetensors")


def _moved(path: Path, to: Path) -> None:
    path.rename(to)
    path.symlink_to(to)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("part", ["state", "manifest", "shard", "shards", "checkpoint"])
def test_links_are_not_followed(checkpoint: Path, tmp_path: Path, part: str) -> None:
    """Each is the file it should be, only elsewhere."""
    shards = checkpoint.parent / "shards"
    path = {
        "state": checkpoint / "state.safetensors",
        "manifest": checkpoint / "manifest.json",
        "shard": shards / read_run_manifest(checkpoint).shards[0].name,
        "shards": shards,
        "checkpoint": checkpoint,
    }[part]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _moved(path, elsewhere / path.name)
    refused(checkpoint, "links are not followed")
    there = sorted(elsewhere.rglob("*"))
    if part == "shards":
        with pytest.raises(CheckpointError, match="links are not followed"):
            RunCheckpoints(checkpoint.parent).save(2, {})
    else:
        for step in range(2, 6):  # nor is anything removed at their other ends
            RunCheckpoints(checkpoint.parent, keep=2).save(step, {})
    assert sorted(elsewhere.rglob("*")) == there


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_a_pipe_is_not_waited_for(checkpoint: Path, name: str) -> None:
    _pipe(checkpoint / name)
    refused(checkpoint, "no plain file")


FILE = FileRecord("0" * 32 + ".safetensors", 2**40, "0" * 64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # Terabytes from a few bytes: rows without shards, rows wider than their shard, shards that are not so long.
        ({"written": 2**40, "capacity": 2**40}, "do not make up the ring"),
        ({"written": 2**40, "capacity": 2**40, "rows": 2**40}, "smaller than its slots"),
        ({"columns": {"rows": ColumnRecord("float64", (2**40,))}}, "smaller than its slots"),
        ({"columns": {"rows": ColumnRecord("float64", (2**50, 2**50))}}, "smaller than its slots"),
        ({"columns": {"rows": ColumnRecord("float64", (2**36,))}, "written": 1, "shards": (FILE,)}, "missing"),
        ({"columns": {"rows": ColumnRecord("float64", (0, 2**50)), "x": ColumnRecord("float64", (0,) * 70)}}, "dimens"),
        (
            {"columns": {"rows": ColumnRecord("float64", (0, 2**50))}, "written": 2**50, "rows": 2**50},
            "hold the slots|do not",
        ),
        ({"columns": {"rows": ColumnRecord("float64", (2**60,))}}, "no count"),
        ({"columns": {"rows": ColumnRecord("object", (3,))}}, "unknown dtype"),
        ({"written": -1}, "no count"),
        ({"rows": 0}, "do not make up the ring"),
        ({"written": 9, "rows": 3, "capacity": 9, "shards": (FILE,) * 3}, "named twice|smaller"),
        ({"place": ()}, "a place is a list of keys"),
        ({"place": ("agent", "weights")}, "does not hold the slots 0 to 3"),
        ({"columns": {"rows": ColumnRecord("float32", (3,))}}, "does not hold the slots 0 to 3"),
    ],
)
def test_a_manifest_cannot_ask_for_more_than_there_is(checkpoint: Path, fields: dict[str, Any], message: str) -> None:
    with_ring(checkpoint, **fields)
    refused(checkpoint, message)


def _shared(manifest: RunManifest) -> tuple[RingRecord, ...]:
    """Two rings that take the same file, which would make memory of any size from one shard."""
    return tuple(dataclasses.replace(ring, shards=manifest.rings[0].shards) for ring in manifest.rings)


def test_a_shard_stands_for_one_ring_only(checkpoint: Path) -> None:
    signed(checkpoint, rings=_shared(read_run_manifest(checkpoint)))
    refused(checkpoint, "named twice")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"[" * 2**20),
        lambda path: path.write_text('{"content": ' + '{"a":' * 10_000 + "1" + "}" * 10_000 + ', "sha256": ""}'),
        lambda path: path.write_text('{"content": [], "sha256": ""}'),
        lambda path: path.write_text('{"content": {"step": 1' + "0" * 10_000 + "}}"),
        lambda path: path.write_text('{"content": {"step": NaN}}'),
        lambda path: path.write_text("[]"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: os.truncate(path, 2**40),
    ],
)
def test_a_manifest_that_is_none_is_refused(checkpoint: Path, write: Callable[[Path], object]) -> None:
    write(checkpoint / "manifest.json")
    refused(checkpoint, limit=32 * MEBIBYTE)


@pytest.mark.parametrize(
    "fields",
    [
        {"format_version": 0},
        {"format_version": "1"},
        {"format_version": True},
        {"about": []},
        {"versions": []},
        {"versions": {"torch": 1}},
        {"versions": {"torch": "1" * 101}},
        {"created": 1},
        {"state": None},
        {"state": {"name": "state.safetensors", "bytes": -1, "sha256": "0" * 64}},
        {"state": {"name": "state.safetensors", "bytes": 1, "sha256": "0"}},
        {"rings": [None]},
        {"rings": {}},
        {"step": 2},
        {"number": "1"},
    ],
)
def test_a_manifest_of_other_types_is_refused(checkpoint: Path, fields: dict[str, Any]) -> None:
    from mbrl_wrappers.storage import run_manifest

    path = checkpoint / "manifest.json"
    content = json.loads(path.read_text())["content"]
    path.write_bytes(run_manifest._text({**content, **fields}))
    refused(checkpoint)


@pytest.mark.parametrize(
    "state",
    [{}, {"replay": {"real": 1}, "parts": [{"ring": None}, 1]}, {"replay": [], "parts": []}, {"replay": "x"}],
)
def test_a_state_without_a_place_for_the_ring_is_refused(checkpoint: Path, state: dict[str, Any]) -> None:
    write_state(checkpoint / "state.safetensors", state)
    signed(checkpoint, state=record_of(checkpoint / "state.safetensors"))
    refused(checkpoint, "its state has no ring at")


def test_a_state_with_headers_of_terabytes_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "state.safetensors"
    entry = {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}
    head = json.dumps({"weights": entry}).encode()
    for content in (len(head).to_bytes(8, "little") + head, (1 << 62).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        signed(checkpoint, state=record_of(path))
        refused(checkpoint, "corrupt")
    assert file_format.MAX_FILE_BYTES < 2**42
