"""How much memory there is, asked before a large buffer is made: the system would end the run hours later, unannounced.

Memory that was asked for is taken only when it is written to, so a buffer that can never be filled is made without an
error, and the process is killed when it is full.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_MEMINFO = Path("/proc/meminfo")
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


class Memory(NamedTuple):
    """Bytes of memory: the ``total`` that this process could ever have, and what is ``available`` now."""

    total: int
    available: int


def memory() -> Memory | None:
    """The memory of this machine or container, swap left out; None where the system does not say."""
    found = _of_machine()
    if found is None:
        return None
    for limit, used in _GROUPS:
        with suppress(OSError, ValueError):  # not in a container, or one without limit, which says "max"
            bound = int(limit.read_text())
            found = Memory(min(found.total, bound), min(found.available, bound - int(used.read_text())))
    return found


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what this machine can never hold, and warn of what is more than it has left.

    Args:
        needed: bytes.
        what: is to be made, the beginning of a sentence.
        remedy: what to do, the end of it.

    Raises:
        ValueError: if ``needed`` is more than all memory.
    """
    found = memory()
    if found is None or needed <= found.available:
        return
    said = f"{what} takes {_gibibytes(needed)} when it is full"
    if needed > found.total:
        raise ValueError(f"{said}, and this machine has {_gibibytes(found.total)} of memory in all: {remedy}.")
    warnings.warn(
        f"{said}, and {_gibibytes(found.available)} of memory are free: the system may end this process then, without "
        f"a word. If it comes to that, {remedy}.",
        stacklevel=3,
    )


def _of_machine() -> Memory | None:
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = (line.split() for line in _MEMINFO.read_text().splitlines())
        sizes = {words[0]: 1024 * int(words[1]) for words in lines if len(words) > 1}
        return Memory(sizes["MemTotal:"], sizes["MemAvailable:"])
    with suppress(AttributeError, OSError, ValueError):  # macOS, where what is free is not known
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Memory(total, total)
    return None


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
