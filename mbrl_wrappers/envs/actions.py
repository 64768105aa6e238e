"""Environment actions on their way to a model: checked, clipped, scaled."""

from __future__ import annotations

import warnings

import numpy as np
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_action_space, in_dtype_of


class ActionGate:
    """Checks environment actions and turns them into model actions.

    Actions that are not finite are refused, since a simulator given NaN may reset itself without a word. Actions
    outside the bounds are clipped, with one warning per environment, since a learned model extrapolates there. Actions
    of a Box of integers are rounded to the nearest.

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
            first, last = int(space.start), int(space.start + space.n - 1)
            if not np.issubdtype(array.dtype, np.integer) or (array < first).any() or (array > last).any():
                raise ValueError(f"Expected integer actions in [{first}, {last}], got {array}.")
            return self.codec.from_env(array)
        if not np.isfinite(array).all():
            raise ValueError(f"The actions are not finite: {array}.")
        clipped = in_dtype_of(space, array)
        low, high = space.low.astype(np.float64) - 1e-5, space.high.astype(np.float64) + 1e-5
        if not self._warned and ((array < low) | (array > high)).any():
            self._warned = True
            warnings.warn(f"Actions outside the bounds of {space} are clipped.", stacklevel=3)
        return self.codec.from_env(clipped)
