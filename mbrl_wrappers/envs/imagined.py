"""The common base of the model environments: one row or many, for Gymnasium or for Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils.seeding import np_random

from mbrl_wrappers.envs.actions import ActionGate
from mbrl_wrappers.envs.branches import Branches
from mbrl_wrappers.envs.starts import Starts
from mbrl_wrappers.types import DynamicsModel, Limits


class ImaginedEnv:
    """Base of the environments that a model imagines; a subclass adds the interface of a library.

    A predicted failure is a termination. The end of the horizon is a truncation, and so is a prediction that is not
    finite or leaves the limits: the last valid observation is then repeated, with reward 0, and :attr:`num_invalid`
    counts it. Returns are predictions, not results: ``metadata["is_model"]`` is ``True``, so that evaluation code can
    tell.
    """

    _branches: Branches
    _gate: ActionGate
    _rngs: list[np.random.Generator]

    def _imagine(
        self, model: DynamicsModel[Any], starts: Starts, num_rows: int, horizon: int, limits: Limits | None
    ) -> None:
        """Check the constructor's arguments and make the branches, which the first reset starts.

        Args:
            model: predicts the steps; gives the spaces, in environment units.
            starts: a function ``(n, rng) -> (n, O)``, observations ``(M, O)``, or a buffer with
                ``sample_observations``.
            num_rows: episodes side by side.
            horizon: steps until truncation, at least 1.
            limits: the range that predictions must lie in; by default the model's ``limits``, if any.

        Raises:
            TypeError: for spaces or starts that are not supported.
            ValueError: for numbers below 1, or starts of the wrong shape.
        """
        self._branches = Branches(model, starts, num_rows, horizon, limits=limits)
        self._gate = ActionGate(self._branches.action_space)

    def _reseed(self, seeds: Sequence[int | None]) -> None:
        """Give each row a stream of its own seed; one whose seed is ``None`` goes on with the stream it has."""
        self._rngs = [rng if seed is None else np_random(seed)[0] for rng, seed in zip(self._rngs, seeds, strict=True)]
        self._branches.use_streams(self._rngs)

    @property
    def model(self) -> DynamicsModel[Any]:
        """The model inside."""
        return self._branches.model

    @property
    def horizon(self) -> int:
        """Steps until truncation; may be changed at any time."""
        return self._branches.horizon

    @horizon.setter
    def horizon(self, value: int) -> None:
        self._branches.horizon = value

    @property
    def num_invalid(self) -> int:
        """How many episodes were truncated by a prediction outside the limits, or not finite."""
        return self._branches.num_invalid


def checked_options(options: dict[str, Any] | None, known: set[str]) -> dict[str, Any]:
    """Return ``options`` or an empty dict; raise a ``ValueError`` for keys that would be ignored."""
    unknown = set(options or {}) - known
    if unknown:
        raise ValueError(f"Unknown reset options {sorted(unknown)}; known are {sorted(known)}.")
    return options or {}
