"""The double integrator with bounded force, whose shortest times are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import KinodynamicProblem
from mbrl_wrappers.models import FunctionModel

SECONDS = 0.05


def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    place, speed, force = obs[:, 0], obs[:, 1], action[:, 0]
    after = th.stack([place + SECONDS * speed + SECONDS**2 / 2 * force, speed + SECONDS * force], 1)
    return after, -th.ones(len(obs)), th.zeros(len(obs), dtype=th.bool)


def integrator(action_space: Any = None, step_fn: Any = step) -> FunctionModel:
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    return FunctionModel(space, action_space or spaces.Box(-1, 1, (1,), np.float32), step_fn)


def rest_to_rest(distance: float, **options: Any) -> KinodynamicProblem[Any]:
    model = options.pop("model", None) or integrator()
    low, high = [-0.5, -2], [distance + 0.5, 2]
    return KinodynamicProblem(model, [0.0, 0.0], [distance, 0.0], low, high, **options)


def shortest_time(place: float, speed: float) -> float:
    """From rest at 0 to ``place`` with ``speed``, by |force| <= 1: one switch (Pontryagin)."""
    # Push one way for t1, the other for t2: t1 - t2 = +-speed, and the distance covered gives t1.
    sign = 1.0 if place >= speed * abs(speed) / 2 else -1.0
    place, speed = sign * place, sign * speed
    first = math.sqrt(place + speed**2 / 2)
    return 2 * first - speed
