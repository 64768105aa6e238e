"""Checks of numbers a user passes, with errors that name the argument."""

from __future__ import annotations

import math
from numbers import Integral, Real


def at_least(name: str, value: object, minimum: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``.

    Raises:
        ValueError: otherwise; ``250.0`` and ``True`` are not integers.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}.")
    return int(value)


def within(name: str, value: object, low: float, high: float = math.inf) -> float:
    """Return ``value`` if it is a finite number in ``[low, high]``.

    Raises:
        ValueError: otherwise.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not (math.isfinite(value) and low <= float(value) <= high)
    ):
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise ValueError(f"{name} must be a finite number of at least {low:g}{upper}, got {value!r}.")
    return float(value)
