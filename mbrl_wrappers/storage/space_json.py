"""Spaces as JSON, so that a model file can say what the model takes and gives."""

from __future__ import annotations

import math
from reprlib import repr as brief
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mbrl_wrappers.spaces import AnySpace

MAX_BOX_SIZE = 1_000_000
"""The most elements of a stored Box: a few characters of JSON can ask for any number of them."""

MAX_DISCRETE_SIZE = 10_000_000
"""The most values of a stored Discrete: models have an entry for each."""

MAX_DIMENSIONS = 32

_DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")} | {
    f"{kind}{bits}": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


def space_to_json(space: AnySpace) -> dict[str, Any]:
    """Describe a Box (any shape, dtype and bounds) or a Discrete (any start) as strict JSON.

    Bounds round trip exactly: a Python float holds every float64, float32 and float16, and an open side is the
    string ``"inf"`` or ``"-inf"`` because JSON has no infinity. Equal bounds are written once.

    Raises:
        TypeError: for any other space, or a Box of extended precision.
        ValueError: for a space of more elements or values than :func:`space_from_json` accepts.
    """
    if isinstance(space, spaces.Discrete) and str(space.dtype) in _DTYPES:
        _check_discrete(int(space.n))
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Box) and str(space.dtype) in _DTYPES:
        _check_shape(space.shape)
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _bounds_to_json(space.low, space.bounded_below, "-inf"),
            "high": _bounds_to_json(space.high, space.bounded_above, "inf"),
        }
    raise TypeError(f"Space {space} cannot be stored: only Discrete and Box (of at most 64 bits per element) can.")


def space_from_json(described: dict[str, Any]) -> spaces.Box | spaces.Discrete:
    """Rebuild the space that :func:`space_to_json` described; sizes are checked before anything is built.

    Raises:
        ValueError: if the description is of no known space, incomplete, or too large to be true.
    """
    try:
        kind, dtype = described["type"], _DTYPES[described["dtype"]]
        if kind == "Discrete":
            return _discrete(described["n"], described["start"], dtype)
        if kind == "Box":
            return _box(described["shape"], described["low"], described["high"], dtype)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"This is not the description of a space: {brief(described)} ({brief(error)}).") from error
    raise ValueError(f"Unknown space type {brief(kind)}: a stored space is a Box or a Discrete.")


def _bounds_to_json(bound: NDArray[Any], bounded: NDArray[np.bool_], unbounded: str) -> Any:
    """One number when all elements have the same bits, else a flat row-major list."""
    values = [
        value if finite else unbounded
        for value, finite in zip(bound.reshape(-1).tolist(), bounded.reshape(-1).tolist(), strict=True)
    ]
    # repr tells 0.0 from -0.0, which compare equal.
    return values[0] if len({repr(value) for value in values}) == 1 else values


def _check_discrete(n: Any) -> None:
    if type(n) is not int or not 1 <= n <= MAX_DISCRETE_SIZE:
        raise ValueError(f"A stored Discrete must have a positive number of values up to {MAX_DISCRETE_SIZE:,}.")


def _check_shape(shape: Any) -> None:
    # Each length before their product: a product of many huge ones takes hours.
    lengths = len(shape) <= MAX_DIMENSIONS and all(type(size) is int and 0 <= size <= MAX_BOX_SIZE for size in shape)
    if not lengths or math.prod(shape) > MAX_BOX_SIZE:
        raise ValueError(
            f"A stored Box has the shape {brief(shape)}, which is not the shape of an observation or action: it may "
            f"have {MAX_DIMENSIONS} dimensions and {MAX_BOX_SIZE:,} elements."
        )


def _discrete(n: Any, start: Any, dtype: np.dtype[Any]) -> spaces.Discrete:
    _check_discrete(n)
    if dtype.kind not in "iu" or type(start) is not int:
        raise TypeError("a Discrete has an integer dtype and an integer start")
    fits = np.iinfo(dtype)
    if not fits.min <= start <= start + n - 1 <= fits.max or n > fits.max:
        raise OverflowError(f"{dtype} cannot number {n} values from {start}")
    return spaces.Discrete(n, start=start, dtype=dtype.type)


def _box(shape: Any, low: Any, high: Any, dtype: np.dtype[Any]) -> spaces.Box:
    _check_shape(shape)
    low_bound, bounded_below = _bounds_from_json(low, tuple(shape), dtype, "-inf")
    high_bound, bounded_above = _bounds_from_json(high, tuple(shape), dtype, "inf")
    space = spaces.Box(low_bound, high_bound, tuple(shape), dtype.type)
    # An open side of an integer Box is a fact that its bounds, the extremes of the dtype, cannot tell.
    space.bounded_below, space.bounded_above = bounded_below, bounded_above
    return space


def _bounds_from_json(
    described: Any, shape: tuple[int, ...], dtype: np.dtype[Any], unbounded: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The bounds and where they are finite, both of ``shape``."""
    values = described if isinstance(described, list) else [described]
    size = math.prod(shape)
    if isinstance(described, list) and len(values) != size:
        raise ValueError(f"A stored Box of shape {shape} has {len(values)} bounds.")
    numbers = [_number(value, dtype, unbounded) for value in values]
    with np.errstate(over="ignore"):  # a number beyond the dtype becomes infinite, which differs from it
        bounds = np.array(numbers, dtype=dtype)
    if bounds.tolist() != numbers:
        raise ValueError(f"A stored Box of {dtype} has bounds that are no numbers of this dtype: {brief(described)}.")
    bounded = np.array([value != unbounded for value in values], np.bool_)
    if len(values) == size:
        return bounds.reshape(shape), bounded.reshape(shape)
    return np.full(shape, bounds[0], dtype), np.full(shape, bounded[0], np.bool_)


def _number(value: Any, dtype: np.dtype[Any], unbounded: str) -> Any:
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    if value != unbounded:
        raise ValueError(f"A stored Box has the bound {brief(value)}, which is neither a number nor {unbounded!r}.")
    if dtype.kind == "f":
        return float(value)
    return int(np.iinfo(dtype).min if value == "-inf" else np.iinfo(dtype).max)
