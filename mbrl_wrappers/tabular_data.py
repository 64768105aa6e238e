"""Numbered states and actions: the rows that tabular models and agents exchange, and the check of their spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mbrl_wrappers.spaces import AnySpace

MAX_ENTRIES = 10_000_000
"""The most entries, states times actions, of a table."""


class TabularTransitions(NamedTuple):
    """A batch of transitions between numbered states, all in the numbers of the environment's own spaces.

    Attributes:
        state: ``(B,)`` int64.
        action: ``(B,)`` int64.
        reward: ``(B,)`` float64.
        next_state: ``(B,)`` int64, the true successor, also on the last step of an episode.
        terminated: ``(B,)`` bool, time limits excluded.
    """

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    next_state: NDArray[np.int64]
    terminated: NDArray[np.bool_]

    @classmethod
    def of(cls, state: Any, action: Any, reward: Any, next_state: Any, terminated: Any) -> TabularTransitions:
        """Rows from numbers or sequences of one length.

        Raises:
            ValueError: for different lengths, states or actions that are no integers, rewards that are not finite, or
                a ``terminated`` that is neither true nor false; the error names the first such row.
        """
        given = [np.atleast_1d(np.asarray(column)) for column in (state, action, reward, next_state, terminated)]
        if any(column.ndim != 1 for column in given) or len({len(column) for column in given}) > 1:
            shapes = [column.shape for column in given]
            raise ValueError(f"The columns of tabular transitions must be of one length, got shapes {shapes}.")
        states, actions, following = (
            _integers(name, given[place]) for name, place in (("state", 0), ("action", 1), ("next_state", 3))
        )
        return cls(states, actions, _rewards(given[2]), following, _flags(given[4]))


def _integers(name: str, column: NDArray[Any]) -> NDArray[np.int64]:
    """``column`` as int64, if it holds nothing else than integers of that range."""
    if column.size and not np.issubdtype(column.dtype, np.integer):
        raise ValueError(f"{name} must hold whole numbers, got {column.dtype}.")
    if column.dtype == np.uint64 and (column > np.iinfo(np.int64).max).any():
        raise ValueError(f"{name} must hold numbers of at most 2**63 - 1, got {column.max()}.")
    return column.astype(np.int64)


def _rewards(column: NDArray[Any]) -> NDArray[np.float64]:
    if column.size and column.dtype.kind not in "biuf":
        raise ValueError(f"The rewards must be numbers, got {column.dtype}.")
    rewards = column.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(rewards))
    if len(wrong):
        raise ValueError(f"The rewards must be finite: row {wrong[0]} has {rewards[wrong[0]]}.")
    return rewards


def _flags(column: NDArray[Any]) -> NDArray[np.bool_]:
    if column.size and (column.dtype.kind not in "biuf" or not ((column == 0) | (column == 1)).all()):
        raise ValueError(f"terminated must be true or false, got {column.dtype} with {column[:5].tolist()}.")
    return column.astype(np.bool_)


def table_rows(numbers: Any, space: spaces.Discrete, name: str) -> NDArray[np.int64]:
    """Rows of a table, counted from 0, of numbers of a Discrete space, which may begin anywhere.

    Args:
        numbers: one number, or an array of them of any shape.
        space: the environment's.
        name: what a number stands for, the first word of an error.

    Returns:
        int64 of the shape of ``numbers``.

    Raises:
        ValueError: for numbers that are no integers, or lie outside of the space.
    """
    array = np.asarray(numbers)
    rows = _integers(name, array) - int(space.start)
    outside = (rows < 0) | (rows >= int(space.n))
    if outside.any():
        first, last = int(space.start), int(space.start) + int(space.n) - 1
        raise ValueError(f"{name} {array[outside][0]} lies outside of its space, which is numbered {first} to {last}.")
    return rows


def table_of_transitions(
    table: Any, states: spaces.Discrete, actions: spaces.Discrete
) -> tuple[TabularTransitions, NDArray[np.float64]]:
    """All rows of a table ``P`` as Gymnasium's toy text has it, and the probability of each.

    Args:
        table: ``table[s][a]`` lists ``(probability, next_state, reward, terminated)``, in the numbers of the spaces.
        states: the environment's.
        actions: the environment's.

    Raises:
        ValueError: if a pair is missing, or its probabilities are not at least 0 with a sum of 1.
    """
    rows: list[tuple[Any, ...]] = []
    for state in _numbers(states):
        for action in _numbers(actions):
            try:
                outcomes = [tuple(outcome) for outcome in _entry(_entry(table, state), action)]
                chances = [float(chance) for chance, _, _, _ in outcomes]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ValueError(
                    f"The table P has no outcomes (probability, next_state, reward, terminated) for state {state} and "
                    f"action {action}: it needs them for all states of {states} and actions of {actions}."
                ) from error
            if not (all(chance >= 0 for chance in chances) and abs(sum(chances) - 1) <= 1e-6):
                raise ValueError(f"The probabilities of state {state} and action {action} are {chances}: not 1 in sum.")
            rows += [(state, action, *outcome) for outcome in outcomes if outcome[0] > 0]
    columns = list(zip(*rows, strict=True))
    from_states, taken, weight, following, reward, terminated = columns
    return TabularTransitions.of(from_states, taken, reward, following, terminated), np.asarray(weight, np.float64)


def _numbers(space: spaces.Discrete) -> range:
    return range(int(space.start), int(space.start) + int(space.n))


def _entry(table: Any, number: int) -> Any:
    """What ``table`` has for a number; a list counts from 0, so a negative number is not in it."""
    if number < 0 and not isinstance(table, Mapping):
        raise KeyError(number)
    return table[number]


def check_tabular_spaces(
    observation_space: AnySpace, action_space: AnySpace, who: str
) -> tuple[spaces.Discrete, spaces.Discrete]:
    """Both spaces if they are Discrete.

    Args:
        observation_space: the environment's.
        action_space: the environment's.
        who: what needs them, the first word of an error.

    Raises:
        TypeError: for other spaces, with what to do about it.
        ValueError: for more states times actions than a table can hold.
    """
    if isinstance(action_space, spaces.Box):
        raise TypeError(
            f"{who} needs Discrete actions, got {action_space}: take SAC, TD3 or PPO with DynaCallback or "
            "learn_in_imagination for continuous actions, or enumerate some of them in a gymnasium.ActionWrapper."
        )
    if not isinstance(action_space, spaces.Discrete):
        raise TypeError(
            f"{who} needs Discrete actions, got {action_space}: enumerate them in a gymnasium.ActionWrapper."
        )
    if isinstance(observation_space, spaces.Box):
        raise TypeError(
            f"{who} needs Discrete observations, got {observation_space}: wrap the environment in "
            "mbrl_wrappers.tasks.TabularObservation, or take DQN with DynaCallback, which learns from vectors."
        )
    if not isinstance(observation_space, spaces.Discrete):
        raise TypeError(
            f"{who} needs Discrete observations, got {observation_space}: number its values in a "
            "gymnasium.ObservationWrapper."
        )
    entries = int(observation_space.n) * int(action_space.n)
    if entries > MAX_ENTRIES:
        raise ValueError(
            f"{who} would need a table of {observation_space.n} states by {action_space.n} actions, more than "
            f"{MAX_ENTRIES:,} entries: use coarser bins."
        )
    return observation_space, action_space
