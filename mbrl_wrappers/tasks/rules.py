"""When an episode ends: the rules of the tasks as functions of the successor observation.

A predicted row that is not finite counts as a fall, never as a success: rules about health end such a row, rules
about a goal do not, and :data:`never_terminates` ends none. Rollouts drop rows that are not finite anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch as th
from torch import Tensor

from mbrl_wrappers.ranges import distance_to_edge
from mbrl_wrappers.storage.stored_functions import register_function


def check_width(rows: Tensor, width: int, what: str, owner: object) -> None:
    """Raise a ``ValueError`` that says what to do unless ``rows`` is ``(B, width)``."""
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(
            f"{type(owner).__name__} takes {what} of shape (B, {width}) but got {tuple(rows.shape)}. Call "
            "task_functions(env) on the wrapped environment whose observations and actions you pass, and add a "
            "batch axis to a single row."
        )


@register_function
@dataclass(frozen=True)
class Bound:
    """The range that the entries ``start:stop`` of an observation must keep to."""

    start: int
    stop: int
    low: float
    high: float


@register_function
@dataclass(frozen=True)
class Healthy:
    """Whether a state is healthy, ``(B,)`` bool: it is inside all bounds and the row is finite.

    Attributes:
        obs_size: ``O``.
        bounds: of the entries; of several for one entry the tightest counts.
        inclusive: whether the ends of the ranges are healthy (Ant, the pendulums) or not (Hopper, Walker2d,
            Humanoid): ``is_healthy`` of each task in gymnasium/envs/mujoco/*_v5.py.
    """

    obs_size: int
    bounds: tuple[Bound, ...]
    inclusive: bool = False

    def __call__(self, next_obs: Tensor) -> Tensor:
        """Judge ``next_obs (B, O)``."""
        low, high = _range_per_dimension(self, next_obs.dtype, next_obs.device)
        # Two-sided: comparing abs(obs) with one limit would be wrong for other ranges, and the often copied
        # abs(obs < limit) lets a large negative value pass. A NaN compares false.
        distance = distance_to_edge(next_obs, low, high)
        return distance >= 0 if self.inclusive else distance > 0


@lru_cache(maxsize=64)
def _range_per_dimension(healthy: Healthy, dtype: th.dtype, device: th.device) -> tuple[Tensor, Tensor]:
    """What each dimension must keep to, ``(O,)`` each: the tightest of its bounds, and finite where it has none."""
    largest = th.finfo(dtype).max
    low, high = (th.full((healthy.obs_size,), end, dtype=dtype, device=device) for end in (-largest, largest))
    for bound in healthy.bounds:
        part = slice(bound.start, bound.stop)
        low[part] = low[part].clamp(min=bound.low)
        high[part] = high[part].clamp(max=bound.high)
    return low, high


@register_function
@dataclass(frozen=True)
class Unhealthy:
    """Ends the episode when the successor is not healthy (or not finite)."""

    healthy: Healthy

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` bool from ``next_obs (B, O)``."""
        check_width(next_obs, self.healthy.obs_size, "observations", self)
        return ~self.healthy(next_obs)


@register_function
@dataclass(frozen=True)
class NeverTerminates:
    """Ends no episode: the tasks whose only end is a time limit, and health rules that were switched off."""

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` False."""
        return th.zeros(len(next_obs), dtype=th.bool, device=next_obs.device)


never_terminates = NeverTerminates()
"""The rule to pass on when you know that a task of your own ends by time limit only."""


@register_function
@dataclass(frozen=True)
class CarAtGoal:
    """MountainCar: the car is at the goal and fast enough.

    ``position >= goal_position and velocity >= goal_velocity``, gymnasium/envs/classic_control/mountain_car.py.
    """

    goal_position: float
    goal_velocity: float

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` bool from ``next_obs (B, 2)``."""
        check_width(next_obs, 2, "observations", self)
        return (next_obs[:, 0] >= self.goal_position) & (next_obs[:, 1] >= self.goal_velocity)


@register_function
@dataclass(frozen=True)
class AcrobotUpright:
    """Acrobot: the free end is one link above the base.

    ``-cos(t1) - cos(t1 + t2) > 1``, gymnasium/envs/classic_control/acrobot.py, with the observation
    ``[cos t1, sin t1, cos t2, sin t2, ...]``.
    """

    height: float = 1.0

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` bool from ``next_obs (B, 6)``."""
        check_width(next_obs, 6, "observations", self)
        cos1, sin1, cos2, sin2 = next_obs[:, :4].unbind(1)
        return -cos1 - (cos1 * cos2 - sin1 * sin2) > self.height


@register_function
@dataclass(frozen=True)
class DoublePendulumTip:
    """Where the tip of the double pendulum is.

    ``x_tip = x + l1 sin(a) + l2 sin(a + b)`` and ``y_tip = l1 cos(a) + l2 cos(a + b)``, from the observation
    ``[x, sin a, sin b, cos a, cos b, ...]`` of InvertedDoublePendulum-v5.

    Attributes:
        lower: ``l1``, metres.
        upper: ``l2``, metres.
    """

    lower: float
    upper: float

    def __call__(self, next_obs: Tensor) -> tuple[Tensor, Tensor]:
        """``x_tip (B,)`` and ``y_tip (B,)``."""
        x, sin_a, sin_b, cos_a, cos_b = next_obs[:, :5].unbind(1)
        sin_ab = sin_a * cos_b + cos_a * sin_b
        cos_ab = cos_a * cos_b - sin_a * sin_b
        return x + self.lower * sin_a + self.upper * sin_ab, self.lower * cos_a + self.upper * cos_ab


@register_function
@dataclass(frozen=True)
class TipBelow:
    """InvertedDoublePendulum: the tip is at or below ``height`` (or the row is not finite)."""

    tip: DoublePendulumTip
    height: float = 1.0

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` bool from ``next_obs (B, 9)``."""
        check_width(next_obs, 9, "observations", self)
        _, y = self.tip(next_obs)
        return ~((y > self.height) & next_obs.isfinite().all(1))
