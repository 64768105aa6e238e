"""Small smooth problems that planners with derivatives are tested on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from controllers import PlanningProblem
from mbrl_wrappers import FunctionModel

OPTIMA = {10: 9.077323, 30: 13.234546}
METHODS = ["autograd", "finite"]
DT = 0.01


def seeded() -> Generator:
    return th.Generator().manual_seed(0)


def pendulum(bound: float) -> FunctionModel:
    """``theta'' = u - 0.1 theta' - 9.81 sin(theta)``, hanging at 0, upright at pi; fourth-order Runge-Kutta."""

    def slope(x: Tensor, u: Tensor) -> Tensor:
        return th.stack([x[:, 1], u - 0.1 * x[:, 1] - 9.81 * th.sin(x[:, 0])], 1)

    def step(x: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = action[:, 0]
        k1 = slope(x, u)
        k2 = slope(x + DT / 2 * k1, u)
        k3 = slope(x + DT / 2 * k2, u)
        k4 = slope(x + DT * k3, u)
        reward = -(1 + th.cos(x[:, 0]) + 0.1 * x[:, 1] ** 2 + 0.001 * u**2)
        return x + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4), reward, th.zeros(len(x), dtype=th.bool)

    obs_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    return FunctionModel(obs_space, spaces.Box(-bound, bound, (1,), np.float32), step)


def upright(obs: Tensor) -> Tensor:
    return -100 * (2 * (1 + th.cos(obs[:, 0])) + obs[:, 1] ** 2)


def scalar_model(reward: Any, *, bound: float = 1.0, ends: Any = None, size: int = 1) -> FunctionModel:
    """``x' = x + u`` with ``reward(x, u, x')`` and ``ends(x')``."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following = obs + action
        over = th.zeros(len(obs), dtype=th.bool) if ends is None else ends(following)
        return following, reward(obs, action, following), over

    obs_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
    return FunctionModel(obs_space, spaces.Box(-bound, bound, (size,), np.float32), step)


def problem_of(model: Any, horizon: int, start: list[list[float]], **options: Any) -> PlanningProblem[Any]:
    return PlanningProblem(model, th.tensor(start, dtype=th.float64), horizon, **options)
