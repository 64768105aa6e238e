"""Real transitions as they come from an environment: checked, and their actions scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from mbrl_wrappers.spaces import ActionCodec, has_whole_numbers
from mbrl_wrappers.states import StateDict, require_keys

Array = NDArray[Any]
LARGEST = np.float64(np.finfo(np.float32).max)
EDGE = 1e-4
"""How far outside its bounds an action may lie by rounding, as a share of their width."""


class RealColumns(NamedTuple):
    """``T`` steps of ``N`` environments.

    Attributes:
        obs: ``(T, N, O)`` float32 or float64.
        action: ``(T, N, A)`` float32 model actions.
        reward: ``(T, N)`` float32.
        next_obs: ``(T, N, O)``, the true successors.
        terminated: ``(T, N)`` bool.
        truncated: ``(T, N)`` bool.
    """

    obs: Array
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    next_obs: Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]

    @property
    def over(self) -> NDArray[np.bool_]:
        """Where the environment says that an episode ends, ``(T, N)``."""
        over: NDArray[np.bool_] = self.terminated | self.truncated
        return over

    @property
    def last(self) -> NDArray[np.bool_]:
        """Where an episode ends, ``(T, N)``: as the environment says, and where the next step begins elsewhere."""
        last = self.over
        last[:-1] |= (self.next_obs[:-1] != self.obs[1:]).any(-1)
        return last


class ColumnChecks:
    """Checks what an environment showed and did, and scales its actions.

    Args:
        codec: scales the actions.
        obs_size: ``O``.
        num_envs: ``N``; with one environment its axis may be left out.
        dtype: of the observations that come out, float32 or float64.
    """

    def __init__(self, codec: ActionCodec, obs_size: int, num_envs: int, dtype: Any) -> None:
        self.codec, self.num_envs, self.dtype = codec, num_envs, np.dtype(dtype)
        self._lowest, self._highest = _action_edges(codec.action_space)
        self._shapes: dict[str, tuple[int, ...]] = {
            "obs": (obs_size,),
            "action": codec.action_space.shape or (),
            "reward": (),
            "next_obs": (obs_size,),
            "terminated": (),
            "truncated": (),
        }

    def step(self, given: dict[str, object], number: int) -> RealColumns:
        """:meth:`steps` of one step, whose arrays have no axis of time."""
        return self._checked({name: np.asarray(value)[None] for name, value in given.items()}, 1, number, ())

    def steps(self, given: dict[str, object], first_step: int) -> RealColumns:
        """The columns of arrays that all have a leading axis of time.

        Args:
            given: by the names of :class:`RealColumns`; actions in environment units.
            first_step: number of the first step, for messages.

        Raises:
            ValueError: for a wrong shape, columns of different length, a number that is not finite or an action
                outside of its space.
        """
        arrays = {name: np.asarray(value) for name, value in given.items()}
        length = len(arrays["obs"]) if arrays["obs"].ndim else 0
        return self._checked(arrays, length, first_step, (length,))

    def _checked(self, given: dict[str, Array], length: int, first_step: int, time: tuple[int, ...]) -> RealColumns:
        arrays = {name: self._shaped(name, array, length, time) for name, array in given.items()}
        for name, array in arrays.items():
            self._check_finite(name, array, first_step)
        self._check_actions(arrays["action"], first_step)
        for name in ("terminated", "truncated"):
            flags = arrays[name]
            if flags.dtype != bool and not ((flags == 0) | (flags == 1)).all():
                raise ValueError(f"{name} must hold True and False (or 1 and 0).")
        action = self.codec.from_env(arrays["action"].reshape(length * self.num_envs, *self._shapes["action"]))
        return RealColumns(
            obs=arrays["obs"].astype(self.dtype),
            action=action.numpy().reshape(length, self.num_envs, self.codec.size),
            reward=arrays["reward"].astype(np.float32),
            next_obs=arrays["next_obs"].astype(self.dtype),
            terminated=arrays["terminated"].astype(bool),
            truncated=arrays["truncated"].astype(bool),
        )

    def _shaped(self, name: str, array: Array, length: int, time: tuple[int, ...]) -> Array:
        """``array`` as ``(T, N, *shape)``; ``time`` is its axis of time in messages, ``(T,)`` or none."""
        shape = self._shapes[name]
        if self.num_envs == 1 and array.shape == (length, *shape):
            array = array[:, None]
        if array.shape != (length, self.num_envs, *shape):
            wanted = (*time, *shape) if self.num_envs == 1 else (*time, self.num_envs, *shape)
            got = array.shape if time else array.shape[1:]
            raise ValueError(f"{name} must have shape {wanted}, got {got}.")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} must hold numbers, got dtype {array.dtype}.")
        return array

    def _check_finite(self, name: str, array: Array, first_step: int) -> None:
        if array.dtype.kind != "f":
            return
        finite = np.abs(array) <= LARGEST  # what float32 cannot represent is as bad as infinity; false for NaN
        if not finite.all():
            step, env, *index = np.argwhere(~finite)[0].tolist()
            raise ValueError(
                f"Step {first_step + step} of environment {env}: {name}{index or ''} is "
                f"{array[(step, env, *index)]}. The environment, or what chose the action, has diverged; nothing was "
                "stored."
            )

    def _check_actions(self, action: Array, first_step: int) -> None:
        """Raise a ``ValueError`` for actions outside of the environment's space."""
        space = self.codec.action_space
        wrong = (action < self._lowest) | (action > self._highest)
        if not isinstance(space, spaces.Box) or has_whole_numbers(space):
            wrong |= action != np.rint(action.astype(np.float64))
        if wrong.any():
            step, env = np.argwhere(wrong)[0][:2].tolist()
            raise ValueError(
                f"Step {first_step + step} of environment {env}: {action[step, env].tolist()} is not an action of "
                f"{space}. Actions are taken in the units of the environment and scaled here; nothing was stored."
            )


def _action_edges(space: spaces.Box | spaces.Discrete | spaces.MultiDiscrete) -> tuple[Array, Array]:
    """The lowest and the highest action, with the margin that rounding needs; the shape of one action."""
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        margin = EDGE * np.where(np.isfinite(high - low), high - low, 0) + 1e-6
        return low - margin, high + margin
    count = space.n if isinstance(space, spaces.Discrete) else space.nvec
    return np.asarray(space.start), np.asarray(space.start + count - 1)


class EndWatch:
    """Notices episodes whose last step was recorded as leading to the first observation of the next one.

    Such a row has an end, its successor is the next row's observation to the bit, and it moved more than twice as far
    as any step before that did not end an episode. (Where an environment goes on from the end, the first two hold.)

    Args:
        obs_size: ``O``.
    """

    def __init__(self, obs_size: int) -> None:
        self._farthest = np.full(obs_size, np.inf)  # (O,) of all steps that did not end an episode
        self._seen = False

    def state_dict(self) -> StateDict:
        """What was seen so far."""
        return {"farthest": self._farthest.copy(), "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: if it is of observations of another size; nothing is changed then.
        """
        require_keys(state, ("farthest", "seen"), "an EndWatch")
        if state["farthest"].shape != self._farthest.shape:
            raise ValueError(
                f"The state is of observations of shape {state['farthest'].shape}, and these have "
                f"{self._farthest.shape}."
            )
        self._farthest, self._seen = state["farthest"].copy(), bool(state["seen"])

    def any_lost(self, obs: Array, next_obs: Array, last: NDArray[np.bool_], following: Array) -> bool:
        """Look at rows, and say whether one of them lost its successor.

        Args:
            obs: ``(..., O)``.
            next_obs: ``(..., O)``.
            last: ``(...)`` bool, ends.
            following: ``(..., O)``, the observations of the rows after these.
        """
        moved = np.abs(next_obs - obs)
        if not last.all():
            farthest = moved[~last].max(0)
            self._farthest = np.maximum(self._farthest, farthest) if self._seen else farthest
            self._seen = True
        joined = (next_obs == following).all(-1)
        return bool((last & joined & (moved > 2 * self._farthest).any(-1)).any())


def given_columns(
    obs: object, action: object, reward: object, next_obs: object | None, terminated: object, truncated: object | None
) -> dict[str, object]:
    """The arguments of :meth:`ColumnChecks.steps`, with what may be left out put in.

    Args:
        obs: observations, one more than steps when ``next_obs`` is None.
        action: in environment units.
        reward: one for each step.
        next_obs: successors, or None.
        terminated: flags.
        truncated: flags; None means none.
    """
    if next_obs is None:
        whole = np.asarray(obs)
        if whole.ndim < 2 or len(whole) != len(np.asarray(terminated)) + 1:
            raise ValueError(
                f"Without next_obs, obs must hold the observations of one episode, one more than its steps: got "
                f"{len(np.asarray(terminated))} steps and observations of shape {whole.shape}."
            )
        obs, next_obs = whole[:-1], whole[1:]
    truncated = np.zeros(np.asarray(terminated).shape, np.bool_) if truncated is None else truncated
    return dict(zip(RealColumns._fields, (obs, action, reward, next_obs, terminated, truncated), strict=True))
