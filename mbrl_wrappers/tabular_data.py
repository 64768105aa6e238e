"""Numbered states and actions: the rows that tabular models and agents exchange, and the check of their spaces."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mbrl_wrappers.spaces import AnySpace

MAX_ENTRIES = 10_000_000
"""The most entries of a table: beyond it, states that are never told apart cost more than they bring."""


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
            ValueError: for different lengths, states or actions that are no whole numbers, or a reward that is not
                finite.
        """
        given = [np.atleast_1d(np.asarray(column)) for column in (state, action, reward, next_state, terminated)]
        if any(column.ndim != 1 for column in given) or len({len(column) for column in given}) > 1:
            shapes = [column.shape for column in given]
            raise ValueError(f"The columns of tabular transitions must be of one length, got shapes {shapes}.")
        for name, column in (("state", given[0]), ("action", given[1]), ("next_state", given[3])):
            if column.size and not np.issubdtype(column.dtype, np.integer):
                raise ValueError(f"{name} must hold whole numbers, got {column.dtype}.")
        if not np.isfinite(given[2].astype(np.float64)).all():
            raise ValueError("The rewards must be finite.")
        types = (np.int64, np.int64, np.float64, np.int64, np.bool_)
        return cls(*(column.astype(kind) for column, kind in zip(given, types, strict=True)))


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
