"""The gate through which environment actions reach a model."""

from __future__ import annotations

import warnings

import numpy as np
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_action_space


class ActionGate:
    """Checks environment actions and turns them into model actions.

    A simulator given NaN may reset itself without a word, and a learned model extrapolates outside the bounds, so
    the first is refused and the second is clipped, with one warning per environment.

    Args:
        action_space: Box or Discrete.
    """

    def __init__(self, action_space: AnySpace) -> None:
        self._space = check_action_space(action_space)
        self.codec = ActionCodec(self._space)
        self._warned = False

    def __call__(self, action: object, rows: int) -> Tensor:
        """Model actions ``(N, A)`` from environment actions ``(N, *shape)``, or ``(N,)`` for Discrete.

        Raises:
            ValueError: for a wrong shape, a non-finite number or a Discrete action that does not exist.
        """
        space = self._space
        array = np.asarray(action)
        wanted = (rows, *space.shape) if isinstance(space, spaces.Box) else (rows,)
        if array.shape != wanted:
            raise ValueError(f"Expected actions of shape {wanted} for the action space {space}, got {array.shape}.")
        if isinstance(space, spaces.Discrete):
            first, count = int(space.start), int(space.n)
            if not np.issubdtype(array.dtype, np.integer) or (array < first).any() or (array >= first + count).any():
                raise ValueError(f"Expected integer actions in [{first}, {first + count - 1}], got {array}.")
            return self.codec.from_env(array)
        if not np.isfinite(array).all():
            raise ValueError(f"The actions are not finite: {array}.")
        clipped = np.clip(array, space.low, space.high)
        if not self._warned and np.abs(array - clipped).max() > 1e-5:
            self._warned = True
            warnings.warn(f"Actions outside the bounds of {space} are clipped.", stacklevel=3)
        return self.codec.from_env(clipped)
