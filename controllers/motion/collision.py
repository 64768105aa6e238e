"""Checking edges: interpolated points, many edges at a time, coarse before fine."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from controllers.motion.space import Points, Region, is_valid

COARSE = 16  # resolutions between two points of the coarse check
BLOCK = 2**16  # points per call of the user's function


class Checker:
    """Checks points and edges in metric coordinates, and counts the points checked.

    Args:
        region: bounds, obstacles, resolution.

    Attributes:
        points: points checked so far.
        seconds: time spent in the user's function.
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        self.points, self.seconds = 0, 0.0
        self._low, self._high = region.to_metric(region.low), region.to_metric(region.high)

    def points_valid(self, points: Points) -> NDArray[np.bool_]:
        """Which of ``points (B, D)`` are inside the bounds and free, ``(B,)``."""
        inside: NDArray[np.bool_] = np.logical_and.reduce((points >= self._low) & (points <= self._high), 1)
        free = inside.copy()
        asked = points if inside.all() else points[inside]
        if not len(asked):
            return free
        asked = self.region.from_metric(asked)
        started = time.perf_counter()
        answers = [is_valid(self.region, asked[first : first + BLOCK]) for first in range(0, len(asked), BLOCK)]
        self.seconds += time.perf_counter() - started
        self.points += len(asked)
        free[inside] = np.concatenate(answers)
        return free

    def roughly_valid(self, starts: Points, ends: Points) -> NDArray[np.bool_]:
        """Which edges from ``starts`` to ``ends``, ``(B, D)``, are free at every sixteenth point, ``(B,)``."""
        return self._edges(starts, ends, COARSE * self.region.resolution)

    def finely_valid(self, starts: Points, ends: Points) -> NDArray[np.bool_]:
        """Which edges from ``starts`` to ``ends``, ``(B, D)``, are free at the resolution, ends included, ``(B,)``."""
        return self._edges(starts, ends, self.region.resolution)

    def edges_valid(self, starts: Points, ends: Points) -> NDArray[np.bool_]:
        """The same as :meth:`finely_valid`, faster where many edges are blocked: a rough look comes first."""
        free = self.roughly_valid(starts, ends)
        if free.any():
            free[free] = self.finely_valid(starts[free], ends[free])
        return free

    def edge_valid(self, start: Points, end: Points) -> bool:
        """Whether one edge ``(D,)`` to ``(D,)`` is free at the resolution."""
        return bool(self.edges_valid(start[None], end[None])[0])

    def _edges(self, starts: Points, ends: Points, spacing: float) -> NDArray[np.bool_]:
        if not len(starts):
            return np.zeros(0, bool)
        steps = ends - starts
        pieces = np.maximum(np.ceil(np.sqrt((steps * steps).sum(1)) / spacing), 1).astype(np.int64)
        last = np.cumsum(pieces + 1) - 1
        first = last - pieces
        share = np.arange(last[-1] + 1) - np.repeat(first, pieces + 1)
        points = np.repeat(starts, pieces + 1, 0) + share[:, None] * np.repeat(steps / pieces[:, None], pieces + 1, 0)
        points[last] = ends  # where rounding might leave the bounds
        return np.logical_and.reduceat(self.points_valid(points), first)
