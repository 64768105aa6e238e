"""A limit on the memory that a block of a test may take."""

from __future__ import annotations

import resource
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

MEBIBYTE = 2**20


@contextmanager
def little_memory(limit: int = 8 * MEBIBYTE) -> Iterator[None]:
    """Fail when Python and numpy took more than ``limit`` bytes at a time inside the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def largest_memory() -> int:
    """Bytes of memory that the process has held at most, torch's included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
