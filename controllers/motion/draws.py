"""Random draws of tree planners: the random stream, and uniform points in boxes and ellipsoids."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Generator

from controllers.motion.space import Points, Region
from mbrl_wrappers.seeding import draw_seed

AHEAD = 64  # points drawn at a time


def numpy_stream(generator: Generator | np.random.Generator) -> np.random.Generator:
    """A numpy generator: the one given, or a new one that is seeded by a draw of the torch generator given."""
    if isinstance(generator, np.random.Generator):
        return generator
    return np.random.default_rng(draw_seed(generator))


class UniformPoints:
    """Points drawn evenly from the bounds of a region, in metric coordinates.

    Args:
        region: its bounds.
        rng: source of the draws.
    """

    def __init__(self, region: Region, rng: np.random.Generator) -> None:
        self._low, self._high = region.to_metric(region.low), region.to_metric(region.high)
        self._rng = rng
        self._drawn: list[Points] = []

    def draw(self) -> Points:
        """One point ``(D,)``."""
        if not self._drawn:
            self._drawn = list(self._rng.uniform(self._low, self._high, (AHEAD, len(self._low))))
        return self._drawn.pop()


class InformedPoints:
    r"""Points drawn evenly from where a shorter path could pass (Gammell, Srinivasa and Barfoot 2014, algorithm 2).

    These are the points :math:`x` of the bounds with :math:`|x - s| + |x - g| \le c`: an ellipsoid with the start and
    the goal as foci, whose long half axis is :math:`c / 2` and whose others are
    :math:`\sqrt{c^2 - |g - s|^2} / 2`.

    Args:
        region: its bounds.
        start: ``(D,)``, metric.
        goal: ``(D,)``, metric.
        rng: source of the draws.
    """

    def __init__(self, region: Region, start: Points, goal: Points, rng: np.random.Generator) -> None:
        self._low, self._high = region.to_metric(region.low), region.to_metric(region.high)
        self._rng, self._centre = rng, (start + goal) / 2
        self._start, self._goal = start, goal
        self.shortest = float(np.linalg.norm(goal - start))
        self._axes = _rotation((goal - start) / self.shortest) if self.shortest else np.eye(len(start))
        self._drawn: list[Points] = []

    def contains(self, points: Points, cost: float) -> NDArray[np.bool_]:
        """Which of ``points (B, D)`` a path shorter than ``cost`` could pass, ``(B,)``."""
        sums = np.linalg.norm(points - self._start, axis=1) + np.linalg.norm(points - self._goal, axis=1)
        possible: NDArray[np.bool_] = sums <= cost
        return possible

    def volume(self, cost: float) -> float:
        """The volume of the ellipsoid for ``cost``, or that of the bounds if it is smaller."""
        ellipsoid = unit_ball_volume(len(self._centre)) * float(np.prod(self._half_axes(cost)))
        return min(ellipsoid, float(np.prod(self._high - self._low)))

    def draw(self, cost: float) -> Points:
        """One point ``(D,)`` that a path shorter than ``cost`` could pass."""
        while True:
            while self._drawn:
                point = self._drawn.pop()
                # The point was drawn for an earlier cost, which may have fallen since.
                if self.contains(point[None], cost)[0]:
                    return point
            points = self._centre + self._ball() * self._half_axes(cost) @ self._axes.T
            inside = ((points >= self._low) & (points <= self._high)).all(1)
            self._drawn = list(points[inside])

    def _half_axes(self, cost: float) -> Points:
        # Widened by more than the rounding error of ``cost``, so that the ellipsoid always contains points.
        cost = max(cost, self.shortest) * (1 + 1e-12)
        axes = np.full(len(self._centre), math.sqrt(cost**2 - self.shortest**2) / 2)
        axes[0] = cost / 2
        return axes

    def _ball(self) -> Points:
        """Points ``(B, D)`` drawn evenly from the unit ball."""
        directions = self._rng.standard_normal((AHEAD, len(self._centre)))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        points: Points = directions * self._rng.random((AHEAD, 1)) ** (1 / len(self._centre))
        return points


def _rotation(direction: Points) -> Points:
    """An orthogonal matrix ``(D, D)`` whose first column is ``direction``."""
    basis = np.eye(len(direction))
    basis[:, 0] = direction
    if abs(direction[0]) < 0.5:  # keep the columns independent
        basis[:, int(np.abs(direction).argmax())] = np.eye(len(direction))[0]
    orthogonal, upper = np.linalg.qr(basis)
    rotated: Points = orthogonal * np.sign(np.diag(upper))
    return rotated


def unit_ball_volume(dimensions: int) -> float:
    r"""The volume of the unit ball, :math:`\zeta_d = \pi^{d/2} / \Gamma(d/2 + 1)`."""
    return float(math.pi ** (dimensions / 2)) / math.gamma(dimensions / 2 + 1)
