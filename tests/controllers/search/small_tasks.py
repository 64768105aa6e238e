"""Decision processes small enough to search by hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from controllers import MCTS, Plan, PlanningProblem
from mbrl_wrappers import FunctionModel, Prediction

LINE = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def generator(seed: int = 0) -> Generator:
    return th.Generator().manual_seed(seed)


def two_step_model(scale: float = 1.0) -> FunctionModel:
    """States 0 to 6 of a binary tree, child ``2 s + 1 + a``; a leaf pays its number, nothing else pays."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        child = 2 * obs[:, 0] + 1 + action
        at_leaf = child >= 3
        return child[:, None], scale * child * at_leaf, at_leaf

    return FunctionModel(LINE, spaces.Discrete(2), step)


class Place(NamedTuple):
    obs: Tensor


class GamblesModel:
    """From 0, action 0 pays 0.4 and ends; action 1 leads to state 1 or 2 and pays nothing.

    At state 1 action 0 pays 1, at state 2 action 1 pays 2, and the episode ends. Who sees where it arrives expects 1.5
    of a fair gamble; who has to choose both actions beforehand expects 1.
    """

    observation_space = LINE
    action_space = spaces.Discrete(2)
    device = th.device("cpu")

    def __init__(self, chance: float = 0.5) -> None:
        self.chance = chance

    def reset(self, obs: Tensor, *, generator: Generator) -> Place:
        return Place(obs)

    def step(self, state: Place, action: Tensor, *, generator: Generator) -> tuple[Place, Prediction]:
        where, index = state.obs[:, 0], action.argmax(1)
        luck = th.rand(len(where), generator=generator) < self.chance
        at_start = where == 0
        arrived = th.where(luck, 1.0, 2.0)
        reward = th.where(at_start, 0.4 * (index == 0), (where - 1 == index).float() * where)
        following = th.where(at_start & (index == 1), arrived, th.full_like(where, 3.0))[:, None]
        return Place(following), Prediction(following, reward, following[:, 0] == 3)


def plan(
    model: object, planner: MCTS, start: float | list[float] = 0.0, horizon: int = 2, seed: int = 0, **objective: object
) -> Plan:
    rows = th.tensor([start] if isinstance(start, float) else start)[:, None]
    problem = PlanningProblem(model, rows, horizon, **objective)  # type: ignore[arg-type]
    return planner.plan(problem, generator=generator(seed))
