"""Nested values as nested tuples that compare with ``==``, arrays included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch as th


def comparable(value: Any) -> Any:
    """``value`` with every array as its bytes, every container as a tuple and every dataclass as its fields.

    Two results are equal when types, shapes and numbers are, a NaN with the same bits included. What is none of these
    is left as it is and compared by its own ``==``.
    """
    if isinstance(value, th.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return "array", value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, np.generic | float):
        return comparable(np.asarray(value))
    if isinstance(value, np.ndarray | list | tuple):
        return type(value).__name__, tuple(comparable(item) for item in value)
    if isinstance(value, Mapping):
        return type(value).__name__, tuple((comparable(key), comparable(item)) for key, item in value.items())
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, tuple(comparable(getattr(value, field.name)) for field in fields(value))
    return value
