"""Small corrections of all actions of a plan, which move the end of its path from near the goal to the goal."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from scipy.optimize import lsq_linear
from torch import Generator, Tensor

from controllers.motion.collision import Checker
from controllers.motion.kinodynamic_path import KinodynamicPlan
from controllers.motion.kinodynamic_problem import KinodynamicProblem
from controllers.motion.space import Points
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.seeding import draw_seed, torch_generator

NUDGE = 1e-2  # finite-difference step of an action, in model units
RIDGE = 1e-3  # weight lambda of the size of a correction, relative to the remaining gap


@th.no_grad()
def close_gap(
    problem: KinodynamicProblem[Any],
    plan: KinodynamicPlan,
    tolerance: float = 1e-3,
    *,
    extra_steps: int = 5,
    iterations: int = 8,
    generator: Generator,
) -> KinodynamicPlan:
    r"""Correct all actions together so that the path ends at the goal, adding steps where it must (Gauss-Newton).

    With :math:`g` the gap at the end and :math:`J` its Jacobian in the actions, by finite differences in one batched
    rollout, each iteration solves

    .. math:: \min_\delta |J \delta + g|^2 + \lambda^2 |\delta|^2, \qquad low \le a + \delta \le high.

    Where that stalls, the plan gets one step more, up to ``extra_steps``.

    Args:
        problem: that the plan is of.
        plan: to correct.
        tolerance: gap to come down to, in the problem's metric.
        extra_steps: how much longer the plan may become.
        iterations: corrections per length.
        generator: source of the model's draws, the same for all rollouts.

    Returns:
        A plan whose path is free and ends within ``tolerance``, or ``plan`` itself where none was found.

    Raises:
        TypeError: for discrete actions, which have no small corrections.
    """
    if problem.codec.groups:
        raise TypeError(
            f"close_gap corrects continuous actions by a little, and {problem.codec.action_space} is discrete."
        )
    within("tolerance", tolerance, 0)
    at_least("extra_steps", extra_steps, 0)
    if plan.gap <= tolerance or not plan.cost:
        return plan
    seed = draw_seed(generator)
    low, high = (edge.double().numpy() for edge in problem.codec.bounds)
    actions = plan.actions.double().cpu().numpy()
    for _ in range(extra_steps + 1):
        actions, places = _corrected(problem, actions, tolerance, iterations, seed)
        gap = float(problem.gaps(places[-1]))
        if gap <= tolerance and _is_free(problem, places):
            final = th.from_numpy(actions.astype(np.float32)).to(plan.actions)
            return plan._replace(actions=final, path=places, gap=gap, solved=True)
        actions = np.concatenate([actions, np.clip(0.0, low, high)[None]])
    return plan


def _corrected(
    problem: KinodynamicProblem[Any], actions: Points, tolerance: float, iterations: int, seed: int
) -> tuple[Points, Points]:
    """The actions ``(H, A)`` after all corrections that reduce the gap, and their path ``(H + 1, D)``."""
    low, high = (np.tile(edge.double().numpy(), len(actions)) for edge in problem.codec.bounds)
    weights = problem.weights[~problem.is_free]
    goal = problem.goal[~problem.is_free]
    places = _roll(problem, actions[None], seed)[:, 0]
    for _ in range(iterations):
        gap = float(problem.gaps(places[-1]))
        if not gap > tolerance:
            break
        flat = actions.reshape(-1)
        nudges = np.where(flat > (low + high) / 2, -NUDGE, NUDGE)
        ends = _roll(problem, (flat + np.diag(nudges)).reshape(len(flat), *actions.shape), seed)[-1]
        moved = ((ends - places[-1])[:, ~problem.is_free] * weights / nudges[:, None]).T  # (G, H A)
        left = (places[-1][~problem.is_free] - goal) * weights
        if not np.isfinite(moved).all():
            break
        system = np.concatenate([moved, RIDGE * np.eye(len(flat))])
        sides = np.concatenate([-left, np.zeros(len(flat))])
        room = 1e-9  # the solver needs low < high
        delta = lsq_linear(system, sides, (np.minimum(low - flat, 0) - room, np.maximum(high - flat, 0) + room)).x
        tried = np.clip(flat + delta, low, high).reshape(actions.shape).astype(np.float32).astype(np.float64)
        reached = _roll(problem, tried[None], seed)[:, 0]
        if not problem.gaps(reached[-1]) < gap:
            break
        actions, places = tried, reached
    return actions, places


def _roll(problem: KinodynamicProblem[Any], actions: Points, seed: int) -> Points:
    """Coordinates ``(H + 1, B, D)`` of plans ``(B, H, A)``; NaN from a termination or an invalid prediction on."""
    model, generator = problem.model, torch_generator(seed, problem.model.device)
    start = problem.begin(generator)
    rows: Tensor = th.zeros(len(actions), dtype=th.long, device=model.device)
    places = [problem.coordinates(start, problem.start).repeat(len(actions), 0)]
    state = take_rows(start, rows)
    steps = th.from_numpy(actions.astype(np.float32)).to(model.device)
    ended = np.zeros(len(actions), bool)
    for t in range(actions.shape[1]):
        state, prediction = model.step(state, steps[:, t], generator=generator)
        ended |= problem.is_over(prediction)
        places.append(np.where(ended[:, None], np.nan, problem.coordinates(state, prediction.next_obs)))
    return np.stack(places)


def _is_free(problem: KinodynamicProblem[Any], places: Points) -> bool:
    """Whether a path ``(H + 1, D)`` is finite and free at the resolution."""
    track = problem.to_metric(places)
    return bool(np.isfinite(track).all() and Checker(problem).edges_valid(track[:-1], track[1:]).all())
