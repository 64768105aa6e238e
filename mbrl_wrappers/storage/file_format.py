"""The bytes of a model file: safetensors with a JSON manifest.

Reading executes nothing of a file and compares sizes with its length before it takes memory; the manifest and each
tensor have a SHA-256. Writing replaces the old file in a single step after the new one has reached the disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from reprlib import repr as brief
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

SUFFIX = ".safetensors"
FORMAT = "mbrl-wrappers"
FORMAT_VERSION = 2
MAX_HEADER_BYTES = 32 * 2**20
MAX_FILE_BYTES = 16 * 2**30
MAX_NAME_LENGTH = 1000
MAX_DIMENSIONS = 64

_LENGTH_BYTES = 8
_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


class CheckpointError(ValueError):
    """A model file that cannot be read: truncated, corrupt, too new, or not a model file at all."""


@dataclass(frozen=True)
class TensorRecord:
    """What the manifest says of one tensor: its safetensors ``dtype``, its ``shape`` and the SHA-256 of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that a model file says besides the numbers in its tensors.

    Attributes:
        format_version: of the file's layout, compared with :data:`FORMAT_VERSION`.
        library_version: of the mbrl-wrappers that wrote it.
        kind: the name under which the model's class is registered.
        config: what the class needs to rebuild the model around the tensors.
        tensors: a record for each tensor in the file.
        versions: of the libraries that the model was trained with.
        created: ISO 8601 date and time, UTC.
    """

    format_version: int
    library_version: str
    kind: str
    config: dict[str, Any]
    tensors: dict[str, TensorRecord]
    versions: dict[str, str]
    created: str


def with_suffix(path: str | os.PathLike[str]) -> Path:
    """``path`` with ``.safetensors`` appended unless it ends so.

    Raises:
        IsADirectoryError: if ``path`` names a folder.
    """
    given = Path(path)
    whole = given if given.name.endswith(SUFFIX) else given.with_name(given.name + SUFFIX) if given.name else given
    for candidate in (given, whole):
        if candidate.is_dir():
            example = candidate / f"model{SUFFIX}"
            raise IsADirectoryError(f"{candidate} is a folder: give the name of a model file, such as {example}.")
    return whole


def write(path: Path, kind: str, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a model file next to ``path`` and put it in place in one step, so that a kill leaves the old file whole.

    Args:
        path: the whole name, suffix included; folders are created.
        kind: the registered name of the model's class.
        config: strict JSON.
        tensors: by name.

    Raises:
        ValueError: if the file would be larger than :func:`read` accepts; an old file stays as it is.
    """
    # A copy of each: models may share memory between tensors, which safetensors refuses, and be on any device.
    owned = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    packed = memoryview(safetensors_torch.save(owned))
    start = _LENGTH_BYTES + int.from_bytes(packed[:_LENGTH_BYTES], "little")
    header, data = json.loads(bytes(packed[_LENGTH_BYTES:start])), packed[start:]
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        library_version=read_versions("mbrl-wrappers").get("mbrl-wrappers", "unknown"),
        kind=kind,
        config=config,
        tensors={name: _record(entry, data) for name, entry in header.items()},
        versions=read_versions("gymnasium", "mujoco", "torch", "numpy"),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    text = json.dumps(asdict(manifest), allow_nan=False, sort_keys=True)
    header["__metadata__"] = {"format": FORMAT, "manifest": text, "sha256": sha256_of(text.encode())}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % _LENGTH_BYTES)  # safetensors wants the data aligned
    if len(head) > MAX_HEADER_BYTES or len(head) + len(data) + _LENGTH_BYTES > MAX_FILE_BYTES:
        raise ValueError(
            f"{path} would have a header of {len(head):,} and tensors of {len(data):,} bytes: a model file may have "
            f"{MAX_HEADER_BYTES:,} bytes of header and {MAX_FILE_BYTES:,} in all."
        )
    replace_file(path, (len(head).to_bytes(_LENGTH_BYTES, "little"), head, data))


def read_header(path: Path) -> Manifest:
    """Read and check all but the tensors of a model file.

    Raises:
        CheckpointError: if the file is truncated, corrupt, too new or no model file.
    """
    with _open(path) as file:
        return _read_header(path, file)[0]


def read(path: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Read and check a whole model file; the tensors are on the CPU.

    Raises:
        CheckpointError: if the file is truncated, corrupt, too new or no model file.
    """
    with _open(path) as file:
        manifest, header = _read_header(path, file)
        start = file.tell()
        file.seek(0)
        packed = file.read()
    data = memoryview(packed)[start:]
    for name, entry in header.items():
        if _record(entry, data) != manifest.tensors[name]:
            raise CheckpointError(
                f"{path} is corrupt: the SHA-256 of tensor {brief(name)} differs from the manifest's."
            )
    try:
        return manifest, safetensors_torch.load(packed)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is corrupt: {error}.") from error


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no model file {path}.") from error


def _read_header(path: Path, file: BinaryIO) -> tuple[Manifest, dict[str, Any]]:
    """The manifest and the safetensors header, with ``file`` left at the first byte of the tensors."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size > MAX_FILE_BYTES or length > min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
        raise CheckpointError(f"{path} is truncated, corrupt or no model file: {size} bytes cannot hold its header.")
    try:
        header = strict_json(file.read(length))
        metadata = header.pop("__metadata__")
        text, digest = metadata["manifest"], metadata["sha256"]
        ours = metadata["format"] == FORMAT and isinstance(text, str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated, corrupt or no model file: it has no manifest.") from error
    if not ours or sha256_of(text.encode()) != digest:
        raise CheckpointError(f"{path} is corrupt: the SHA-256 of its manifest differs from the one in the file.")
    manifest = _parse_manifest(path, text)
    _check_layout(path, header, manifest, size - file.tell())
    return manifest, header


def _parse_manifest(path: Path, written: str) -> Manifest:
    try:
        fields = strict_json(written)
        number = fields["format_version"]
        if type(number) is not int or number < 1:
            raise TypeError("A format version is a positive integer.")
        if number > FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {brief(number)}, written by mbrl-wrappers "
                f"{brief(fields.get('library_version'))}; this one reads version {FORMAT_VERSION}. "
                "Upgrade with: pip install -U mbrl-wrappers"
            )
        if number < FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format version {number}, and this version of the library reads {FORMAT_VERSION}: fit the "
                "model anew and save it."
            )
        records = {
            name: TensorRecord(entry["dtype"], tuple(entry["shape"]), entry["sha256"])
            for name, entry in fields.pop("tensors").items()
        }
        manifest = Manifest(tensors=records, **fields)
        texts = (manifest.kind, manifest.library_version, manifest.created, *manifest.versions.values())
        if not isinstance(manifest.config, dict) or any(
            not isinstance(text, str) or len(text) > MAX_NAME_LENGTH for text in texts
        ):
            raise TypeError("A field of the manifest is of another type or far too long.")
        return manifest
    except CheckpointError:
        raise
    except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt: its manifest is not one of format {FORMAT_VERSION}.") from error


def _check_layout(path: Path, header: dict[str, Any], manifest: Manifest, data_bytes: int) -> None:
    """Every tensor must have the size its shape asks for, inside the file, before any memory is taken for it."""
    if header.keys() != manifest.tensors.keys():
        raise CheckpointError(f"{path} is corrupt: its tensors are not those of its manifest.")
    parts = []
    for name, entry in header.items():
        try:
            shape, (begin, end) = entry["shape"], entry["data_offsets"]
            fits = len(shape) <= MAX_DIMENSIONS and all(
                type(number) is int and 0 <= number <= MAX_FILE_BYTES for number in (*shape, begin, end)
            )
            fits = fits and math.prod(shape) * _ITEM_BYTES[entry["dtype"]] == end - begin
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise CheckpointError(
                f"{path} is corrupt: the size of tensor {name[:100]!r} does not follow from its shape."
            )
        parts.append((begin, end))
    needed = max((end for _, end in parts), default=0)
    if needed != data_bytes:
        state = "truncated" if needed > data_bytes else "corrupt"
        raise CheckpointError(f"{path} is {state}: its tensors take {needed} bytes and the file has {data_bytes}.")
    # Tensors that share bytes would let a small file describe any number of large ones.
    parts.sort()
    if any(end != begin for (_, end), (begin, _) in zip([(0, 0), *parts], parts, strict=False)):
        raise CheckpointError(f"{path} is corrupt: its tensors overlap, or leave bytes between them.")


def strict_json(text: bytes | str) -> Any:
    """What JSON says; ``NaN`` and ``Infinity``, which Python would take, are a ``ValueError``."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON.")

    return json.loads(text, parse_constant=refuse)


def _record(entry: dict[str, Any], data: memoryview) -> TensorRecord:
    begin, end = entry["data_offsets"]
    return TensorRecord(entry["dtype"], tuple(entry["shape"]), sha256_of(data[begin:end]))


def sha256_of(content: bytes | memoryview) -> str:
    """The SHA-256 of bytes in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_versions(*names: str) -> dict[str, str]:
    """The installed versions of the named distributions, without those that are not installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def replace_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write ``parts`` to a new file, wait until they are on the disk, then rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a rename is one step only within a file system. Not tempfile: that ignores the umask.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with unfinished.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk: a rename survives a power cut only after that."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
