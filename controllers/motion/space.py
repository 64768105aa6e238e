"""Motion problems: a box of coordinates, which points of it are free, and how far apart two points are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbrl_wrappers.checks import within

Points = NDArray[np.float64]
"""Points ``(B, D)`` or one point ``(D,)``; ``D`` counts coordinates here."""

Validity = Callable[[Points], NDArray[Any]]
"""``valid(points (B, D)) -> (B,) bool``: which points are free of obstacles, in the units of the problem.

It gets float64 numpy arrays, many points at a time, all inside the bounds. A function of torch is wrapped:
``lambda points: free(torch.from_numpy(points)).numpy()``.
"""

SHARE_OF_DIAGONAL = 1e-4  # of the resolution when none is given


class Region:
    r"""A box of coordinates with obstacles in it, and the distance of its points.

    .. math:: d(x, y) = \sqrt{\sum_i w_i^2 (x_i - y_i)^2}

    Planners compute in *metric* coordinates :math:`w_i x_i`, in which this is the Euclidean distance; everything a user
    passes or gets back is in the units of the problem.

    Args:
        low: ``(D,)`` lower bounds.
        high: ``(D,)`` upper bounds.
        valid: which points are free, see :data:`Validity`; None where nothing is in the way.
        weights: ``(D,)`` :math:`w`, for coordinates of different units; default ones.
        resolution: distance of the points at which edges are checked; default a ten-thousandth of the diagonal. An
            obstacle thinner than this may be jumped, a corner of it cut.

    Attributes:
        resolution: see above, always a number.
        diagonal: distance of the two corners of the box.

    Raises:
        ValueError: for bounds that are not finite or crossed, and numbers that do not fit them.
    """

    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        valid: Validity | None = None,
        *,
        weights: ArrayLike | None = None,
        resolution: float | None = None,
    ) -> None:
        self.low, self.high = vector("low", low), vector("high", high)
        if len(self.low) != len(self.high) or not (self.low < self.high).all():
            raise ValueError(
                f"low must be below high in every coordinate, got {self.low} and {self.high}: leave out a coordinate "
                "that cannot move."
            )
        self.weights = np.ones_like(self.low) if weights is None else self.checked("weights", weights)
        if not (self.weights > 0).all():
            raise ValueError(
                f"weights must be positive, got {self.weights}: leave out a coordinate that does not count."
            )
        self.valid = valid
        self.diagonal = float(np.linalg.norm((self.high - self.low) * self.weights))
        self.resolution = (
            SHARE_OF_DIAGONAL * self.diagonal if resolution is None else within("resolution", resolution, 0)
        )
        if not self.resolution:
            raise ValueError("resolution must be above 0: it is the distance of the points at which edges are checked.")

    @property
    def dimensions(self) -> int:
        """``D``."""
        return len(self.low)

    def checked(self, name: str, point: ArrayLike) -> Points:
        """``point`` as ``(D,)`` float64.

        Raises:
            ValueError: for another size, and for what is not finite.
        """
        array = vector(name, point)
        if len(array) != self.dimensions:
            raise ValueError(f"{name} has {len(array)} coordinates and the bounds have {self.dimensions}.")
        return array

    def to_metric(self, points: Points) -> Points:
        """Points in the coordinates whose Euclidean distance is that of the problem."""
        return points * self.weights

    def from_metric(self, points: Points) -> Points:
        """The way back; a rounding error never leaves the bounds."""
        return np.minimum(np.maximum(points / self.weights, self.low), self.high)

    def distance(self, points: Points, point: Points) -> Points:
        """Distances ``(B,)`` of points ``(B, D)`` to one ``(D,)``, in the units of the problem."""
        distances: Points = np.linalg.norm((points - point) * self.weights, axis=-1)
        return distances


class MotionProblem(Region):
    """From a start to a goal without touching an obstacle, by straight edges in any direction.

    Args:
        low: ``(D,)`` lower bounds.
        high: ``(D,)`` upper bounds.
        start: ``(D,)``.
        goal: ``(D,)``.
        valid: see :class:`Region`.
        weights: see :class:`Region`.
        resolution: see :class:`Region`.

    Raises:
        ValueError: also for a start or goal of another size, outside the bounds or inside an obstacle.
        TypeError: if ``valid`` does not return one bool per point.
    """

    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        start: ArrayLike,
        goal: ArrayLike,
        valid: Validity | None = None,
        *,
        weights: ArrayLike | None = None,
        resolution: float | None = None,
    ) -> None:
        super().__init__(low, high, valid, weights=weights, resolution=resolution)
        self.start, self.goal = self.checked("start", start), self.checked("goal", goal)
        for name, point in (("start", self.start), ("goal", self.goal)):
            refuse_invalid(self, name, point)


def refuse_invalid(region: Region, name: str, point: Points) -> None:
    """Raise a ``ValueError`` unless ``point (D,)`` lies inside the bounds and is free."""
    if not ((point >= region.low) & (point <= region.high)).all():
        raise ValueError(
            f"{name} {point} lies outside the bounds {region.low} to {region.high}: widen them or move it."
        )
    if not is_valid(region, point[None])[0]:
        raise ValueError(f"{name} {point} is not valid: it lies in an obstacle, so no path exists. Move it.")


def is_valid(region: Region, points: Points) -> NDArray[np.bool_]:
    """Which of ``points (B, D)``, all inside the bounds, are free, ``(B,)``.

    Raises:
        TypeError: if the user's function cannot take many points, or does not return one bool for each.
    """
    if region.valid is None:
        return np.ones(len(points), bool)
    try:
        free = np.asarray(region.valid(points))
    except (IndexError, TypeError, ValueError) as error:
        raise TypeError(
            f"valid failed on points of shape {points.shape} ({error}): it is called with many points at once, "
            "one per row, and returns one bool for each."
        ) from error
    if free.shape != (len(points),) or free.dtype != bool:
        raise TypeError(
            f"valid must return one bool per point, shape ({len(points)},) for points of shape {points.shape}; got "
            f"{free.dtype} of shape {free.shape}. It is called with many points at once."
        )
    return free


def vector(name: str, values: ArrayLike) -> Points:
    """``values`` as a vector ``(D,)`` of finite float64.

    Raises:
        ValueError: otherwise.
    """
    array = np.array(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a vector of finite numbers, got {values!r}.")
    return array
