"""Timing of a path: speeds limited by corners, rest at both ends, and the maximum acceleration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from controllers.motion.space import Points
from mbrl_wrappers.checks import within


class Reference(NamedTuple):
    """A path in time: ``places (T, D)`` and ``speeds (T, D)`` at each step; the last step rests at the end."""

    places: Points
    speeds: Points


@dataclass(frozen=True)
class Pace:
    r"""How fast a path may be driven.

    At a corner that turns by :math:`\theta` the speed is that of the arc which leaves the corner by at most
    ``deviation``: of radius :math:`r = deviation / (1/\cos(\theta/2) - 1)`, and :math:`v^2 = a r`. Between corners,
    :math:`v^2` changes by at most :math:`2 a` per length, and the path begins and ends at rest.

    Attributes:
        speed: highest, in lengths per second.
        acceleration: ``a``, in lengths per second squared; well below what the motors can do leaves room to correct.
        deviation: how far from a corner one may pass.
    """

    speed: float
    acceleration: float
    deviation: float = 0.05

    def __post_init__(self) -> None:
        for name in ("speed", "acceleration", "deviation"):
            if not within(name, getattr(self, name), 0):
                raise ValueError(f"{name} must be above 0.")

    def at_corners(self, path: Points) -> Points:
        """The speeds ``(M,)`` at the corners ``path (M, D)``; neighbouring corners must differ."""
        edges = np.diff(path, axis=0)
        lengths = np.linalg.norm(edges, axis=1)
        ways = edges / lengths[:, None]
        cosine = np.clip((ways[:-1] * ways[1:]).sum(1), -1, 1)
        half = np.sqrt((1 + cosine) / 2)  # cos(theta / 2)
        with np.errstate(divide="ignore"):
            radius = self.deviation * half / (1 - half)  # no corner: infinite
        squares = np.zeros(len(path))
        squares[1:-1] = np.minimum(self.acceleration * radius, self.speed**2)
        for step in range(1, len(path)):  # forward pass: acceleration from the corner before
            squares[step] = min(squares[step], squares[step - 1] + 2 * self.acceleration * lengths[step - 1])
        for step in range(len(path) - 2, -1, -1):  # backward pass: braking before the next corner
            squares[step] = min(squares[step], squares[step + 1] + 2 * self.acceleration * lengths[step])
        return np.sqrt(squares)

    def reference(self, path: Points, seconds: float) -> Reference:
        """The reference at every step of ``seconds`` along the corners ``path (M, D)``.

        Raises:
            ValueError: for a path that is not ``(M, D)`` finite numbers, and for a step that is not positive.
        """
        path = np.asarray(path, np.float64)
        if path.ndim != 2 or not len(path) or not np.isfinite(path).all() or not within("seconds", seconds, 0):
            raise ValueError(f"A path has finite corners (M, D) and a step some length; got {path.shape}, {seconds} s.")
        path = path[np.concatenate([[True], (np.diff(path, axis=0) != 0).any(1)])]
        if len(path) == 1:
            return Reference(path, np.zeros_like(path))
        corners = self.at_corners(path)
        places, speeds = [path[:1]], [np.zeros_like(path[:1])]
        late = seconds  # from the beginning of the edge to the next step
        for first, last, slow, fast in zip(path[:-1], path[1:], corners[:-1], corners[1:], strict=True):
            length = float(np.linalg.norm(last - first))
            clock, along, speed = self._edge(length, float(slow), float(fast), late, seconds)
            places.append(first + along[:, None] / length * (last - first))
            speeds.append(speed[:, None] / length * (last - first))
            late = (late + len(along) * seconds) - clock
        places.append(path[-1:])
        speeds.append(np.zeros_like(path[:1]))
        return Reference(np.concatenate(places), np.concatenate(speeds))

    def _edge(
        self, length: float, slow: float, fast: float, late: float, seconds: float
    ) -> tuple[float, Points, Points]:
        """Time for one edge, and length covered and speed at each step on it: speed up, cruise, brake."""
        top = min(self.speed, np.sqrt(self.acceleration * length + (slow**2 + fast**2) / 2))
        up, down = (top - slow) / self.acceleration, (top - fast) / self.acceleration
        ramps = (2 * top**2 - slow**2 - fast**2) / (2 * self.acceleration)
        cruise = max(length - ramps, 0.0) / top
        total = up + cruise + down
        times = late + seconds * np.arange(max(int(np.ceil((total - late) / seconds)), 0))
        rising, braking = np.minimum(times, up), np.maximum(times - up - cruise, 0)
        along = slow * rising + self.acceleration / 2 * rising**2 + top * np.clip(times - up, 0, cruise + down)
        along = along - self.acceleration / 2 * braking**2
        speed = slow + self.acceleration * rising - self.acceleration * braking
        return float(total), np.clip(along, 0, length), np.maximum(speed, 0)
