r"""Rewards of the MuJoCo tasks that pay for moving forward or for standing up.

.. math:: r = w_f\,\dot x + r_h\,1[\text{healthy}(s')] - w_c \sum u^2 - \text{contact cost}(s')

The five terms are those of gymnasium/envs/mujoco/{hopper,walker2d,half_cheetah,swimmer,ant,humanoid}_v5.py. The
tasks differ in their constants and in how much of :math:`\dot x = (x' - x)/dt` an observation shows; the
``Forward`` classes below are the ways to read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch as th
from torch import Tensor

from mbrl_wrappers.storage.stored_functions import register_function
from mbrl_wrappers.tasks.control import ChargesControl
from mbrl_wrappers.tasks.rules import Healthy, check_width


@register_function
@dataclass(frozen=True)
class ObservedVelocity:
    """Exact: ``next_obs`` holds the velocity over the step, as :class:`ForwardVelocityObservation` provides it."""

    index: int

    def __call__(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` metres per second."""
        return next_obs[:, self.index]


@register_function
@dataclass(frozen=True)
class Displacement:
    """``(x' - x) / dt`` from the positions in both observations.

    Exact where the task itself differences ``qpos`` (Hopper, Walker2d, HalfCheetah, Swimmer). Far from the origin
    float32 positions are coarse: at x = 25 m the quantum of Hopper's reward is 2.4e-4.
    """

    index: int
    dt: float

    def __call__(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` metres per second."""
        return (next_obs[:, self.index] - obs[:, self.index]) / self.dt


@register_function
@dataclass(frozen=True)
class MeanVelocity:
    """An approximation: the mean of the root's velocities before and after the step (the trapezoidal rule)."""

    index: int

    def __call__(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` metres per second."""
        return (obs[:, self.index] + next_obs[:, self.index]) / 2


@register_function
@dataclass(frozen=True)
class CenterOfMassVelocity:
    r"""An approximation for Humanoid: the mean of the centre of mass's velocities before and after the step.

    They are read from MuJoCo's body blocks, which lag the state by a part of the last physics step.

    Each row of ``cinert`` is (inertia (6), :math:`m_i o_i` (3), :math:`m_i`) with the offset :math:`o_i` of body i
    from the centre of mass of the whole; each row of ``cvel`` is (:math:`\omega_i`, :math:`v_i`) about that point, so

    .. math:: \dot c = \frac{\sum_i m_i v_i + \omega_i \times m_i o_i}{\sum_i m_i}.

    Attributes:
        cinert: where the ``bodies * 10`` entries of ``cinert`` start.
        cvel: where the ``bodies * 6`` entries of ``cvel`` start.
        bodies: how many bodies, the world excluded.
    """

    cinert: int
    cvel: int
    bodies: int

    def _velocity(self, rows: Tensor) -> Tensor:
        inertia = rows[:, self.cinert : self.cinert + 10 * self.bodies].reshape(-1, self.bodies, 10)
        velocity = rows[:, self.cvel : self.cvel + 6 * self.bodies].reshape(-1, self.bodies, 6)
        first_moment, mass = inertia[..., 6:9], inertia[..., 9]
        turning: Tensor = th.linalg.cross(velocity[..., :3], first_moment)[..., 0]
        return (mass * velocity[..., 3] + turning).sum(1) / mass.sum(1)

    def __call__(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` metres per second."""
        return (self._velocity(obs) + self._velocity(next_obs)) / 2


Forward = ObservedVelocity | Displacement | MeanVelocity | CenterOfMassVelocity


@register_function
@dataclass(frozen=True)
class ContactCost:
    r""":math:`clip(w \sum clip(f, f_{low}, f_{high})^2, c_{low}, c_{high})` over the external contact forces.

    Ant clips each force (``contact_force_range``), Humanoid and HumanoidStandup clip the cost
    (``contact_cost_range``, ``impact_cost_range``). The entries ``start:stop`` of the observation leave out the
    world body, on which MuJoCo reports no force.
    """

    start: int
    stop: int
    weight: float
    force_range: tuple[float, float]
    cost_range: tuple[float, float]

    def __call__(self, next_obs: Tensor) -> Tensor:
        """``(B,)`` cost of ``next_obs (B, O)``."""
        forces = next_obs[:, self.start : self.stop].clamp(*self.force_range)
        return (self.weight * forces.square().sum(1)).clamp(*self.cost_range)


@register_function
@dataclass(frozen=True)
class LocomotionReward(ChargesControl):
    """Forward velocity, plus health, minus the costs of control and contact (the formula is in the module).

    Attributes:
        obs_size: ``O``.
        action_size: ``A``.
        forward: how the forward velocity is read from the observations.
        forward_weight: reward per metre and second.
        ctrl_weight: cost per squared unit of action.
        health_weight: reward of a healthy successor; v5 does not pay it on the step that falls.
        healthy: when it is paid; None for HalfCheetah and Swimmer.
        contact: None where the task charges for no contact, or where an approximation leaves it out.
    """

    obs_size: int
    action_size: int
    forward: Forward
    forward_weight: float
    ctrl_weight: float
    health_weight: float = 0.0
    healthy: Healthy | None = None
    contact: ContactCost | None = None

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` in the dtype of ``next_obs (B, O)``."""
        check_width(obs, self.obs_size, "observations", self)
        check_width(next_obs, self.obs_size, "observations", self)
        reward = self.forward_weight * self.forward(obs, next_obs)
        if self.uses_action:
            reward = reward - self.control_cost(action, self.action_size, next_obs.dtype)
        if self.healthy is not None:
            reward = reward + self.health_weight * self.healthy(next_obs).to(next_obs.dtype)
        if self.contact is not None:
            reward = reward - self.contact(next_obs)
        return reward


@register_function
@dataclass(frozen=True)
class StandupReward(ChargesControl):
    r"""HumanoidStandup: :math:`w_z z'/h + 1 - w_c \sum u^2` minus the cost of impacts.

    Source: gymnasium/envs/mujoco/humanoidstandup_v5.py. There ``h`` is the timestep of the physics (not ``dt``) and
    ``uph_cost_weight`` is stored but never used, hence ``w_z = 1``.

    Attributes:
        obs_size: ``O``.
        action_size: ``A``.
        z_index: the torso's height in the observation.
        timestep: ``h``, seconds.
        ctrl_weight: cost per squared unit of action.
        contact: the cost of impacts; None where an approximation leaves it out.
    """

    obs_size: int
    action_size: int
    z_index: int
    timestep: float
    ctrl_weight: float
    contact: ContactCost | None = None

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` in the dtype of ``next_obs (B, O)``."""
        check_width(next_obs, self.obs_size, "observations", self)
        reward = next_obs[:, self.z_index] / self.timestep + 1
        if self.uses_action:
            reward = reward - self.control_cost(action, self.action_size, next_obs.dtype)
        return reward if self.contact is None else reward - self.contact(next_obs)
