"""The columns of a ring of real steps as a :class:`~mbrl_wrappers.states.Ring`, and back after a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbrl_wrappers.states import Ring


def step_ring(columns: Mapping[str, NDArray[Any]], written: int) -> Ring:
    """The filled slots of ``columns``, whose first axis are the slots; views, which are to be written at once."""
    capacity = len(next(iter(columns.values())))
    filled = min(written, capacity)
    return Ring({name: array[:filled] for name, array in columns.items()}, written, capacity)


def check_step_ring(ring: object, columns: Mapping[str, NDArray[Any]], owner: str) -> Ring:
    """``ring``, which fits ``columns``.

    Raises:
        ValueError: if it is none, of another capacity, or if a column has another shape, another dtype or a number that
            is not finite.
    """
    if not isinstance(ring, Ring):
        raise ValueError(f"The state of {owner} has no ring of steps.")
    capacity = len(next(iter(columns.values())))
    if ring.capacity != capacity:
        raise ValueError(f"The stored {owner} keeps {ring.capacity} steps, and this one {capacity}: build it alike.")
    if set(ring.columns) != set(columns):
        raise ValueError(f"The stored {owner} has the columns {sorted(ring.columns)}, and not {sorted(columns)}.")
    for name, array in columns.items():
        stored = ring.columns[name]
        if stored.shape != (ring.filled, *array.shape[1:]) or stored.dtype != array.dtype:
            raise ValueError(
                f"{name} of the stored {owner} is {stored.dtype} of shape {stored.shape}, and this one holds "
                f"{array.dtype} of shape {(ring.filled, *array.shape[1:])}: it is of another task."
            )
        if not np.isfinite(stored).all():
            raise ValueError(f"{name} of the stored {owner} has a number that is not finite.")
    return ring
