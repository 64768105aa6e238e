"""Random model actions of any space."""

from __future__ import annotations

import numpy as np
import torch as th
from torch import Tensor

from mbrl_wrappers.spaces import ActionCodec


def draw_controls(codec: ActionCodec, count: int, extremes: float, rng: np.random.Generator) -> Tensor:
    """Model actions ``(count, A)``: one-hot rows of a discrete space, else numbers within the bounds.

    Args:
        codec: of the action space; the bounds of a Box must be finite.
        count: rows.
        extremes: share of the rows of a Box whose every number lies on one of its bounds.
        rng: source of the draws.
    """
    if codec.groups:
        rows = [np.eye(size, dtype=np.float32)[rng.integers(size, size=count)] for size in codec.groups]
        return th.from_numpy(np.concatenate(rows, 1))
    low, high = (edge.numpy().astype(np.float64) for edge in codec.bounds)
    shares = rng.random((count, codec.size))
    shares = np.where(rng.random((count, 1)) < extremes, np.round(shares), shares)
    return th.from_numpy((low + shares * (high - low)).astype(np.float32))
