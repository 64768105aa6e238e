"""Spaces as JSON, so that a model file can say what the model takes and gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mbrl_wrappers.spaces import AnySpace

MAX_SPACE_SIZE = 10_000_000
"""The most elements a restored Box may have: three characters of JSON can ask for any number of them."""


def space_to_json(space: AnySpace) -> dict[str, Any]:
    """Describe a Box (any shape, dtype and bounds) or a Discrete (any start) as strict JSON.

    Bounds round trip exactly: a Python float holds every float64, float32 and float16, and an open side is the
    string ``"inf"`` or ``"-inf"`` because JSON has no infinity. Equal bounds are written once.

    Raises:
        TypeError: for any other space, or a Box of extended precision.
    """
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).itemsize <= 8:
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _bounds_to_json(space.low, space.bounded_below, "-inf"),
            "high": _bounds_to_json(space.high, space.bounded_above, "inf"),
        }
    raise TypeError(f"Space {space} cannot be stored: only Discrete and Box (of at most 64 bits per element) can.")


def space_from_json(described: dict[str, Any]) -> spaces.Box | spaces.Discrete:
    """Rebuild the space that :func:`space_to_json` described.

    Raises:
        ValueError: if the description is of no known space, incomplete, or too large to be true.
    """
    try:
        kind, dtype = described["type"], np.dtype(described["dtype"])
        if kind == "Discrete":
            return _discrete(described["n"], described["start"], dtype)
        if kind == "Box":
            return _box(tuple(described["shape"]), described["low"], described["high"], dtype)
    except (KeyError, TypeError) as error:
        raise ValueError(f"This is not the description of a space: {described!r} ({error}).") from error
    raise ValueError(f"Unknown space type {kind!r}: a stored space is a Box or a Discrete.")


def _bounds_to_json(bound: NDArray[Any], bounded: NDArray[np.bool_], unbounded: str) -> Any:
    """One number when all elements have the same bits, else a flat row-major list."""
    values = [
        value if finite else unbounded
        for value, finite in zip(bound.reshape(-1).tolist(), bounded.reshape(-1).tolist(), strict=True)
    ]
    # repr tells 0.0 from -0.0, which compare equal.
    return values[0] if len({repr(value) for value in values}) == 1 else values


def _discrete(n: int, start: int, dtype: np.dtype[Any]) -> spaces.Discrete:
    return spaces.Discrete(n, start=start, dtype=dtype.type)


def _box(shape: tuple[int, ...], low: Any, high: Any, dtype: np.dtype[Any]) -> spaces.Box:
    if any(not isinstance(length, int) or length < 0 for length in shape) or math.prod(shape) > MAX_SPACE_SIZE:
        raise ValueError(f"A stored Box has the shape {shape}, which is not the shape of an observation or action.")
    low_bound, bounded_below = _bounds_from_json(low, shape, dtype)
    high_bound, bounded_above = _bounds_from_json(high, shape, dtype)
    space = spaces.Box(low_bound, high_bound, shape, dtype.type)
    # An open side of an integer Box is a fact that its bounds, the extremes of the dtype, cannot tell.
    space.bounded_below, space.bounded_above = bounded_below, bounded_above
    return space


def _bounds_from_json(
    described: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The bounds and where they are finite, both of ``shape``."""
    size = math.prod(shape)
    values = described if isinstance(described, list) else [described] * size
    if len(values) != size:
        raise ValueError(f"A stored Box of shape {shape} has {len(values)} bounds.")
    bounded = np.array([not isinstance(value, str) for value in values], dtype=np.bool_).reshape(shape)
    numbers = [_number(value, dtype) for value in values]
    return np.array(numbers, dtype=dtype).reshape(shape), bounded


def _number(value: Any, dtype: np.dtype[Any]) -> Any:
    if not isinstance(value, str):
        return value
    if value not in ("-inf", "inf"):
        raise ValueError(f"A stored Box has the bound {value!r}, which is neither a number nor 'inf' nor '-inf'.")
    if dtype.kind == "f":
        return float(value)
    return int(np.iinfo(dtype).min if value == "-inf" else np.iinfo(dtype).max)
