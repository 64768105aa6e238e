"""Rewards of the reaching, balancing and classic control tasks.

Every reward maps ``obs (B, O)``, ``action (B, A)`` or ``(B,)`` and ``next_obs (B, O)``, in environment units, to
``(B,)`` in the dtype of ``next_obs``, and says by ``uses_action`` whether the action matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch as th
from torch import Tensor

from mbrl_wrappers.storage.stored_functions import register_function
from mbrl_wrappers.tasks.control import ChargesControl
from mbrl_wrappers.tasks.rules import AcrobotUpright, CarAtGoal, DoublePendulumTip, Healthy, check_width


class Reward(Protocol):
    """What every reward of this package is, those in ``locomotion.py`` included."""

    @property
    def uses_action(self) -> bool:
        """Whether the reward depends on the action."""
        ...

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` in the dtype of ``next_obs``."""
        ...


@register_function
@dataclass(frozen=True)
class AliveReward:
    """InvertedPendulum and CartPole: one constant while healthy, another on the step that falls.

    Source: gymnasium/envs/mujoco/inverted_pendulum_v5.py, gymnasium/envs/classic_control/cartpole.py.
    """

    healthy: Healthy
    alive: float
    fallen: float

    @property
    def uses_action(self) -> bool:
        """False: standing is all that counts."""
        return False

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` from ``next_obs (B, O)``."""
        check_width(next_obs, self.healthy.obs_size, "observations", self)
        return self.fallen + (self.alive - self.fallen) * self.healthy(next_obs).to(next_obs.dtype)


@register_function
@dataclass(frozen=True)
class GoalReward(ChargesControl):
    r"""MountainCar and Acrobot: one constant at the goal, another elsewhere, minus :math:`w_c u^2`.

    Source: gymnasium/envs/classic_control/{mountain_car,continuous_mountain_car,acrobot}.py.
    """

    goal: CarAtGoal | AcrobotUpright
    at_goal: float
    elsewhere: float
    ctrl_weight: float = 0.0

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` from ``action (B, 1)`` (ignored without a control cost) and ``next_obs (B, O)``."""
        reached = self.goal(obs, action, next_obs).to(next_obs.dtype)
        reward = self.elsewhere + (self.at_goal - self.elsewhere) * reached
        if not self.uses_action:
            return reward
        return reward - self.control_cost(action, 1, next_obs.dtype)


@register_function
@dataclass(frozen=True)
class PendulumReward:
    r"""Pendulum-v1: :math:`-(\theta^2 + 0.1\,\dot\theta^2 + 0.001\,u^2)` of the state *before* the step.

    Source: gymnasium/envs/classic_control/pendulum.py. The angle is zero upright and in :math:`(-\pi, \pi]`; the
    torque is clipped before it is charged.
    """

    max_torque: float

    @property
    def uses_action(self) -> bool:
        """True: torque costs."""
        return True

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` from ``obs (B, 3)``, which is ``[cos, sin, velocity]``, and ``action (B, 1)``."""
        check_width(obs, 3, "observations", self)
        check_width(action, 1, "actions", self)
        cos, sin, velocity = obs.unbind(1)
        torque = action[:, 0].to(obs.dtype).clamp(-self.max_torque, self.max_torque)
        cost: Tensor = th.atan2(sin, cos).square() + 0.1 * velocity.square() + 0.001 * torque.square()
        return -cost


@register_function
@dataclass(frozen=True)
class ReacherReward(ChargesControl):
    r"""Reacher-v5: :math:`-w_d \lVert tip - target \rVert - w_c \sum u^2`.

    Source: gymnasium/envs/mujoco/reacher_v5.py. The last two entries of the successor are the difference (both
    points move in one plane). The angles in the same observation are one physics step newer than the fingertip
    (Gymnasium issue 1690), so the distance cannot be taken from the angles.
    """

    distance_weight: float
    ctrl_weight: float

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` from ``action (B, 2)`` and ``next_obs (B, 10)``."""
        check_width(next_obs, 10, "observations", self)
        distance: Tensor = th.linalg.vector_norm(next_obs[:, -2:], dim=1)
        return -self.distance_weight * distance - self.control_cost(action, 2, next_obs.dtype)


@register_function
@dataclass(frozen=True)
class PusherReward(ChargesControl):
    r"""Pusher-v5: :math:`-w_d \lVert object - goal \rVert - w_n \lVert object - tip \rVert - w_c \sum u^2`.

    Source: gymnasium/envs/mujoco/pusher_v5.py; tip, object and goal are the entries 14:17, 17:20 and 20:23.
    """

    near_weight: float
    distance_weight: float
    ctrl_weight: float

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` from ``action (B, 7)`` and ``next_obs (B, 23)``."""
        check_width(next_obs, 23, "observations", self)
        tip, thing, goal = next_obs[:, 14:17], next_obs[:, 17:20], next_obs[:, 20:23]
        near: Tensor = th.linalg.vector_norm(thing - tip, dim=1)
        distance: Tensor = th.linalg.vector_norm(thing - goal, dim=1)
        cost = self.control_cost(action, 7, next_obs.dtype)
        return -self.distance_weight * distance - self.near_weight * near - cost


@register_function
@dataclass(frozen=True)
class DoublePendulumReward:
    r"""InvertedDoublePendulum-v5: :math:`r_h 1[y > 1] - 0.01 x^2 - (y - 2)^2 - 0.001 v_1^2 - 0.005 v_2^2` of the tip.

    Source: gymnasium/envs/mujoco/inverted_double_pendulum_v5.py. Very close but not exact: the simulator leaves
    the tip where the last stage of its integrator put it, and the observation clips the joint velocities at 10.
    """

    tip: DoublePendulumTip
    health_weight: float
    height: float = 1.0

    @property
    def uses_action(self) -> bool:
        """False: only the state counts."""
        return False

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` from ``next_obs (B, 9)``."""
        check_width(next_obs, 9, "observations", self)
        x, y = self.tip(next_obs)
        alive = self.health_weight * (y > self.height).to(next_obs.dtype)
        velocity_cost = 1e-3 * next_obs[:, 6].square() + 5e-3 * next_obs[:, 7].square()
        return alive - 0.01 * x.square() - (y - 2).square() - velocity_cost
