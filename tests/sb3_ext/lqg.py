"""A linear system with quadratic costs, whose best gain is known, and the network that can hold its value exactly."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_are
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

A = np.array([[1.0, 0.1], [0.0, 0.95]])
B = np.array([[0.0], [0.1]])
STATE_COST, ACTION_COST = np.diag([1.0, 0.1]), np.array([[0.1]])
FORCE = 10.0
"""Actions are forces up to this."""


def regulator(discount: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The cost-to-go ``(2, 2)`` and the gain ``(1, 2)`` of the best controller."""
    root = np.sqrt(discount)
    cost = solve_discrete_are(root * A, root * B, STATE_COST, ACTION_COST)
    curvature = ACTION_COST + discount * B.T @ cost @ B
    return cost, discount * np.linalg.solve(curvature, B.T @ cost @ A)


class LinearEnv(gymnasium.Env[NDArray[Any], Any]):
    """The system without noise and without an end."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-FORCE, FORCE, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], Any]:
        super().reset(seed=seed)
        self._state = self.np_random.normal(size=2)
        return self._state.astype(np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        self._state, reward = linear_step(self._state, action)
        return self._state.astype(np.float32), reward, False, False, {}


def linear_step(state: NDArray[Any], force: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """The next state and the reward."""
    reward = -(state @ STATE_COST @ state + force @ ACTION_COST @ force)
    return A @ state + B @ force, float(reward)


class Quadratics(BaseFeaturesExtractor):
    """Both states, their squares and their product: what a quadratic value is linear in."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, 5)

    def forward(self, obs: th.Tensor) -> th.Tensor:
        first, second = obs.unbind(1)
        return th.stack([first, second, first**2, second**2, first * second], 1)
