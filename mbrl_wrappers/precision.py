"""The precision that observations need: float32, unless they lie so far from zero that their changes get lost in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

LARGEST_LOSS = 1e-3
"""Share of a dimension's typical change that rounding to float32 may take."""


def observation_dtype(obs: NDArray[Any], next_obs: NDArray[Any]) -> type[np.float32] | type[np.float64]:
    r"""The dtype in which the changes of observations survive.

    Float32 numbers near :math:`x` are :math:`6 \cdot 10^{-8} |x|` apart or more: an easting of 5,500,000 m moves in
    steps of half a metre. What a model learns is :math:`s' - s`, so the observations stay float64 where rounding both
    to float32 would change the difference of some dimension by more than a thousandth of it (root mean squares).

    Args:
        obs: ``(..., O)``.
        next_obs: ``(..., O)``, the successors.
    """
    if obs.dtype != np.float64 or not obs.size:
        return np.float32
    change = (next_obs - obs).reshape(-1, obs.shape[-1])
    rounded = next_obs.astype(np.float32).astype(np.float64) - obs.astype(np.float32)
    loss = rounded.reshape(change.shape) - change
    lossy = (loss**2).mean(0) > LARGEST_LOSS**2 * (change**2).mean(0)
    return np.float64 if lossy.any() else np.float32


def model_dtype(model: object) -> th.dtype:
    """The dtype in which ``model`` takes observations: its attribute ``obs_dtype``, or float32 without one."""
    dtype = getattr(model, "obs_dtype", th.float32)
    assert isinstance(dtype, th.dtype)
    return dtype
