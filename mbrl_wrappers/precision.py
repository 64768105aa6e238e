"""The precision that observations need: float32, unless they lie so far from zero that their changes get lost in it."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch as th
from numpy.typing import NDArray

LARGEST_LOSS = 1e-3
"""Share of a dimension's typical change that rounding to float32 may take."""

ROUNDING = 2.0**-24 / 3**0.5
"""Root mean square of what rounding two float32 numbers does to their difference, as a share of their magnitude."""

FINEST = 1e-12
"""Changes below this share of the magnitude are rounding errors of float64 and no data."""

Values = TypeVar("Values", NDArray[Any], th.Tensor)


def lost_in_float32(magnitude: Values, change: Values) -> Values:
    r"""Dimensions whose typical change is lost in float32, ``(O,)`` bool.

    Float32 numbers near :math:`x` are :math:`6 \cdot 10^{-8} |x|` apart or more: an easting of 5,500,000 m moves in
    steps of half a metre.

    Args:
        magnitude: root mean square of the observations, ``(O,)``.
        change: root mean square of their changes from step to step, ``(O,)``.
    """
    return (ROUNDING * magnitude > LARGEST_LOSS * change) & (change > FINEST * magnitude)


def observation_dtype(obs: NDArray[Any], next_obs: NDArray[Any]) -> type[np.float32] | type[np.float64]:
    """The dtype of observations of which a model learns the changes: float64 where some dimension is lost in float32.

    Args:
        obs: ``(..., O)``.
        next_obs: ``(..., O)``, the successors.
    """
    if obs.dtype != np.float64 or not obs.size:
        return np.float32
    size = obs.shape[-1]
    magnitude = np.sqrt((obs.reshape(-1, size) ** 2).mean(0))
    change = np.sqrt(((next_obs - obs).reshape(-1, size) ** 2).mean(0))
    return np.float64 if lost_in_float32(magnitude, change).any() else np.float32


def model_dtype(model: object) -> th.dtype:
    """The dtype in which ``model`` takes observations: its attribute ``obs_dtype``, or float32 without one."""
    dtype = getattr(model, "obs_dtype", th.float32)
    assert isinstance(dtype, th.dtype)
    return dtype
