"""Spaces: the one rule that scales actions, and the checks at the border."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

AnySpace = spaces.Space[Any]

IMAGE_SIZE = 1024
"""Numbers from which on an observation counts as an image although it is no array of bytes: 32 by 32."""


class ActionCodec:
    r"""Converts environment actions to model actions and back.

    A Box action is scaled per dimension as Stable-Baselines3 does for its replay buffer,

    .. math:: a_{model} = 2\,\frac{a - low}{high - low} - 1 \in [-1, 1],

    a Discrete action becomes a one-hot row, a MultiDiscrete one the one-hot rows of its ``G`` entries side by side. A
    dimension with an infinite bound, or one that float32 cannot represent, keeps its units, since nothing says how to
    scale it. A dimension of zero width maps to 0 and back to its bound. Actions of a Box of integers are rounded to
    the nearest one in both directions, so that a model and an environment see the same action; gradients pass through
    the rounding as if it were not there (Bengio et al. 2013, the straight-through estimator).

    Planners and models of a user's own take all three spaces. Whatever learns or stores takes Box and Discrete, and
    calls :func:`check_action_space` first.

    Args:
        action_space: the environment's ``Box`` or ``MultiDiscrete`` (flattened row-major) or ``Discrete`` (any start).

    Raises:
        TypeError: for any other space; wrap the environment so that it takes one of these.
    """

    def __init__(self, action_space: AnySpace) -> None:
        self.action_space: spaces.Box | spaces.Discrete | spaces.MultiDiscrete
        if isinstance(action_space, spaces.MultiDiscrete):
            self.action_space = action_space
        else:
            self.action_space = check_action_space(action_space)
        self._group_sizes, self._starts = _one_hot_groups(self.action_space)
        if self._group_sizes:
            self.size = sum(self._group_sizes)
            return
        assert isinstance(self.action_space, spaces.Box)
        self._rounds = has_whole_numbers(self.action_space)
        low, high = _bounds(self.action_space)
        bounded = low.float().isfinite() & high.float().isfinite()
        one, zero = th.ones_like(low), th.zeros_like(low)
        self.size = low.numel()
        self._half = th.where(bounded, (high - low) / 2, one).float()  # (A,)
        self._centre = th.where(bounded, (high + low) / 2, zero).float()  # (A,)
        self._low, self._high = low.float(), high.float()

    @property
    def is_discrete(self) -> bool:
        """Whether a model action is a single one-hot row."""
        return isinstance(self.action_space, spaces.Discrete)

    @property
    def groups(self) -> tuple[int, ...]:
        """Sizes of the one-hot groups of a model action: none for Box, one for Discrete, ``G`` for MultiDiscrete."""
        return self._group_sizes

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest model action, each ``(A,)``.

        -1 and 1 for a bounded dimension of a Box, 0 and 0 for one of zero width, the space's own for an unbounded one;
        0 and 1 for one-hot rows.
        """
        if self.groups:
            return th.zeros(self.size), th.ones(self.size)
        bounded = self._low.isfinite() & self._high.isfinite()
        edge = (self._half > 0).float()
        return th.where(bounded, -edge, self._low), th.where(bounded, edge, self._high)

    def encode(self, action: Tensor) -> Tensor:
        """Environment actions to model actions ``(B, A)`` float32.

        Args:
            action: ``(B, A)`` for a Box, ``(B,)`` or ``(B, 1)`` for Discrete, ``(B, G)`` for MultiDiscrete.

        Raises:
            ValueError: for a Discrete or MultiDiscrete action that does not exist.
        """
        if self.groups:
            index = self._indices(action)
            rows = [th.nn.functional.one_hot(index[:, g], size) for g, size in enumerate(self.groups)]
            return th.cat(rows, -1).float()
        half, centre = self._half.to(action.device), self._centre.to(action.device)
        raw = action.reshape(len(action), self.size).float()
        scaled = ((raw.round() if self._rounds else raw) - centre) / half
        return th.where(half == 0, th.zeros_like(scaled), scaled)

    def decode(self, action: Tensor) -> Tensor:
        """Model actions ``(B, A)`` to environment actions.

        These are ``(B, A)`` in bounds for Box, ``(B,)`` int64 for Discrete and ``(B, G)`` int64 for MultiDiscrete. Box
        actions are clipped to their bounds, so that they are always inside the space, and those of a Box of integers
        are whole numbers of floating point dtype.
        """
        if self.groups:
            index = th.stack([rows.argmax(-1) for rows in action.split(self.groups, -1)], -1)
            index = index + th.tensor(self._starts, device=action.device)
            return index.squeeze(-1) if self.is_discrete else index
        device = action.device
        raw = action * self._half.to(device) + self._centre.to(device)
        raw = raw.clamp(self._low.to(device), self._high.to(device))
        return raw + (raw.round() - raw).detach() if self._rounds else raw

    def from_env(self, action: NDArray[Any]) -> Tensor:
        """Numpy environment actions ``(B, *shape)`` to model actions ``(B, A)``; see :meth:`encode`."""
        array = np.asarray(action)
        # Torch has no unsigned integers of more than 8 bits that it can calculate with.
        return self.encode(th.as_tensor(array.astype(np.int64) if array.dtype.kind in "ub" else array))

    def to_env(self, action: Tensor) -> NDArray[Any]:
        """Model actions ``(B, A)`` to numpy ``(B, *shape)`` in the dtype of the space, always inside its bounds."""
        space = self.action_space
        array: NDArray[Any] = self.decode(action).detach().cpu().numpy()
        return in_dtype_of(space, array.reshape(len(array), *(space.shape or ())))

    def _indices(self, action: Tensor) -> Tensor:
        """The index ``(B, G)`` of each entry in its one-hot group."""
        rows = action.reshape(-1, len(self.groups))
        index = rows.long() - th.tensor(self._starts, device=action.device)
        exists = (index >= 0) & (index < th.tensor(self.groups, device=action.device))
        if rows.is_floating_point():
            exists = exists & (rows == rows.floor())
        if not exists.all():
            row = int((~exists).any(1).nonzero()[0])
            first = f" Its first action is {self._starts[0]} and not 0." if self.is_discrete and self._starts[0] else ""
            raise ValueError(f"Row {row}: {rows[row].tolist()} is not an action of {self.action_space}.{first}")
        return index


def has_whole_numbers(space: AnySpace) -> bool:
    """Whether ``space`` is a Box of integers or flags, where an action with a fraction does not exist."""
    return isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind in "iub"


def in_dtype_of(space: AnySpace, action: object) -> NDArray[Any]:
    """Actions in the dtype of ``space``; those of a Box are clipped, and of one of integers rounded to the nearest.

    A plain conversion would cut fractions off, 245.99998 to 245, and turn NaN into some integer.

    Args:
        space: the environment's action space.
        action: one action or a batch of them, ``(..., *shape)``.

    Raises:
        ValueError: for a number that is not finite where the space has whole numbers.
    """
    array = np.asarray(action)
    if not isinstance(space, spaces.Box):
        return array.astype(space.dtype)
    if not has_whole_numbers(space):
        # A float64 bound may lie a rounding error inside its float32 neighbour.
        clipped: NDArray[Any] = np.clip(array.astype(space.dtype), space.low, space.high)
        return clipped
    if array.dtype == space.dtype and array.dtype.kind in "iu":
        clipped = np.clip(array, space.low, space.high)
        return clipped
    if not np.isfinite(array).all():
        raise ValueError(f"The action {array.tolist()} is not finite, so no action of {space} is near it.")
    with np.errstate(invalid="ignore"):  # 2**63 as a float has no int64: the bounds are put in its place below
        whole = np.rint(array.astype(np.float64)).astype(space.dtype)
    whole = np.where(array >= space.high.astype(np.float64), space.high, whole)
    return np.where(array <= space.low.astype(np.float64), space.low, whole)


def _bounds(space: spaces.Box) -> tuple[Tensor, Tensor]:
    """The bounds ``(A,)`` float64, infinite where a Box of integers was made without one."""
    low = np.where(space.bounded_below, space.low.astype(np.float64), -np.inf)
    high = np.where(space.bounded_above, space.high.astype(np.float64), np.inf)
    return th.as_tensor(low.reshape(-1)), th.as_tensor(high.reshape(-1))


def _one_hot_groups(space: AnySpace) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and first numbers of the one-hot groups of an action space; both empty for a Box."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),), (int(space.start),)
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = space.nvec.reshape(-1).tolist(), space.start.reshape(-1).tolist()
        return tuple(map(int, sizes)), tuple(map(int, starts))
    return (), ()


def check_action_space(space: AnySpace) -> spaces.Box | spaces.Discrete:
    """Return ``space`` if models can learn its actions, else raise a ``TypeError`` that says what to do."""
    if isinstance(space, spaces.Box | spaces.Discrete):
        return space
    raise TypeError(
        f"Action space {space} is not supported: models take Box or Discrete actions. "
        "Enumerate a MultiDiscrete or MultiBinary space as Discrete, or flatten it to a Box, in a "
        "gymnasium.ActionWrapper."
    )


def check_observation_space(space: AnySpace) -> spaces.Box:
    """Return ``space`` if models can predict it: a one-dimensional float Box; else raise a helpful ``TypeError``."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return space
    if _has_image(space):
        raise TypeError(
            f"Observation space {space} looks like an image. A dynamics model over raw pixels would be "
            "meaningless: encode the image to a feature vector with a gymnasium.ObservationWrapper first."
        )
    if isinstance(space, spaces.Discrete):
        raise TypeError(
            f"Observation space {space} is a table of {space.n} states, and models predict one-dimensional float Box "
            "observations. Use sb3_ext.agents.DynaQ, which learns such a task in a table, or make a state one row of "
            "floats with DtypeObservation(FlattenObservation(env), np.float32) from gymnasium.wrappers (one-hot)."
        )
    raise TypeError(
        f"Observation space {space} is not supported: models predict one-dimensional float Box observations. "
        "Use DtypeObservation(FlattenObservation(env), np.float32), both from gymnasium.wrappers: it makes Dict, "
        "Tuple, integer and multi-dimensional observations one row of floats."
    )


def _has_image(space: AnySpace) -> bool:
    """Whether observations are, or contain, something too large to be a row of features: an image, a stack of them."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return any(map(_has_image, space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces))
    if not isinstance(space, spaces.Box):
        return False
    deep, large = len(space.shape) >= 2, int(np.prod(space.shape)) >= IMAGE_SIZE
    return deep or large if space.dtype == np.uint8 else deep and large
