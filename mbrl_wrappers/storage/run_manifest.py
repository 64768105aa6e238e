"""The manifest of a run checkpoint: which files it has, and what each must be.

The text of a manifest follows from its content, and a hash of the content is part of it. Therefore any other byte
in the file is found, and a checkpoint that a manifest describes can be checked before memory is taken for it.
"""

from __future__ import annotations

import json
import platform
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mbrl_wrappers.storage.file_format import MAX_DIMENSIONS, CheckpointError, read_versions, sha256_of, strict_json
from mbrl_wrappers.storage.ring_shards import SHARD_NAME, ColumnRecord, FileRecord, Place, RingRecord
from mbrl_wrappers.storage.state_file import ARRAY_DTYPES

FORMAT = "mbrl-wrappers run checkpoint"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.safetensors"
MAX_BYTES = 16 * 2**20
MAX_COUNT = 2**53

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DTYPES = frozenset(dtype.name for dtype in ARRAY_DTYPES)
_LIBRARIES = (
    *("mbrl-wrappers", "gymnasium", "mujoco", "numpy", "torch", "stable-baselines3"),
    *("sb3-contrib", "sbx-rl", "jax", "flax", "optax"),
)


class NewerFormat(CheckpointError):
    """A run checkpoint that a newer version of the library wrote."""


@dataclass(frozen=True)
class RunManifest:
    """All that a run checkpoint says besides its numbers.

    Attributes:
        number: of the save in its folder, from 1; the highest is the newest.
        step: of the run.
        about: what the run says of itself, strict JSON.
        versions: of Python and the libraries.
        created: ISO 8601 date and time, UTC.
        state: the file with everything but the rings.
        rings: where the slots of each ring are.
    """

    number: int
    step: int
    about: dict[str, Any]
    versions: dict[str, str]
    created: str
    state: FileRecord
    rings: tuple[RingRecord, ...]

    @property
    def folder_name(self) -> str:
        """How the checkpoint's folder is called."""
        return f"{self.number:08d}-step-{self.step}"

    @property
    def shards(self) -> list[FileRecord]:
        """The shards of all rings."""
        return [shard for ring in self.rings for shard in ring.shards]


def library_versions() -> dict[str, str]:
    """The versions of Python and of each library that can change a number."""
    return {"python": platform.python_version(), **read_versions(*_LIBRARIES)}


def manifest_bytes(manifest: RunManifest) -> bytes:
    """The text of a manifest.

    Raises:
        TypeError: if ``about`` is not strict JSON.
        ValueError: if the text would be longer than one may be.
    """
    content = {
        **{key: value for key, value in asdict(manifest).items() if key not in ("state", "rings")},
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "state": manifest.state._asdict(),
        "rings": [_ring_json(ring) for ring in manifest.rings],
    }
    try:
        text = _text(content)
    except (TypeError, ValueError) as error:
        raise TypeError(f"What the checkpoint says about the run is not strict JSON: {error}.") from error
    if len(text) > MAX_BYTES:
        raise ValueError(f"The manifest would have {len(text):,} bytes: at most {MAX_BYTES:,} are read again.")
    return text


def read_run_manifest(folder: Path) -> RunManifest:
    """The manifest of the checkpoint in ``folder``; the files it names are not looked at.

    Raises:
        CheckpointError: if it is missing, damaged, or the manifest of another checkpoint.
        NewerFormat: if a newer version of the library wrote it.
    """
    path = folder / MANIFEST_FILE
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode) or not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(f"{path} is no plain file in a plain folder; links are not followed.")
        if path.lstat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path} is corrupt: it has more than {MAX_BYTES:,} bytes.")
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is missing.") from error
    try:
        content = strict_json(text)["content"]
        intact = isinstance(content, dict) and _text(content) == text
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated, corrupt or no manifest.") from error
    if not intact or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is corrupt: its SHA-256 differs from the one that it names.")
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        writer = content["versions"].get("mbrl-wrappers") if isinstance(content.get("versions"), dict) else None
        raise NewerFormat(
            f"{folder} has format version {version}, written by mbrl-wrappers {writer!s:.40}; this one reads "
            f"{FORMAT_VERSION}. Upgrade with: pip install -U mbrl-wrappers"
        )
    try:
        if type(version) is not int or version != FORMAT_VERSION:
            raise ValueError(f"{version!r:.40} is no format version")
        manifest = _parsed(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is corrupt: its values are not those of a manifest ({error}).") from error
    if manifest.folder_name != folder.name:
        raise CheckpointError(f"{path} belongs to {manifest.folder_name} and not to {folder.name}.")
    return manifest


def other_versions(manifest: RunManifest) -> list[str]:
    """What was installed in another version when the checkpoint was written, each as ``name then, now now``."""
    now = library_versions()
    return [
        f"{name} {then} (now {now.get(name, 'not installed')})"
        for name, then in sorted(manifest.versions.items())
        if now.get(name) != then
    ]


def _text(content: Mapping[str, Any]) -> bytes:
    inner = json.dumps(content, sort_keys=True, allow_nan=False)
    outer = {"content": content, "sha256": sha256_of(inner.encode())}
    return (json.dumps(outer, sort_keys=True, allow_nan=False, indent=1) + "\n").encode()


def _ring_json(ring: RingRecord) -> dict[str, Any]:
    return {
        "place": list(ring.place),
        "written": ring.written,
        "capacity": ring.capacity,
        "rows": ring.rows,
        "columns": {
            name: {"dtype": column.dtype, "shape": list(column.shape)} for name, column in ring.columns.items()
        },
        "shards": [shard._asdict() for shard in ring.shards],
    }


def _parsed(content: dict[str, Any]) -> RunManifest:
    versions, created = content["versions"], content["created"]
    if not isinstance(content["about"], dict) or not isinstance(content["rings"], list) or not isinstance(created, str):
        raise TypeError("about is a dictionary, rings a list and created a text")
    if len(versions) > 100 or any(not isinstance(text, str) or len(text) > 100 for text in versions.values()):
        raise TypeError("versions are short texts")
    state = _file(content["state"])
    if state.name != STATE_FILE:
        raise ValueError(f"the state is in {STATE_FILE}")
    rings = tuple(_ring(ring) for ring in content["rings"])
    manifest = RunManifest(
        _count(content["number"]), _count(content["step"]), content["about"], versions, created, state, rings
    )
    names = [shard.name for shard in manifest.shards]
    if any(not SHARD_NAME.fullmatch(name) for name in names):
        raise ValueError("a shard has a name that no shard has")
    if len(set(names)) != len(names):  # a few files named many times would take any amount of memory
        raise ValueError("a shard is named twice")
    return manifest


def _ring(ring: Any) -> RingRecord:
    columns = {
        name: ColumnRecord(column["dtype"], tuple(_count(number) for number in column["shape"]))
        for name, column in ring["columns"].items()
    }
    if any(column.dtype not in _DTYPES for column in columns.values()):
        raise ValueError("a column has an unknown dtype")
    if any(len(column.shape) >= MAX_DIMENSIONS for column in columns.values()):
        raise ValueError("a column has too many dimensions")
    record = RingRecord(
        _place(ring["place"]),
        _count(ring["written"]),
        _count(ring["capacity"]),
        _count(ring["rows"]),
        columns,
        tuple(_file(shard) for shard in ring["shards"]),
    )
    if record.rows < 1 or len(record.shards) != -(-record.filled // record.rows):
        raise ValueError("the shards do not make up the ring")
    row_bytes = sum(column.row_bytes for column in columns.values())
    for number, shard in enumerate(record.shards):
        if shard.bytes < row_bytes * min(record.rows, record.filled - number * record.rows):
            raise ValueError("a shard is smaller than its slots")
    return record


def _place(parts: Any) -> Place:
    if not isinstance(parts, list) or not parts or any(type(part) not in (str, int) for part in parts):
        raise TypeError("a place is a list of keys")
    return tuple(parts)


def _file(entry: Any) -> FileRecord:
    name, size, digest = entry["name"], _count(entry["bytes"]), entry["sha256"]
    if not isinstance(name, str) or not _SHA256.fullmatch(digest):
        raise TypeError("a file has a name and a SHA-256")
    return FileRecord(name, size, digest)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise TypeError(f"{value!r:.40} is no count")
    return value
