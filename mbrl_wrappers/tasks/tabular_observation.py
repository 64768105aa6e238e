"""Box observations as numbered states, for agents and models that keep a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import ArrayLike, NDArray

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.spaces import check_observation_space
from mbrl_wrappers.tabular_data import MAX_ENTRIES

Array = NDArray[Any]


class TabularObservation(gymnasium.ObservationWrapper[np.int64, Any, Array], RecordConstructorArgs):
    """Cuts each dimension of a Box observation into bins and numbers the cells, row-major.

    Bins are of equal width between ``low`` and ``high``, or contain equally many rows of ``data``. Values
    outside fall into the outermost bins. A table over cells is an approximation: the same action may lead from one
    cell to different ones, so cells are in general not Markov states.

    Args:
        env: an environment whose observation is a one-dimensional float Box.
        bins: how many for each dimension, or for all; 1 leaves a dimension out.
        low: where the first bin begins, for each dimension or for all; by default the space's bound.
        high: where the last bin ends.
        data: observations ``(B, O)``, such as a random policy saw: bins contain equally many of them. Values that
            repeat may leave a dimension with fewer bins.

    Attributes:
        edges: for each dimension the inner edges, ascending; an edge belongs to the bin above it.

    Raises:
        TypeError: the observation space is not a one-dimensional float Box.
        ValueError: a dimension has no finite bounds, bounds are in the wrong order, or there are too many cells.
    """

    def __init__(
        self,
        env: gymnasium.Env[Array, Any],
        bins: int | Sequence[int] = 10,
        *,
        low: ArrayLike | None = None,
        high: ArrayLike | None = None,
        data: ArrayLike | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, bins=bins, low=low, high=high, data=data)
        gymnasium.ObservationWrapper.__init__(self, env)
        inner = check_observation_space(env.observation_space)
        size = inner.shape[0]
        counts = [at_least("bins", count) for count in ([bins] * size if isinstance(bins, int) else bins)]
        if len(counts) != size:
            raise ValueError(f"bins must be one number, or one for each of the {size} dimensions; got {bins!r}.")
        if data is not None and (low is not None or high is not None):
            raise ValueError("Give bounds or data, not both: data alone says where its bins are.")
        self.edges = _equal_counts(data, counts) if data is not None else _equal_widths(inner, counts, low, high)
        self.shape = tuple(len(edges) + 1 for edges in self.edges)
        cells = math.prod(self.shape)
        if cells > MAX_ENTRIES:
            raise ValueError(f"Bins {self.shape} make {cells:,} states, more than the limit of a table: use fewer.")
        self.observation_space = spaces.Discrete(cells)

    def observation(self, observation: Array) -> np.int64:
        """The number of the cell of an observation ``(O,)``."""
        return np.int64(self.cells(np.asarray(observation)[None])[0])

    def cells(self, observations: Array) -> NDArray[np.int64]:
        """The numbers ``(B,)`` of the cells of observations ``(B, O)``.

        Raises:
            ValueError: for NaN, which belongs to no cell; infinity falls into an outermost bin.
        """
        missing = np.isnan(observations)
        if missing.any():
            row, dimension = np.argwhere(missing)[0].tolist()
            raise ValueError(
                f"Observation {row} has NaN in dimension {dimension}, which belongs to no cell: the environment has "
                "diverged."
            )
        index = [
            np.searchsorted(edges, column, "right") for edges, column in zip(self.edges, observations.T, strict=True)
        ]
        cells: NDArray[np.int64] = np.ravel_multi_index(tuple(index), self.shape).astype(np.int64)
        return cells


def _equal_widths(
    space: spaces.Box, counts: Sequence[int], low: ArrayLike | None, high: ArrayLike | None
) -> tuple[Array, ...]:
    first, last = (
        np.broadcast_to(np.asarray(bound if given is None else given, np.float64), space.shape)
        for bound, given in ((space.low, low), (space.high, high))
    )
    edges = []
    for index, (count, begin, end) in enumerate(zip(counts, first, last, strict=True)):
        # Some float32 spaces have the largest float32 in place of an infinite bound.
        if count > 1 and not (abs(begin) < 1e30 and abs(end) < 1e30):
            raise ValueError(
                f"Dimension {index} of the observation has the bounds [{begin:g}, {end:g}]: pass finite low and high, "
                "or data for the bins to follow, or 1 bin to leave it out."
            )
        if count > 1 and not begin < end:
            raise ValueError(f"Dimension {index}: low={begin:g} must be below high={end:g}.")
        edges.append(np.linspace(begin, end, count + 1)[1:-1] if count > 1 else np.zeros(0))
    return tuple(edges)


def _equal_counts(data: ArrayLike, counts: Sequence[int]) -> tuple[Array, ...]:
    rows = np.asarray(data, np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(counts) or not len(rows) or not np.isfinite(rows).all():
        raise ValueError(f"data must be finite observations of shape (B, {len(counts)}), got shape {rows.shape}.")
    return tuple(
        np.unique(np.quantile(column, np.arange(1, count) / count))
        for count, column in zip(counts, rows.T, strict=True)
    )
