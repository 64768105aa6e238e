"""Recipes: how the rules of a known task are read from a live environment.

A task is recognised by the exact class of the unwrapped environment, so that neither an older version nor a subclass
is taken for it, and every constant that the environment keeps is read from the instance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mbrl_wrappers.tasks.locomotion import (
    CenterOfMassVelocity,
    ContactCost,
    Displacement,
    Forward,
    LocomotionReward,
    MeanVelocity,
    ObservedVelocity,
    StandupReward,
)
from mbrl_wrappers.tasks.observation_layout import ObservationLayout
from mbrl_wrappers.tasks.rewards import (
    AliveReward,
    DoublePendulumReward,
    GoalReward,
    PendulumReward,
    PusherReward,
    ReacherReward,
    Reward,
)
from mbrl_wrappers.tasks.rules import (
    AcrobotUpright,
    Bound,
    CarAtGoal,
    DoublePendulumTip,
    Healthy,
    TipBelow,
    Unhealthy,
    never_terminates,
)
from mbrl_wrappers.types import TerminationFn

UNBOUNDED = (-math.inf, math.inf)


class Recipe(NamedTuple):
    """The rules of one task for one layout of its observation.

    Attributes:
        reward: the best function of the observation.
        termination: the rule that ends an episode.
        accuracy: of the reward: ``exact`` up to rounding; ``close``, good enough to be used unasked; or ``rough``.
        exact_end: whether the observation decides the termination.
        notes: what a user should know.
        full_turns: entries that are angles whose whole turns count, so that sine and cosine do not replace them.
    """

    reward: Reward
    termination: TerminationFn
    accuracy: Literal["exact", "close", "rough"] = "exact"
    exact_end: bool = True
    notes: tuple[str, ...] = ()
    full_turns: frozenset[int] = frozenset()


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def _forward(env: Any, layout: ObservationLayout, differences_qpos: bool) -> tuple[Forward, bool]:
    """How to read the forward velocity, and whether that is exact."""
    if layout.velocity is not None:
        return ObservedVelocity(layout.velocity), True
    (cinert, _), (cvel, stop) = layout.block(env, "cinert"), layout.block(env, "cvel")
    if stop > cvel > cinert:
        return CenterOfMassVelocity(cinert, cvel, (stop - cvel) // 6), False
    if layout.hidden == 0:
        return Displacement(0, float(env.dt)), differences_qpos
    return MeanVelocity(layout.block(env, "qvel")[0]), False


def _contact(
    env: Any, layout: ObservationLayout, weight: float, forces: Any, costs: Any
) -> tuple[ContactCost | None, bool]:
    """The contact cost, and whether leaving it out (None) is exact."""
    start, stop = layout.block(env, "cfrc_ext")
    if weight == 0 and costs[0] <= 0 <= costs[1]:
        return None, True
    if stop == start:
        return None, False
    return ContactCost(start, stop, float(weight), _pair(forces), _pair(costs)), True


def _contact_note(task: str, weight_name: str) -> str:
    return (
        f"{task} charges for contact forces, which this observation does not show: learn the reward, or build the "
        f"environment with include_cfrc_ext_in_observation=True or {weight_name}=0."
    )


def _locomotion(
    env: Any,
    layout: ObservationLayout,
    *,
    healthy: Healthy | None = None,
    contact: tuple[ContactCost | None, bool] = (None, True),
    differences_qpos: bool = True,
    notes: tuple[str, ...] = (),
    full_turns: frozenset[int] = frozenset(),
) -> Recipe:
    """The recipe that the six tasks which pay for forward velocity share."""
    forward, forward_exact = _forward(env, layout, differences_qpos)
    contact_cost, contact_exact = contact
    reward = LocomotionReward(
        obs_size=layout.obs_size,
        action_size=int(env.action_space.shape[0]),
        forward=forward,
        forward_weight=float(env._forward_reward_weight),
        ctrl_weight=float(env._ctrl_cost_weight),
        health_weight=0.0 if healthy is None else float(env._healthy_reward),
        healthy=healthy,
        contact=contact_cost,
    )
    task = type(env).__name__.removesuffix("Env")
    if not forward_exact:
        notes += (
            f"{task} pays for the displacement over the step, which this observation does not show: learn the reward, "
            "or wrap the environment in mbrl_wrappers.tasks.ForwardVelocityObservation to compute it exactly.",
        )
    if not contact_exact:
        notes += (_contact_note(task, "contact_cost_weight"),)
    ends = healthy is not None and env._terminate_when_unhealthy
    if healthy is not None and not ends:
        notes += ("Falling does not end an episode: terminate_when_unhealthy=False.",)
    termination = Unhealthy(healthy) if healthy is not None and ends else never_terminates
    accuracy: Literal["exact", "rough"] = "exact" if forward_exact and contact_exact else "rough"
    return Recipe(reward, termination, accuracy, notes=notes, full_turns=full_turns)


def _turns(env: Any, index: int) -> frozenset[int]:
    """The pitch counts its whole turns only where a robot may live on beyond half a turn."""
    survives = not env._terminate_when_unhealthy or max(map(abs, env._healthy_angle_range)) >= math.pi
    return frozenset({index}) if survives else frozenset()


def _upright(env: Any, layout: ObservationLayout) -> tuple[Bound, Bound]:
    """The bounds of height and pitch, which follow each other in the planar walkers."""
    z = 1 - layout.hidden
    return Bound(z, z + 1, *_pair(env._healthy_z_range)), Bound(z + 1, z + 2, *_pair(env._healthy_angle_range))


def _above_ground(env: Any, layout: ObservationLayout, *, inclusive: bool = False) -> Healthy:
    """The torso's height keeps to its range: the health of Ant and Humanoid."""
    z = 2 - layout.hidden
    return Healthy(layout.obs_size, (Bound(z, z + 1, *_pair(env._healthy_z_range)),), inclusive=inclusive)


def _hopper(env: Any, velocity: int | None) -> Recipe:
    layout = ObservationLayout.of(env, 1, velocity)
    angle = 2 - layout.hidden
    state = Bound(angle, layout.block(env, "qvel")[1], *_pair(env._healthy_state_range))
    healthy = Healthy(layout.obs_size, (*_upright(env, layout), state))
    recipe = _locomotion(env, layout, healthy=healthy, full_turns=_turns(env, angle))
    limits = [abs(limit) for limit in env._healthy_state_range]
    # Health is judged by the true velocities, the observation clips them at 10. Limits up to 10 are seen, and the
    # default limits of 100 were never reached in the simulator (they stop models that diverge); others may matter.
    if all(limit <= 10 or limit >= 100 for limit in limits):
        return recipe
    note = f"Hopper ends at velocities of {min(limits):g} but shows them clipped at 10: such ends are not recognised."
    accuracy: Literal["close", "rough"] = "close" if recipe.accuracy == "exact" else "rough"
    return recipe._replace(accuracy=accuracy, exact_end=False, notes=(*recipe.notes, note))


def _walker2d(env: Any, velocity: int | None) -> Recipe:
    layout = ObservationLayout.of(env, 1, velocity)
    healthy = Healthy(layout.obs_size, _upright(env, layout))
    return _locomotion(env, layout, healthy=healthy, full_turns=_turns(env, 2 - layout.hidden))


def _half_cheetah(env: Any, velocity: int | None) -> Recipe:
    return _locomotion(env, ObservationLayout.of(env, 1, velocity))


def _swimmer(env: Any, velocity: int | None) -> Recipe:
    return _locomotion(env, ObservationLayout.of(env, 2, velocity))


def _ant(env: Any, velocity: int | None) -> Recipe:
    layout = ObservationLayout.of(env, 2, velocity)
    healthy = _above_ground(env, layout, inclusive=True)
    contact = _contact(env, layout, env._contact_cost_weight, env._contact_force_range, UNBOUNDED)
    # Ant differences the position of a body, which lags qpos by a part of the last physics step.
    return _locomotion(env, layout, healthy=healthy, contact=contact, differences_qpos=False)


def _humanoid(env: Any, velocity: int | None) -> Recipe:
    layout = ObservationLayout.of(env, 2, velocity)
    healthy = _above_ground(env, layout)
    contact = _contact(env, layout, env._contact_cost_weight, UNBOUNDED, env._contact_cost_range)
    return _locomotion(env, layout, healthy=healthy, contact=contact, differences_qpos=False)


def _humanoid_standup(env: Any, velocity: int | None) -> Recipe:
    layout = ObservationLayout.of(env, 2, None)
    contact, exact = _contact(env, layout, env._impact_cost_weight, UNBOUNDED, env._impact_cost_range)
    reward = StandupReward(
        obs_size=layout.obs_size,
        action_size=int(env.action_space.shape[0]),
        z_index=2 - layout.hidden,
        timestep=float(env.model.opt.timestep),
        ctrl_weight=float(env._ctrl_cost_weight),
        contact=contact,
    )
    notes = () if exact else (_contact_note("HumanoidStandup", "impact_cost_weight"),)
    return Recipe(reward, never_terminates, "exact" if exact else "rough", notes=notes)


def _inverted_pendulum(env: Any, velocity: int | None) -> Recipe:
    healthy = Healthy(4, (Bound(1, 2, -0.2, 0.2),), inclusive=True)
    return Recipe(AliveReward(healthy, alive=1.0, fallen=0.0), Unhealthy(healthy))


def _inverted_double_pendulum(env: Any, velocity: int | None) -> Recipe:
    second_pole = int(env.model.site_bodyid[0])
    tip = DoublePendulumTip(float(env.model.body_pos[second_pole][2]), float(env.model.site_pos[0][2]))
    note = (
        "The reward of InvertedDoublePendulum is recomputed closely, not exactly: the simulator's tip lags the "
        "observed angles (error about 1e-5), and velocities above 10 are observed as 10 (rare; error up to about 0.1)."
    )
    return Recipe(DoublePendulumReward(tip, float(env._healthy_reward)), TipBelow(tip), "close", notes=(note,))


def _reacher(env: Any, velocity: int | None) -> Recipe:
    return Recipe(ReacherReward(float(env._reward_dist_weight), float(env._reward_control_weight)), never_terminates)


def _pusher(env: Any, velocity: int | None) -> Recipe:
    weights = (env._reward_near_weight, env._reward_dist_weight, env._reward_control_weight)
    return Recipe(PusherReward(*map(float, weights)), never_terminates)


def _pendulum(env: Any, velocity: int | None) -> Recipe:
    return Recipe(PendulumReward(float(env.max_torque)), never_terminates)


def _cart_pole(env: Any, velocity: int | None) -> Recipe:
    place, angle = float(env.x_threshold), float(env.theta_threshold_radians)
    healthy = Healthy(4, (Bound(0, 1, -place, place), Bound(2, 3, -angle, angle)), inclusive=True)
    # The default pays 1 on the falling step too; the book's variant pays 0 and then -1.
    alive, fallen = (0.0, -1.0) if env._sutton_barto_reward else (1.0, 1.0)
    return Recipe(AliveReward(healthy, alive, fallen), Unhealthy(healthy))


def _mountain_car(env: Any, velocity: int | None) -> Recipe:
    goal = CarAtGoal(float(env.goal_position), float(env.goal_velocity))
    return Recipe(GoalReward(goal, at_goal=-1.0, elsewhere=-1.0), goal)


def _mountain_car_continuous(env: Any, velocity: int | None) -> Recipe:
    goal = CarAtGoal(float(env.goal_position), float(env.goal_velocity))
    return Recipe(GoalReward(goal, at_goal=100.0, elsewhere=0.0, ctrl_weight=0.1), goal)


def _acrobot(env: Any, velocity: int | None) -> Recipe:
    return Recipe(GoalReward(AcrobotUpright(), at_goal=0.0, elsewhere=-1.0), AcrobotUpright())


RECIPES: dict[str, Callable[[Any, int | None], Recipe]] = {
    "gymnasium.envs.mujoco.hopper_v5.HopperEnv": _hopper,
    "gymnasium.envs.mujoco.walker2d_v5.Walker2dEnv": _walker2d,
    "gymnasium.envs.mujoco.half_cheetah_v5.HalfCheetahEnv": _half_cheetah,
    "gymnasium.envs.mujoco.swimmer_v5.SwimmerEnv": _swimmer,
    "gymnasium.envs.mujoco.ant_v5.AntEnv": _ant,
    "gymnasium.envs.mujoco.humanoid_v5.HumanoidEnv": _humanoid,
    "gymnasium.envs.mujoco.humanoidstandup_v5.HumanoidStandupEnv": _humanoid_standup,
    "gymnasium.envs.mujoco.inverted_pendulum_v5.InvertedPendulumEnv": _inverted_pendulum,
    "gymnasium.envs.mujoco.inverted_double_pendulum_v5.InvertedDoublePendulumEnv": _inverted_double_pendulum,
    "gymnasium.envs.mujoco.reacher_v5.ReacherEnv": _reacher,
    "gymnasium.envs.mujoco.pusher_v5.PusherEnv": _pusher,
    "gymnasium.envs.classic_control.pendulum.PendulumEnv": _pendulum,
    "gymnasium.envs.classic_control.cartpole.CartPoleEnv": _cart_pole,
    "mbrl_wrappers.envs.cart_pole.ContinuousCartPole": _cart_pole,
    "gymnasium.envs.classic_control.mountain_car.MountainCarEnv": _mountain_car,
    "gymnasium.envs.classic_control.continuous_mountain_car.Continuous_MountainCarEnv": _mountain_car_continuous,
    "gymnasium.envs.classic_control.acrobot.AcrobotEnv": _acrobot,
}
"""Full class name of the unwrapped environment to the reader of its rules ``(env, index of the velocity)``."""
