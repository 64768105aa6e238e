"""A tiny deterministic environment and its exact model: what every component is tested against.

The environment is linear with a quadratic reward, so that planners have a closed-form optimum, and uses only sums and
products of float32 numbers, so that numpy (the environment) and torch (the model) agree to the last bit or two.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import DTypeLike, NDArray

from mbrl_wrappers.models.function import FunctionModel

A_MATRIX = np.array([[1.0, 0.2, 0.0], [0.0, 0.9, 0.0], [0.0, 0.25, 0.5]], dtype=np.float32)
"""``(O, O)``: the next observation is ``A_MATRIX @ obs + B_MATRIX @ action``."""

B_MATRIX = np.array([[0.0, 0.0], [0.5, 0.1], [0.0, 0.3]], dtype=np.float32)
"""``(O, A)``."""

LOW = np.array([-0.4, -1.0], dtype=np.float32)
HIGH = np.array([0.4, 3.0], dtype=np.float32)
"""Unequal and asymmetric bounds, so that a forgotten scaling shows at once."""

DISCRETE_ACTIONS = np.array([[-0.4, -1.0], [0.1, 1.0], [0.4, 3.0]], dtype=np.float32)
"""What each action of the Discrete variant applies, ``(3, A)``."""

POSITION_LIMIT = 1.0
"""The episode fails once the first dimension leaves ``[-1, 1]``."""


class OracleEnv(gymnasium.Env[NDArray[Any], Any]):
    """Position, velocity and a lagging third dimension, pushed by two unequal actions.

    The state is kept in float32 whatever the dtype of the observation, so that the float64 variant follows the same
    path. Time limits are left to ``gymnasium.wrappers.TimeLimit``.

    Args:
        dtype: dtype of the observation space.
    """

    def __init__(self, dtype: DTypeLike = np.float32) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype=np.dtype(dtype).type)
        self.action_space: spaces.Space[Any] = spaces.Box(LOW, HIGH, dtype=np.float32)
        self._state = np.zeros(3, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start from a uniform state in ``[-0.5, 0.5]``."""
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-0.5, 0.5, 3).astype(np.float32)
        return self._observation(), {}

    def set_obs(self, obs: NDArray[Any]) -> None:
        """Continue from ``obs (O,)``."""
        self._state = np.asarray(obs, np.float32).copy()

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        push = self._push(action)
        state, following = self._state, np.empty(3, np.float32)
        following[0] = state[0] + A_MATRIX[0, 1] * state[1]
        following[1] = A_MATRIX[1, 1] * state[1] + B_MATRIX[1, 0] * push[0] + B_MATRIX[1, 1] * push[1]
        following[2] = A_MATRIX[2, 1] * state[1] + A_MATRIX[2, 2] * state[2] + B_MATRIX[2, 1] * push[1]
        cost = following[0] * following[0] + np.float32(0.1) * (state[1] * state[1] + following[2] * following[2])
        cost = cost + np.float32(0.05) * (push[0] * push[0] + push[1] * push[1])
        self._state = following
        return self._observation(), float(np.float32(1.0) - cost), bool(abs(following[0]) > POSITION_LIMIT), False, {}

    def _push(self, action: Any) -> NDArray[np.float32]:
        return np.clip(np.asarray(action, np.float32), LOW, HIGH)

    def _observation(self) -> NDArray[Any]:
        return self._state.astype(self.observation_space.dtype)


class DiscreteOracleEnv(OracleEnv):
    """The same system with three actions, the rows of ``DISCRETE_ACTIONS``.

    Args:
        dtype: dtype of the observation space.
        start: the first action's number.
    """

    def __init__(self, dtype: DTypeLike = np.float32, start: int = 0) -> None:
        super().__init__(dtype)
        self.action_space = spaces.Discrete(len(DISCRETE_ACTIONS), start=start)
        self._start = start

    def _push(self, action: Any) -> NDArray[np.float32]:
        push: NDArray[np.float32] = DISCRETE_ACTIONS[int(action) - self._start]
        return push


def oracle_step(obs: th.Tensor, push: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """The dynamics of both variants for ``obs (B, O)`` and applied actions ``push (B, A)`` in environment units."""
    a, b = th.as_tensor(A_MATRIX), th.as_tensor(B_MATRIX)
    position, velocity, third = obs.unbind(1)
    following = th.stack(
        [
            position + a[0, 1] * velocity,
            a[1, 1] * velocity + b[1, 0] * push[:, 0] + b[1, 1] * push[:, 1],
            a[2, 1] * velocity + a[2, 2] * third + b[2, 1] * push[:, 1],
        ],
        1,
    )
    cost = following[:, 0] * following[:, 0] + 0.1 * (velocity * velocity + following[:, 2] * following[:, 2])
    cost = cost + 0.05 * (push[:, 0] * push[:, 0] + push[:, 1] * push[:, 1])
    return following, 1.0 - cost, following[:, 0].abs() > POSITION_LIMIT


def oracle_reward(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
    """The continuous variant's reward as a ``reward_fn`` in environment units, ``(B,)``."""
    cost = next_obs[:, 0] * next_obs[:, 0] + 0.1 * (obs[:, 1] * obs[:, 1] + next_obs[:, 2] * next_obs[:, 2])
    return 1.0 - (cost + 0.05 * (action[:, 0] * action[:, 0] + action[:, 1] * action[:, 1]))


def oracle_termination(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
    """Both variants' failure as a ``termination_fn``, ``(B,)`` bool."""
    return next_obs[:, 0].abs() > POSITION_LIMIT


def oracle_model(env: gymnasium.Env[Any, Any]) -> FunctionModel:
    """The exact batched dynamics of an :class:`OracleEnv` or :class:`DiscreteOracleEnv`, wrapped or not."""
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        table, start = th.as_tensor(DISCRETE_ACTIONS), int(space.start)
        return FunctionModel(env.observation_space, space, lambda obs, action: oracle_step(obs, table[action - start]))
    return FunctionModel(env.observation_space, space, oracle_step)
