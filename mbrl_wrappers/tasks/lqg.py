"""A linear system with noisy sensors as an environment: ``mbrl_wrappers/NoisyPosition-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from mbrl_wrappers.linear_system import NOISY_POSITION, LinearSystem

Array = NDArray[Any]

MAX_CONTROL = 10.0
"""Controls lie in [-10, 10]; the best controller of the registered system never gets there."""


class LinearSystemEnv(gymnasium.Env[Array, Array]):
    """A :class:`~mbrl_wrappers.linear_system.LinearSystem` whose observation is the reading of its sensors.

    The reward is that of the state before the step and of the control. ``info["state"]`` is the state ``(X,)`` that the
    sensors hide. An episode has no end of its own: ``gymnasium.make`` truncates it after ``system.steps``.

    Args:
        system: the matrices.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, system: LinearSystem = NOISY_POSITION) -> None:
        self.system = system
        sensors, controls = len(system.sensor), system.control.shape[1]
        self.observation_space = spaces.Box(-np.inf, np.inf, (sensors,), np.float32)
        self.action_space = spaces.Box(-MAX_CONTROL, MAX_CONTROL, (controls,), np.float32)
        self._first, self._moving, self._reading = (
            _root(matrix) for matrix in (system.first, system.process_noise, system.sensor_noise)
        )
        self._state: Array | None = None

    def _noise(self, root: Array) -> Array:
        return root @ self.np_random.standard_normal(len(root))

    def _shown(self) -> tuple[Array, dict[str, Any]]:
        assert self._state is not None
        reading = self.system.sensor @ self._state + self._noise(self._reading)
        return reading.astype(np.float32), {"state": self._state.copy()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Draw the first state; ``options={"state": x}`` begins at ``x (X,)``."""
        super().reset(seed=seed)
        given = (options or {}).get("state")
        self._state = self._noise(self._first) if given is None else np.array(given, np.float64)
        return self._shown()

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance by one step.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._state is None:
            raise ResetNeeded("There is no state yet: call reset() first.")
        system, state = self.system, self._state
        control = np.clip(np.asarray(action, np.float64), -MAX_CONTROL, MAX_CONTROL)
        cost = state @ system.state_cost @ state + control @ system.control_cost @ control
        self._state = system.drift @ state + system.control @ control + self._noise(self._moving)
        reading, info = self._shown()
        return reading, -float(cost), False, False, info


def _root(covariance: Array) -> Array:
    """``L (n, n)`` with ``L @ L.T`` equal to ``covariance``, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    root: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


NAME = "mbrl_wrappers/NoisyPosition-v0"

if NAME not in gymnasium.registry:
    gymnasium.register(NAME, entry_point=f"{__name__}:LinearSystemEnv", max_episode_steps=NOISY_POSITION.steps)
