"""Views of arrays: whose memory they show, and the same view of other memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def memory_owner(view: Array) -> Array:
    """The array that ``view`` is a view of in the end; ``as_strided`` puts an object of its own in between."""
    while True:
        base: Any = view.base
        if not isinstance(base, np.ndarray) and hasattr(base, "__array_interface__"):
            base = getattr(base, "base", None)
        if not isinstance(base, np.ndarray):
            return view
        view = base


def address(array: Array) -> int:
    """Where the first element of an array lies."""
    return int(array.__array_interface__["data"][0])


def dense(owner: Array) -> Array:
    """All elements of an array without gaps, in the order of memory: a view."""
    return owner.transpose(np.argsort(np.negative(owner.strides), kind="stable")).reshape(-1)


def window(view: Array, start: int, memory: Array) -> Array:
    """The array that lies in ``memory`` as ``view`` lies in the memory that starts at address ``start``."""
    offset = address(view) - start
    if view.size == 0:
        return view.copy()
    if view.dtype.hasobject:
        twin: Array = np.lib.stride_tricks.as_strided(memory[offset // memory.itemsize :], view.shape, view.strides)
    else:
        twin = np.ndarray(view.shape, view.dtype, memory.data, offset, view.strides)
    if not view.flags.writeable:
        twin.flags.writeable = False
    return twin
