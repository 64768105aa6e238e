"""The check of observations that rollouts start from."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mbrl_wrappers.ranges import finite_rows
from mbrl_wrappers.types import DynamicsModel


def check_starts(model: DynamicsModel[Any], starts: Tensor) -> None:
    """Check that ``starts`` are finite observations of ``model``, ``(B, O)`` with at least one row.

    Raises:
        ValueError: otherwise.
    """
    size = model.observation_space.shape[0]
    if starts.ndim != 2 or starts.shape[1] != size:
        raise ValueError(f"starts must have shape (B, {size}) as the model's observations, got {tuple(starts.shape)}.")
    if not len(starts):
        raise ValueError("starts is empty: there is no state to branch from.")
    if not finite_rows(starts.detach().reshape(1, -1)):
        raise ValueError("starts must be finite: remove rows with NaN or infinity before branching from them.")
