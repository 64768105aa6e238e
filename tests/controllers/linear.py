"""The double integrator with quadratic cost: its model, its environment and its optimum by dynamic programming."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from controllers import PlanningProblem
from mbrl_wrappers.models import FunctionModel

Array = NDArray[np.float64]

A = np.array([[1.0, 0.1], [0.0, 1.0]])
B = np.array([[0.005], [0.1]])
R = 0.1
START = np.array([1.0, 0.0])
"""Stage cost ``x'x + R u^2`` at ``t = 0 ... N - 1``, nothing at the end."""

OBS_SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)


def riccati(horizon: int) -> tuple[list[Array], list[Array]]:
    """Gains ``K_t`` (``u = -K_t x``) and cost-to-go matrices ``P_0 ... P_N``."""
    values, gains = [np.zeros((2, 2))], []
    for _ in range(horizon):
        value = values[0]
        gain = np.linalg.solve(R + B.T @ value @ B, B.T @ value @ A)
        values.insert(0, np.eye(2) + A.T @ value @ A - A.T @ value @ B @ gain)
        gains.insert(0, gain)
    return gains, values


def optimal_cost(horizon: int) -> float:
    """From :data:`START`."""
    return float(START @ riccati(horizon)[1][0] @ START)


def optimal_actions(horizon: int) -> Array:
    """``(H, 1)`` from :data:`START` without noise."""
    x, actions = START, []
    for gain in riccati(horizon)[0]:
        actions.append(-gain @ x)
        x = A @ x + B @ actions[-1]
    return np.array(actions)


def cost_of(actions: Array) -> float:
    """The cost of a sequence ``(H, 1)`` from :data:`START`, the slow way."""
    x, cost = START, 0.0
    for action in actions:
        cost += float(x @ x + R * action @ action)
        x = A @ x + B @ action
    return cost


def _step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    reward = -obs.square().sum(1) - R * action.square().sum(1)
    x, v = obs.unbind(1)
    following = th.stack([x + 0.1 * v + 0.005 * action[:, 0], v + 0.1 * action[:, 0]], 1)
    return following, reward, th.zeros(len(obs), dtype=th.bool)


def linear_model(bound: float = np.inf) -> FunctionModel:
    """The exact model, with ``|u| <= bound``."""
    return FunctionModel(OBS_SPACE, spaces.Box(-bound, bound, (1,), np.float32), _step)


def linear_problem(horizon: int, bound: float = np.inf, **options: Any) -> PlanningProblem[Any]:
    """Planning from :data:`START`."""
    return PlanningProblem(linear_model(bound), th.tensor(START, dtype=th.float32)[None], horizon, **options)


class LinearEnv(gymnasium.Env[NDArray[Any], NDArray[Any]]):
    """The double integrator from :data:`START` for ``steps`` steps, with optional noise ``x' += N(0, variance I)``."""

    observation_space = OBS_SPACE

    def __init__(self, steps: int, variance: float = 0.0, bound: float = np.inf) -> None:
        self.action_space: Any = spaces.Box(-bound, bound, (1,), np.float32)
        self._steps, self._variance = steps, variance
        self._x, self._time = START, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._x, self._time = START, 0
        return self._x.astype(np.float32), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        assert np.isfinite(action).all()
        assert action in self.action_space
        reward = -float(self._x @ self._x + R * action @ action)
        self._x = A @ self._x + B @ action.astype(np.float64)
        self._x = self._x + np.sqrt(self._variance) * self.np_random.standard_normal(2)
        self._time += 1
        return self._x.astype(np.float32), reward, False, self._time >= self._steps, {}
