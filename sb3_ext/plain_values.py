"""What SB3 keeps in its attributes, as the plain values of a state."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th


def plain(value: Any) -> Any:
    """``value`` with numbers of numpy as numbers, tuples and deques as lists, and arrays and tensors copied.

    A number in less than double precision becomes an array without axes: means of such numbers are rounded like them.

    Raises:
        TypeError: for an object that is none of these.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.copy()
    if isinstance(value, np.float16 | np.float32):
        return np.array(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, th.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [plain(item) for item in value]
    raise TypeError(f"A {type(value).__name__} is no plain value, so a run checkpoint cannot keep it.")


def revived(value: Any) -> Any:
    """``value`` that :func:`plain` gave, with its arrays without axes as the numbers that they were."""
    if isinstance(value, np.ndarray) and not value.ndim:
        return value[()]
    if isinstance(value, dict):
        return {key: revived(item) for key, item in value.items()}
    return [revived(item) for item in value] if isinstance(value, list) else value
