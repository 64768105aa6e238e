"""Checks of real observations and rewards before a tabular agent learns from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mbrl_wrappers.spaces import AnySpace
from mbrl_wrappers.tabular_data import table_rows


def rows_seen(observations: Any, space: AnySpace, step: int) -> list[int]:
    """The rows of the table, counted from 0, for the observations of all environments.

    Args:
        observations: ``(N,)`` numbers of ``space``.
        space: Discrete, with any start.
        step: real steps taken so far, for the error.

    Raises:
        ValueError: if one is no number of ``space``; it names the environment and the step.
    """
    assert isinstance(space, spaces.Discrete)
    first, last = int(space.start), int(space.start) + int(space.n) - 1
    given = np.asarray(observations)
    if given.ndim == 1 and given.dtype.kind in "iu":
        numbers = given.tolist()
        if all(first <= number <= last for number in numbers):
            return [number - first for number in numbers]
    return [_row(observation, space, index, step) for index, observation in enumerate(np.atleast_1d(given))]


def successor_rows(
    observations: Any, dones: NDArray[np.bool_], infos: list[dict[str, Any]], space: AnySpace, step: int
) -> list[int]:
    """The rows of the true successors of a step, which ``infos`` holds where an episode ended.

    Args:
        observations: ``(N,)`` numbers of ``space``; those of the next episode where one ended.
        dones: ``(N,)``, where an episode ended.
        infos: ``N`` of them.
        space: Discrete, with any start.
        step: real steps taken so far, for the error.

    Raises:
        ValueError: as :func:`rows_seen`, and if a last observation is missing.
    """
    assert isinstance(space, spaces.Discrete)
    rows = rows_seen(observations, space, step)
    for index in np.flatnonzero(dones).tolist():
        if "terminal_observation" not in infos[index]:
            raise ValueError(
                f"Environment {index}, step {step}: the episode is over and its info has no 'terminal_observation'. "
                "Put the last observation there, as every VecEnv of SB3 does."
            )
        rows[index] = _row(infos[index]["terminal_observation"], space, index, step)
    return rows


def finite_rewards(rewards: Any, step: int) -> list[float]:
    """The rewards ``(N,)`` of all environments as floats.

    Raises:
        ValueError: if one is not finite; it names the environment and the step.
    """
    given: list[float] = np.asarray(rewards, np.float64).tolist()
    for index, reward in enumerate(given):
        if not math.isfinite(reward):
            raise ValueError(
                f"Environment {index}, step {step}: the reward is {reward}. Rewards must be finite in float32, as SB3 "
                "keeps them: mend the environment, or bound its reward in a gymnasium.RewardWrapper."
            )
    return given


def _row(observation: Any, space: spaces.Discrete, index: int, step: int) -> int:
    where = f"Environment {index}, step {step}: observation"
    if np.ndim(observation) > 0:
        raise ValueError(f"{where} {observation!r} must be one number of {space}.")
    return int(table_rows(observation, space, where))
