"""Real transitions for loops that do not fill a Stable-Baselines3 buffer: planners and on-policy agents."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from mbrl_wrappers.available_memory import check_memory
from mbrl_wrappers.checks import at_least
from mbrl_wrappers.columns import ColumnChecks, EndWatch, RealColumns, given_columns
from mbrl_wrappers.precision import observation_dtype
from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_action_space, check_observation_space
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.step_ring import check_step_ring, step_ring
from mbrl_wrappers.storage import file_format as checkpoint_file
from mbrl_wrappers.storage.space_json import space_from_json, space_to_json
from mbrl_wrappers.types import Transitions

if TYPE_CHECKING:
    from typing_extensions import Self

_KIND = "transition-store"


class TransitionStore:
    """A ring of real transitions of ``num_envs`` environments that step together.

    Actions are kept as model actions, so that :meth:`transitions` is what models are fitted to. Observations are kept
    in the precision of their space, float32 or float64. When the store is full, the oldest step of all environments is
    overwritten.

    Args:
        capacity: how many transitions to keep, all environments together (rounded up to whole steps).
        observation_space: one-dimensional float Box.
        action_space: Box or Discrete.
        num_envs: ``N``.

    Raises:
        TypeError: for spaces that models cannot handle.
        ValueError: if a number is not an integer of at least 1, or the full store is more than all memory.
    """

    def __init__(self, capacity: int, observation_space: AnySpace, action_space: AnySpace, num_envs: int = 1) -> None:
        capacity, num_envs = at_least("capacity", capacity), at_least("num_envs", num_envs)
        self.observation_space = check_observation_space(observation_space)
        self.codec = ActionCodec(check_action_space(action_space))
        self.num_envs = num_envs
        self.steps_kept = -(-capacity // num_envs)
        self.steps_seen = 0
        """How many steps were stored so far, overwritten ones included."""
        rows, obs_dim = (self.steps_kept, num_envs), self.observation_space.shape[0]
        dtype = _stored_dtype(self.observation_space)
        row_bytes = 2 * np.dtype(dtype).itemsize * obs_dim + 4 * self.codec.size + 6
        check_memory(row_bytes * self.capacity, f"A store of {self.capacity:,} transitions", "lower its capacity")
        self._checks = ColumnChecks(self.codec, obs_dim, num_envs, dtype)
        self._ends, self._warned = EndWatch(obs_dim), False
        self._obs = np.zeros((*rows, obs_dim), dtype)
        self._next_obs = np.zeros((*rows, obs_dim), dtype)
        self._action = np.zeros((*rows, self.codec.size), np.float32)
        self._reward = np.zeros(rows, np.float32)
        self._terminated = np.zeros(rows, bool)
        self._last = np.zeros(rows, bool)

    @property
    def capacity(self) -> int:
        """How many transitions fit, all environments together."""
        return self.steps_kept * self.num_envs

    def __len__(self) -> int:
        """How many transitions are stored, all environments together."""
        return min(self.steps_seen, self.steps_kept) * self.num_envs

    def add(
        self, obs: object, action: object, reward: object, next_obs: object, terminated: object, truncated: object
    ) -> None:
        """Store one step of every environment.

        With one environment the leading axis may be left out. If an environment's ``obs`` is not where its last
        step led, it was reset in between, and that step is marked as the last of its episode.

        Args:
            obs: ``(N, O)``.
            action: ``(N, *shape)`` or ``(N,)``, in environment units.
            reward: ``(N,)``.
            next_obs: ``(N, O)`` the true successor: on the last step of an episode the final observation, not the
                first one of the next.
            terminated: ``(N,)`` bool.
            truncated: ``(N,)`` bool.

        Raises:
            ValueError: for a wrong shape, a number that is not finite or an action outside of its space, and where
                ``next_obs`` is the very array ``obs``; nothing is stored then.
        """
        if isinstance(obs, np.ndarray) and isinstance(next_obs, np.ndarray) and _is_same_memory(obs, next_obs):
            raise ValueError(
                "obs and next_obs are one array: the environment writes every observation into the same memory. Keep a "
                "copy of each observation, np.array(obs), before the next step is taken."
            )
        given = given_columns(obs, action, reward, next_obs, terminated, truncated)
        self._write(self._checks.step(given, self.steps_seen))

    def extend(
        self,
        obs: object,
        action: object,
        reward: object,
        next_obs: object | None,
        terminated: object,
        truncated: object | None = None,
    ) -> None:
        """Store many steps at once, such as a recorded data set: flat arrays, or one episode.

        The steps of an environment come in the order of time. Wherever a step does not begin where the one before it
        led, an episode ends. With one environment the axis ``N`` may be left out.

        Args:
            obs: ``(T, N, O)``, or ``(T + 1, N, O)`` when ``next_obs`` is None.
            action: ``(T, N, *shape)`` or ``(T, N)``, in environment units; they are scaled here.
            reward: ``(T, N)``.
            next_obs: ``(T, N, O)`` the true successors; None for one episode with all its observations in ``obs``.
            terminated: ``(T, N)`` bool.
            truncated: ``(T, N)`` bool; None when no episode was cut by a time limit, or nobody knows.

        Raises:
            ValueError: for a wrong shape, a number that is not finite or an action outside of its space; nothing is
                stored then.
        """
        given = given_columns(obs, action, reward, next_obs, terminated, truncated)
        self._write(self._checks.steps(given, self.steps_seen))

    def _write(self, rows: RealColumns) -> None:
        """Append checked rows; of more than fit the newest."""
        count = len(rows.obs)
        if not count:
            return
        if self.steps_seen:
            newest = (self.steps_seen - 1) % self.steps_kept
            self._watch(self._obs[newest], self._next_obs[newest], self._last[newest], rows.obs[0])
            self._last[newest] |= (self._next_obs[newest] != rows.obs[0]).any(1)
        if count > 1:
            self._watch(rows.obs[:-1], rows.next_obs[:-1], rows.over[:-1], rows.obs[1:])
        kept = min(count, self.steps_kept)
        slots = np.arange(self.steps_seen + count - kept, self.steps_seen + count) % self.steps_kept
        for name, array in {**self._arrays(), "last": self._last}.items():
            array[slots] = getattr(rows, name)[count - kept :]
        self.steps_seen += count

    def _watch(self, *rows: NDArray[Any]) -> None:
        """Warn once when a final observation seems to be missing; see :meth:`EndWatch.any_lost` for ``rows``."""
        if self._ends.any_lost(*rows) and not self._warned:
            self._warned = True
            warnings.warn(
                "An episode's last step was stored as a jump to where the next episode begins, so a model would learn "
                "jumps: next_obs is the first observation of the next episode. Pass the final observation of the old "
                "one, which vector environments keep in info (final_obs, terminal_observation), and a copy of it if "
                "the environment writes every observation into one array.",
                stacklevel=4,
            )

    def transitions(self) -> Transitions:
        """All stored rows: environment after environment, each in the order of time.

        ``last`` is also set on each environment's newest row, because what follows it in the batch is another
        environment's, or nothing.
        """
        order = self._slots_in_time()
        last = self._last[order]  # (T, N)
        last[-1:] = True

        def per_env(array: NDArray[Any]) -> NDArray[Any]:  # (T, N, ...) -> (N * T, ...)
            return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])

        return self._batch(*(per_env(array[order]) for array in self._arrays().values()), last=per_env(last))

    def row_ids(self) -> Tensor:
        """The number of each row of :meth:`transitions` in order of collection, ``(B,)`` int64."""
        return row_numbers(self.steps_seen, len(self) // self.num_envs, self.num_envs)

    def sample(self, n: int, rng: np.random.Generator) -> Transitions:
        """``n`` rows drawn uniformly with replacement by ``rng``.

        Raises:
            ValueError: if nothing is stored.
        """
        slot, env = self._draw(n, rng)
        return self._batch(*(array[slot, env] for array in self._arrays().values()), last=self._last[slot, env])

    def sample_observations(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """``n`` stored observations ``(n, O)`` drawn uniformly with replacement by ``rng``, in the stored precision.

        Raises:
            ValueError: if nothing is stored.
        """
        return self._obs[self._draw(n, rng)]

    def observations_at(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """The stored observations ``(n, O)`` of the numbers ``index (n,)``, each at least 0 and below the length.

        Raises:
            ValueError: if nothing is stored.
        """
        return self._obs[self._place(index)]

    def state_dict(self) -> StateDict:
        """All steps as a ring; views, which are to be written before the next step is added."""
        ring = step_ring(self._arrays(), self.steps_seen)
        # Whether a step was the last of its episode may turn out one step later: so this column is no part of the ring,
        # of which only new slots are written.
        last = np.packbits(self._last[: ring.filled])
        return {"steps": ring, "last": last, "ends": self._ends.state_dict(), "warned": self._warned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold the steps of ``state`` in place of one's own; what is added later lands as it would have.

        Raises:
            ValueError: if it is the state of a store of another size or task; nothing is changed then.
        """
        require_keys(state, ("steps", "last", "ends", "warned"), "a TransitionStore")
        ring = check_step_ring(state["steps"], self._arrays(), "TransitionStore")
        last = np.unpackbits(state["last"], count=ring.filled * self.num_envs).reshape(ring.filled, self.num_envs)
        self._ends.load_state_dict(state["ends"])
        for name, array in self._arrays().items():
            array[: ring.filled] = ring.columns[name]
        self._last[: ring.filled] = last
        self._warned, self.steps_seen = bool(state["warned"]), ring.written

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to one safetensors file (no pickle), whole or not at all; return its path."""
        target = checkpoint_file.with_suffix(path)
        order = self._slots_in_time()
        arrays = {**self._arrays(), "last": self._last}
        config = {
            "capacity": self.capacity,
            "num_envs": self.num_envs,
            "steps_seen": self.steps_seen,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.codec.action_space),
        }
        tensors = {name: th.from_numpy(array[order]) for name, array in arrays.items()}
        checkpoint_file.write(target, _KIND, config, tensors)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Rebuild a store from :meth:`save`'s file; what is added later lands as if nothing had happened.

        Raises:
            FileNotFoundError: if there is no such file.
            CheckpointError: if the file is damaged, or holds something else.
        """
        manifest, tensors = checkpoint_file.read(checkpoint_file.with_suffix(path))
        if manifest.kind != _KIND:
            raise checkpoint_file.CheckpointError(f"{path} holds a {manifest.kind!r}, not a {_KIND!r}.")
        try:
            store = cls._empty_from(manifest.config)
            store._fill_from(tensors)
        except (KeyError, TypeError, ValueError, AssertionError, OverflowError, MemoryError) as error:
            raise checkpoint_file.CheckpointError(f"{path} is corrupt: {_sentence(error)}") from error
        return store

    @classmethod
    def _empty_from(cls, config: dict[str, Any]) -> Self:
        """A store without its rows, from a configuration that nobody has checked."""
        capacity, num_envs = at_least("capacity", config["capacity"]), at_least("num_envs", config["num_envs"])
        steps = at_least("steps_seen", config["steps_seen"], 0)
        if steps > np.iinfo(np.int64).max:
            raise ValueError(f"it cannot have seen {steps} steps.")
        observation_space = check_observation_space(space_from_json(config["observation_space"]))
        action_space = space_from_json(config["action_space"])
        obs_bytes = 2 * np.dtype(_stored_dtype(observation_space)).itemsize * observation_space.shape[0]
        row_bytes = obs_bytes + 4 * (ActionCodec(action_space).size + 1) + 2
        if capacity * row_bytes > checkpoint_file.MAX_FILE_BYTES:
            raise ValueError(f"its capacity of {capacity} rows of {row_bytes} bytes is more than any file holds.")
        store = cls(capacity, observation_space, action_space, num_envs)
        store.steps_seen = steps
        return store

    def _fill_from(self, tensors: dict[str, Tensor]) -> None:
        """Take the rows of a file, after a check that they are as many as this store keeps."""
        order = self._slots_in_time()
        columns = {**self._arrays(), "last": self._last}
        if tensors.keys() != columns.keys():
            raise ValueError(f"it holds the tensors {sorted(tensors)} and not {sorted(columns)}.")
        for name, array in columns.items():
            stored = tensors[name].numpy()
            # Files of an earlier version hold float32 where the observation space is float64, and nothing is lost.
            fits = stored.dtype.kind == array.dtype.kind and np.can_cast(stored.dtype, array.dtype)
            if stored.shape != (len(order), *array.shape[1:]) or not fits:
                raise ValueError(
                    f"{name!r} is {stored.dtype} of shape {stored.shape}, which is not {len(order)} of its steps."
                )
            if not np.isfinite(stored).all():
                raise ValueError(f"{name!r} has a number that is not finite.")
            array[order] = stored

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "obs": self._obs,
            "action": self._action,
            "reward": self._reward,
            "next_obs": self._next_obs,
            "terminated": self._terminated,
        }

    @staticmethod
    def _batch(*arrays: NDArray[Any], last: NDArray[np.bool_]) -> Transitions:
        obs, action, reward, next_obs, terminated = arrays
        dtype = observation_dtype(obs, next_obs)
        columns = (obs.astype(dtype), action, reward, next_obs.astype(dtype), terminated, last)
        return Transitions(*(th.from_numpy(np.ascontiguousarray(column)) for column in columns))

    def _slots_in_time(self) -> NDArray[np.int64]:
        kept = min(self.steps_seen, self.steps_kept)
        return np.arange(self.steps_seen - kept, self.steps_seen) % self.steps_kept

    def _draw(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._place(rng.integers(max(len(self), 1), size=n))

    def _place(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the ring the rows ``index`` are: slots and environments."""
        if not len(self):
            raise ValueError("The store is empty: add real transitions before drawing from it.")
        slot, env = np.divmod(index, self.num_envs)
        return slot, env


def _stored_dtype(space: spaces.Box) -> type[np.float32] | type[np.float64]:
    """The precision in which observations of ``space`` are kept."""
    return np.float64 if space.dtype == np.float64 else np.float32


def _is_same_memory(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays are views of the same numbers."""
    return bool(one.size) and one.__array_interface__["data"] == other.__array_interface__["data"]


def _sentence(error: Exception) -> str:
    """What an exception says, as the end of a sentence."""
    return f"{error.args[0]!r} is missing." if isinstance(error, KeyError) else str(error) or type(error).__name__


def row_numbers(steps_seen: int, steps_kept: int, num_envs: int) -> Tensor:
    """The numbers in order of collection of the newest rows, environment after environment, ``(B,)`` int64."""
    steps = th.arange(steps_seen - steps_kept, steps_seen)
    return (steps * num_envs + th.arange(num_envs)[:, None]).flatten()
