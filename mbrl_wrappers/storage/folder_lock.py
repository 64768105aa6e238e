"""One writer per folder: a lock that the system releases when its holder dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":  # which has no record locks: there only a second writer in the same process is refused
    import fcntl

LOCK_FILE = "lock"

_HELD: set[Path] = set()


class FolderInUse(ValueError):
    """Another run writes to the folder."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Be the only writer of ``folder`` inside the ``with`` block; the folder is made when missing.

    The lock is a record lock (POSIX ``lockf``) on a file that stays. The system drops it with the process that holds
    it, however that ends, so a lock of a dead process is free. Processes that the holder forks do not inherit it, so a
    worker that outlives a killed run does not keep the next run out. The process id in it is only for the message.

    Raises:
        FolderInUse: if a writer has it, with its process id.
        NotADirectoryError: if ``folder`` is a file.
        OSError: if the folder cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder for the checkpoints.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        if place in _HELD:
            raise FolderInUse(_refusal(folder, f"process {os.getpid()}, this one"))
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"The folder {folder} cannot be written to ({error.strerror}): give one that this user may write to",
        ) from error
    try:
        _take(handle, folder)
        _HELD.add(place)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        _HELD.discard(place)
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(handle, 20, 0).decode(errors="replace").strip()
        raise FolderInUse(_refusal(folder, f"process {holder or 'unknown'}")) from error


def _refusal(folder: Path, holder: str) -> str:
    return f"{folder} is in use by {holder}: wait until that run ends, stop it, or give this one another folder."
