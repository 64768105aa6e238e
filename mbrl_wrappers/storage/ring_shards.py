"""Ring buffers as files of a few thousand slots, of which only those written to since are written again.

A shard is a model file with the columns of one chunk of slots. It is never changed once it is in place, so that several
checkpoints can name it. What a checkpoint costs follows from the slots written since, and not from those filled.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray

from mbrl_wrappers.states import Ring
from mbrl_wrappers.storage.file_format import CheckpointError, read, write
from mbrl_wrappers.storage.state_file import ARRAY_DTYPES

KIND = "ring-shard"
SHARD_BYTES = 4 * 2**20
MAX_ROWS = 4096
SHARD_NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
_BLOCK = 2**20

Place = tuple[str | int, ...]
"""Where a ring is in a state: the keys and list positions that lead to it."""


class FileRecord(NamedTuple):
    """What a checkpoint says of one file: its ``name``, size in ``bytes`` and the SHA-256 of all of it."""

    name: str
    bytes: int
    sha256: str


class ColumnRecord(NamedTuple):
    """The numpy ``dtype`` of a column by name and the ``shape`` of one of its rows."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class RingRecord:
    """Where the slots of one ring are.

    Attributes:
        place: of the ring in the state.
        written: slots written in the ring's life.
        capacity: slots of the full ring.
        rows: slots of a shard, the last one apart.
        columns: by name.
        shards: in the order of the slots.
    """

    place: Place
    written: int
    capacity: int
    rows: int
    columns: dict[str, ColumnRecord]
    shards: tuple[FileRecord, ...]

    @property
    def filled(self) -> int:
        """Slots that hold a row."""
        return min(self.written, self.capacity)

    def same_ring(self, other: RingRecord) -> bool:
        """Whether the slots of ``other`` are laid out alike."""
        return (self.capacity, self.rows, self.columns) == (other.capacity, other.rows, other.columns)


class StoredRing(NamedTuple):
    """A ring on disk: its ``record``, and a hash of three rows of each shard, to tell it from a ring of another run."""

    record: RingRecord
    samples: tuple[str, ...]


def write_ring(folder: Path, place: Place, ring: Ring, before: StoredRing | None) -> StoredRing:
    """Write the slots of ``ring`` that ``before`` does not hold.

    Slots count as written since when they are the ``ring.written - before.written`` last ones. A shard is also written
    again when it is gone or three of its rows differ from the ring's, which are then another run's.

    Args:
        folder: of the shards.
        place: of the ring in the state.
        ring: what to keep.
        before: what is on disk of it already.

    Raises:
        TypeError: for a column that is no array of numbers.
        ValueError: if a column does not have one row for each filled slot.
    """
    columns = {name: _column(place, name, array, ring.filled) for name, array in sorted(ring.columns.items())}
    row_bytes = sum(column.row_bytes for column in columns.values())
    rows = max(1, min(MAX_ROWS, SHARD_BYTES // max(row_bytes, 1)))
    record = RingRecord(place, ring.written, ring.capacity, rows, columns, ())
    stale = _stale_shards(record, None if before is None else before.record)
    shards, samples = [], []
    for number in range(-(-ring.filled // rows)):
        chunk = slice(number * rows, min((number + 1) * rows, ring.filled))
        sample = _sample(ring, columns, chunk)
        if before is not None and not stale(number) and before.samples[number] == sample:
            shard = before.record.shards[number]
            if not _is_there(folder / shard.name, shard.bytes):
                shard = _write_shard(folder, record, ring, number, chunk)
        else:
            shard = _write_shard(folder, record, ring, number, chunk)
        shards.append(shard)
        samples.append(sample)
    return StoredRing(RingRecord(place, ring.written, ring.capacity, rows, columns, tuple(shards)), tuple(samples))


def read_ring(folder: Path, record: RingRecord) -> Ring:
    """The ring that ``record`` describes; files are checked by :func:`check_file` before.

    Raises:
        CheckpointError: if a shard does not hold the slots that it should.
    """
    columns = {
        name: np.empty((record.filled, *column.shape), np.dtype(column.dtype))
        for name, column in record.columns.items()
    }
    for number, shard in enumerate(record.shards):
        path = folder / shard.name
        manifest, tensors = read(path)
        begin = number * record.rows
        count = min(record.rows, record.filled - begin)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
        wanted = {name: (column.dtype, (count, *column.shape)) for name, column in record.columns.items()}
        if manifest.kind != KIND or manifest.config != _config(record, number) or found != wanted:
            raise CheckpointError(f"{path} is corrupt: it does not hold the slots {begin} to {begin + count - 1}.")
        for name, array in arrays.items():
            columns[name][begin : begin + count] = array
    return Ring(columns, record.written, record.capacity)


def stored(record: RingRecord, ring: Ring) -> StoredRing:
    """What :func:`write_ring` would have returned for a ring that was read."""
    chunks = (slice(begin, min(begin + record.rows, record.filled)) for begin in range(0, record.filled, record.rows))
    return StoredRing(record, tuple(_sample(ring, record.columns, chunk) for chunk in chunks))


def check_file(path: Path, record: FileRecord) -> None:
    """Check that ``path`` is a plain file with the recorded size and SHA-256; memory for one block is taken.

    Raises:
        CheckpointError: if it is not.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is missing.") from error
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path} is no plain file; links are not followed.")
    if found.st_size != record.bytes:
        state = "truncated" if found.st_size < record.bytes else "corrupt"
        raise CheckpointError(f"{path} is {state}: it has {found.st_size} bytes in place of {record.bytes}.")
    if file_sha256(path) != record.sha256:
        raise CheckpointError(f"{path} is corrupt: its SHA-256 differs from the manifest's.")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def record_of(path: Path) -> FileRecord:
    """What to write down of a file that is in place."""
    return FileRecord(path.name, path.stat().st_size, file_sha256(path))


def _column(place: Place, name: str, array: NDArray[Any], filled: int) -> ColumnRecord:
    where = "/".join(str(part) for part in (*place, name))
    if not isinstance(array, np.ndarray) or array.dtype not in ARRAY_DTYPES:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"The column {where} is of type {kind}: the columns of a ring are numpy arrays of numbers.")
    if array.ndim == 0 or len(array) != filled:
        raise ValueError(f"The column {where} has the shape {array.shape}, and {filled} slots are filled.")
    return ColumnRecord(array.dtype.name, array.shape[1:])


def _stale_shards(now: RingRecord, before: RingRecord | None) -> Callable[[int], bool]:
    """Whether a shard, by its number, holds slots that ``before`` does not have."""
    new = 0 if before is None else now.written - before.written
    if before is None or not now.same_ring(before) or new < 0 or new >= now.capacity:
        return lambda number: True
    first, last = before.written % now.capacity, (now.written - 1) % now.capacity
    spans = [] if new == 0 else [(first, last)] if first <= last else [(first, now.capacity - 1), (0, last)]
    shards = [(begin // now.rows, end // now.rows) for begin, end in spans]
    return lambda number: any(begin <= number <= end for begin, end in shards)


def _write_shard(folder: Path, record: RingRecord, ring: Ring, number: int, chunk: slice) -> FileRecord:
    path = folder / f"{secrets.token_hex(16)}.safetensors"
    tensors = {name: th.from_numpy(np.array(ring.columns[name][chunk], order="C")) for name in record.columns}
    write(path, KIND, _config(record, number), tensors)
    return record_of(path)


def _config(record: RingRecord, number: int) -> dict[str, Any]:
    return {"place": list(record.place), "shard": number}


def _sample(ring: Ring, columns: dict[str, ColumnRecord], chunk: slice) -> str:
    """A hash of the first, middle and last row of a chunk."""
    digest = hashlib.sha256()
    for name in columns:
        for row in (chunk.start, (chunk.start + chunk.stop) // 2, chunk.stop - 1):
            digest.update(np.ascontiguousarray(ring.columns[name][row]).tobytes())
    return digest.hexdigest()


def _is_there(path: Path, size: int) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size
