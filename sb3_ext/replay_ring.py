"""The rows of SB3's replay buffers as a ring, so that a checkpoint writes only those that are new."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.her import HerReplayBuffer

from mbrl_wrappers.states import Ring

_COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_SETTINGS = frozenset(("observation_space", "action_space", "obs_shape", "action_dim", "buffer_size", "device")) | {
    *("n_envs", "pos", "full", "optimize_memory_usage", "handle_timeout_termination", "n_steps", "gamma")
}
"""What SB3's buffers hold besides columns: where they are, and how they were built."""


def check_can_be_kept(buffer: object) -> None:
    """Raise a ``TypeError`` for a buffer whose rows depend on more than its columns."""
    if not isinstance(buffer, ReplayBuffer) or isinstance(buffer, HerReplayBuffer):
        raise TypeError(
            f"The rows of a {type(buffer).__name__} cannot be kept in a run checkpoint: use ReplayBuffer, "
            "NStepReplayBuffer, DictReplayBuffer or MixedReplayBuffer."
        )
    more = sorted(set(vars(buffer)) - _SETTINGS - {*_COLUMNS})
    if more and not hasattr(buffer, "state_dict"):
        raise TypeError(
            f"A {type(buffer).__name__} holds {', '.join(more)} besides the columns of SB3's buffers, and a run "
            "checkpoint would lose it: use ReplayBuffer or MixedReplayBuffer."
        )


def replay_ring(buffer: ReplayBuffer, written: int) -> Ring:
    """The stored steps of ``buffer``; views of it, to be written at once.

    Args:
        buffer: a slot is one step of all environments.
        written: steps written in the buffer's whole life.
    """
    filled = buffer.size()
    columns = {name: array[:filled] for name, array in _columns(buffer).items()}
    return Ring(columns, written, buffer.buffer_size)


def load_replay_ring(buffer: ReplayBuffer, ring: Ring) -> None:
    """Hold the steps of ``ring`` in place of one's own; what is added later lands as it would have.

    Raises:
        ValueError: if the ring is of a buffer of another size or task; nothing is changed then.
    """
    columns = _columns(buffer)
    if ring.capacity != buffer.buffer_size:
        raise ValueError(
            f"The stored replay buffer keeps {ring.capacity} steps and this one {buffer.buffer_size}: build the agent "
            "with the buffer_size and the number of environments that the run was started with."
        )
    if set(ring.columns) != set(columns):
        raise ValueError(
            f"The stored replay buffer has the columns {sorted(ring.columns)}, and this one {sorted(columns)}: build "
            "the agent with the replay_buffer_class and the observation space that the run was started with."
        )
    for name, array in columns.items():
        stored = ring.columns[name]
        if stored.shape != (ring.filled, *array.shape[1:]) or stored.dtype != array.dtype:
            raise ValueError(
                f"{name} of the stored replay buffer is {stored.dtype} of shape {stored.shape}, and this one holds "
                f"{array.dtype} of shape {(ring.filled, *array.shape[1:])}: it is of another task."
            )
    for name, array in columns.items():
        array[: ring.filled] = ring.columns[name]
    buffer.pos = ring.written % ring.capacity
    buffer.full = ring.written >= ring.capacity


def _columns(buffer: ReplayBuffer) -> dict[str, NDArray[Any]]:
    """The arrays of a buffer by name; those of a dictionary of observations by ``observations/key``."""
    found: dict[str, NDArray[Any]] = {}
    for name in _COLUMNS:
        column: Any = getattr(buffer, name, None)
        if isinstance(column, dict):
            found.update({f"{name}/{key}": array for key, array in column.items()})
        elif isinstance(column, np.ndarray):
            found[name] = column
    return found
