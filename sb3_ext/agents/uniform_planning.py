"""The planning updates of Dyna-Q and Dyna-Q+: one function, run as it is or compiled by numba.

Both ways do the same arithmetic on the same float64 numbers in the same order, so their results are equal bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from mbrl_wrappers.optional import require
from sb3_ext.agents.planning_memory import Tables

PLAIN = -1.0
"""Value of ``kappa`` that selects Dyna-Q, which has no exploration bonus."""


def plan(
    tables: Tables, draws: Any, num_actions: int, kept: int, step_size: float, gamma: float, kappa: float
) -> float:
    r"""Planning updates, one for each row of three numbers in ``draws``.

    A row draws a state uniformly among those in which an action was ever taken, then an action uniformly among those
    ever taken in it, then one of the pair's kept outcomes, and updates

    .. math:: Q(s, a) \leftarrow Q(s, a) + \alpha\,[r + \gamma \max_{a'} Q(s', a') - Q(s, a)].

    (Sutton and Barto 2018, section 8.2: states are drawn first, so a pair of a state with few known actions is drawn
    more often than a pair of one with many.) With ``kappa`` of at least 0 it is Dyna-Q+ (section 8.3): the action is
    any, one never tried leads back to its state with reward 0, and the reward grows by
    :math:`\kappa \sqrt{\tau}`, where :math:`\tau` is the number of real steps since the pair was last tried (since
    the beginning, if never).

    Args:
        tables: memory and values; the values are changed.
        draws: ``(3 * n,)`` uniform numbers in [0, 1).
        num_actions: ``A``.
        kept: ``K``, outcomes per pair.
        step_size: alpha.
        gamma: discount.
        kappa: weight of the bonus; ``PLAIN`` for Dyna-Q.

    Returns:
        The sum of the absolute errors.
    """
    # Looked up once and not for every number: in plain Python this doubles the speed.
    q, next_state, rewards, alive, tries, last_try, visited, tried, num_tried, size = tables
    num_visited, now, plus = size[0], size[1], kappa >= 0.0
    total = 0.0
    for row in range(0, len(draws), 3):
        state = visited[int(draws[row] * num_visited)]
        if plus:
            pair = state * num_actions + int(draws[row + 1] * num_actions)
        else:
            pair = state * num_actions
            pair += tried[pair + int(draws[row + 1] * num_tried[state])]
        known = min(tries[pair], kept)
        following, reward, discount = state, 0.0, gamma
        if known > 0:
            slot = pair * kept + int(draws[row + 2] * known)
            following, reward, discount = next_state[slot], rewards[slot], gamma * alive[slot]
        if plus:
            reward += kappa * math.sqrt(now - last_try[pair])
        first = following * num_actions
        best = q[first]
        for other in range(first + 1, first + num_actions):
            if q[other] > best:
                best = q[other]
        error = reward + discount * best - q[pair]
        q[pair] += step_size * error
        total += abs(error)
    return total


def numba_is_installed() -> bool:
    """Whether :func:`compiled_plan` can work."""
    return find_spec("numba") is not None


@cache
def compiled_plan() -> Callable[..., float]:
    """:func:`plan` compiled for arrays; takes a second or two the first time, then comes from numba's cache.

    Raises:
        ImportError: if numba is missing; the message names the extra.
    """
    # Without fastmath numba keeps every rounding where Python has it.
    compiled: Callable[..., float] = require("numba", extra="numba").njit(cache=True)(plan)
    return compiled
