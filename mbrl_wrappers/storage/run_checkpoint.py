"""Checkpoints of a whole run in one folder: whole or not there, checked before use, and cheap however long the run is.

    run/
      lock                        one writer at a time
      00000012-step-60000/        one checkpoint
        manifest.json             files with sizes and SHA-256, library versions, what the run says of itself
        state.safetensors         everything but the rings
      shards/                     slots of the rings, shared by the checkpoints that name them

Nothing in a folder is executed. A checkpoint never shares a shard with the one before it but with the one before that,
so that no single damaged file makes both unreadable.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mbrl_wrappers.states import Ring, StateDict
from mbrl_wrappers.storage.file_format import CheckpointError, replace_file, sync_folder
from mbrl_wrappers.storage.folder_lock import folder_lock
from mbrl_wrappers.storage.ring_shards import (
    SHARD_NAME,
    Place,
    StoredRing,
    check_file,
    read_ring,
    record_of,
    stored,
    write_ring,
)
from mbrl_wrappers.storage.run_manifest import (
    MANIFEST_FILE,
    STATE_FILE,
    NewerFormat,
    RunManifest,
    library_versions,
    manifest_bytes,
    other_versions,
    read_run_manifest,
)
from mbrl_wrappers.storage.state_file import read_state, write_state

SHARDS = "shards"

_NAME = re.compile(r"(\d{8,})-step-(\d+)")
_LEFTOVER = ".unfinished-"
_SHARD_OR_PART = re.compile(rf"{SHARD_NAME.pattern}|\.{SHARD_NAME.pattern}\.[0-9a-f]+\.tmp")


@dataclass(frozen=True)
class RunState:
    """A run as a checkpoint has it.

    Attributes:
        step: of the run when it was saved.
        state: what was given to :meth:`RunCheckpoints.save`; dictionaries are sorted by key.
        about: what the run said of itself.
        versions: of Python and the libraries then.
        path: the checkpoint's folder.
    """

    step: int
    state: StateDict
    about: dict[str, Any]
    versions: dict[str, str]
    path: Path


class RunCheckpoints:
    """The checkpoints of one run.

    :meth:`save` writes under another name, waits for the disk, and renames. A kill at any instant, or a full disk,
    leaves the checkpoints that were there. Rings are written in shards, and of those only the ones with new slots.

    Args:
        folder: where they are; made when the first is saved.
        keep: how many to keep. At least 2, since each stands in for a damaged newer one.

    Raises:
        ValueError: if ``keep`` is less than 2.
        NotADirectoryError: if ``folder`` is a file.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 3) -> None:
        if keep < 2:
            raise ValueError(f"keep must be at least 2, got {keep}: an older checkpoint stands in for a damaged one.")
        self.folder, self.keep = Path(folder), keep
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file: name a folder for the checkpoints.")
        self._locked = False
        self._damaged: set[Path] = set()
        self._last: dict[Place, StoredRing] = {}
        self._before_last: dict[Place, StoredRing] = {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer of the folder inside the ``with`` block; :meth:`save` alone locks for as long as it takes.

        What a kill has left unfinished is removed.

        Raises:
            FolderInUse: if another run writes to it, with its process id.
            NewerFormat: if a newer version of the library wrote to it.
            OSError: if the folder cannot be written to.
        """
        with folder_lock(self.folder):
            self._locked = True
            try:
                _sweep(self.folder)
                yield
            finally:
                self._locked = False

    def steps(self) -> list[int]:
        """The steps of the checkpoints, from the oldest to the newest, damaged ones included."""
        return [_step(path) for path in checkpoint_folders(self.folder)]

    def save(self, step: int, state: Mapping[str, Any], *, about: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint and remove those that are no longer kept.

        Args:
            step: of the run. A step lower than that of the newest checkpoint is allowed: the run was taken back.
            state: nested plain values (:mod:`mbrl_wrappers.states`), of which each :class:`~mbrl_wrappers.states.Ring`
                is written in shards.
            about: strict JSON that can be read without the state.

        Returns:
            The checkpoint's folder.

        Raises:
            TypeError: for a value that is none of these, with its place.
            ValueError: if ``step`` is negative, or a file would be larger than one may be.
            FolderInUse: if another run writes to the folder.
            NewerFormat: if a newer version of the library wrote to the folder.
            OSError: if it cannot be written, as on a full disk. The checkpoints that were there stay.
        """
        if step < 0:
            raise ValueError(f"The step of a checkpoint must not be negative, got {step}.")
        with nullcontext() if self._locked else self.lock():
            try:
                path, rings = self._write(step, state, dict(about or {}))
            except BaseException as error:
                with suppress(OSError, CheckpointError):  # the next one that is saved cleans up, too
                    _sweep(self.folder)
                if isinstance(error, OSError):
                    raise type(error)(error.errno, self._not_written(step, error)) from error
                raise
            self._before_last, self._last = self._last, rings
            self._prune(path)
        return path

    def load(self, step: int | None = None) -> RunState | None:
        """The newest whole checkpoint, or the one of ``step``; ``None`` if there is none at all.

        A damaged newer one is named in a warning, and so are libraries that were installed in another version.

        Raises:
            CheckpointError: if the one of ``step`` is damaged or not there, or all are damaged.
            NewerFormat: if a newer version of the library wrote the newest.
        """
        found = checkpoint_folders(self.folder)[::-1]
        wanted = [path for path in found if step is None or _step(path) == step]
        if found and not wanted:
            raise CheckpointError(f"{self.folder} has no checkpoint at step {step}; there are {self.steps()}.")
        faults = []
        for path in wanted:
            try:
                manifest = check_checkpoint(path)
                state = self._read(path, manifest)
            except NewerFormat:
                raise
            except CheckpointError as error:
                if path.exists():  # else the writer has removed it meanwhile
                    faults.append(str(error))
                    self._damaged.add(path)
                continue
            if faults:
                warnings.warn(
                    f"The run goes on from {path}, since newer ones are damaged: {' '.join(faults)}", stacklevel=2
                )
            if others := other_versions(manifest):
                warnings.warn(
                    f"{path} was written with {', '.join(others)}: the run goes on, but not bit for bit as it would "
                    "have.",
                    stacklevel=2,
                )
            return RunState(manifest.step, state, manifest.about, manifest.versions, path)
        if faults:
            which = "No checkpoint" if step is None else f"No checkpoint of step {step}"
            raise CheckpointError(
                f"{which} in {self.folder} is whole: {' '.join(faults)} Load another step, or start in a new folder."
            )
        return None

    def _write(
        self, step: int, state: Mapping[str, Any], about: dict[str, Any]
    ) -> tuple[Path, dict[Place, StoredRing]]:
        found: dict[Place, Ring] = {}
        rest = _without_rings(state, (), found)
        shards = self.folder / SHARDS
        rings = {place: write_ring(shards, place, ring, self._before_last.get(place)) for place, ring in found.items()}
        number = max((_number(path) for path in checkpoint_folders(self.folder)), default=0) + 1
        target = self.folder / f"{number:08d}-step-{step}"
        unfinished = self.folder / f"{_LEFTOVER}{target.name}"
        write_state(unfinished / STATE_FILE, rest)
        manifest = RunManifest(
            number=number,
            step=step,
            about=about,
            versions=library_versions(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            state=record_of(unfinished / STATE_FILE),
            rings=tuple(ring.record for ring in rings.values()),
        )
        replace_file(unfinished / MANIFEST_FILE, [manifest_bytes(manifest)])
        unfinished.rename(target)
        sync_folder(self.folder)
        return target, rings

    def _read(self, path: Path, manifest: RunManifest) -> StateDict:
        state, _, _ = read_state(path / STATE_FILE)
        rings: dict[Place, StoredRing] = {}
        for record in manifest.rings:
            ring = read_ring(self.folder / SHARDS, record)
            try:
                _put(state, record.place, ring)
            except (KeyError, IndexError, TypeError) as error:
                raise CheckpointError(f"{path} is corrupt: its state has no ring at {record.place}.") from error
            rings[record.place] = stored(record, ring)
        self._last, self._before_last = rings, {}
        return state

    def _prune(self, newest: Path) -> None:
        """Remove what is no longer kept: the oldest, damaged ones, and older ones of the same step."""
        others = [path for path in checkpoint_folders(self.folder) if path != newest]
        kept = [path for path in others if path not in self._damaged and _step(path) != _step(newest)]
        for path in set(others) - set(kept[-(self.keep - 1) :]):
            path.rename(path.with_name(_LEFTOVER + path.name))  # in one step: half of one would count as damaged
        _sweep(self.folder)

    def _not_written(self, step: int, error: OSError) -> str:
        there = self.steps()
        stays = f"the one at step {there[-1]} is as it was" if there else "there is none yet"
        return (
            f"The checkpoint at step {step} was not written to {self.folder} ({error.strerror}); {stays}. Make room "
            "or give the folder back its rights, and save again"
        )


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in a folder, from the oldest to the newest, damaged ones included."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_number)


def check_checkpoint(path: Path) -> RunManifest:
    """Check every file of a checkpoint, without building anything from them; its manifest.

    Raises:
        CheckpointError: if the checkpoint is damaged, with the file.
        NewerFormat: if a newer version of the library wrote it.
    """
    manifest = read_run_manifest(path)
    shards = path.parent / SHARDS
    if shards.is_symlink():
        raise CheckpointError(f"{shards} is a link; links are not followed.")
    check_file(path / STATE_FILE, manifest.state)
    for shard in manifest.shards:
        check_file(shards / shard.name, shard)
    return manifest


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _sweep(folder: Path) -> None:
    """Remove unfinished checkpoints and shards that no checkpoint names.

    Raises:
        NewerFormat: if a checkpoint is of a format that does not say here which shards it needs.
    """
    needed = set()
    for path in checkpoint_folders(folder):
        try:
            needed |= {shard.name for shard in read_run_manifest(path).shards}
        except NewerFormat:
            raise
        except CheckpointError:
            continue  # a checkpoint without manifest cannot be read, with or without its shards
    for path in folder.glob(f"{_LEFTOVER}*"):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path)
    shards = folder / SHARDS
    if shards.is_symlink():
        raise CheckpointError(f"{shards} is a link; links are not followed.")
    for path in shards.iterdir() if shards.is_dir() else ():
        if _SHARD_OR_PART.fullmatch(path.name) and path.name not in needed:
            path.unlink()


def _without_rings(value: Any, place: Place, rings: dict[Place, Ring]) -> Any:
    """``value`` with None for each ring; the rings go to ``rings``."""
    if isinstance(value, Ring):
        rings[place] = value
        return None
    if isinstance(value, Mapping):
        return {key: _without_rings(item, (*place, key), rings) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_rings(item, (*place, number), rings) for number, item in enumerate(value)]
    return value


def _put(state: Any, place: Place, ring: Ring) -> None:
    for part in place[:-1]:
        state = state[part]
    if state[place[-1]] is not None:
        raise KeyError(place)
    state[place[-1]] = ring
