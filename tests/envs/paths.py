"""A model whose paths can be read off by eye: observations count steps, so that tables can be written out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray

from mbrl_wrappers.models.function import FunctionModel
from mbrl_wrappers.types import Prediction

FAIL = 100.0
"""An observation that gets past this is a failure."""


def counting_model(dtype: type = np.float32) -> FunctionModel:
    """``next_obs = obs + 1``, ``reward = 10 * obs + action``, failure past 100, NaN past 1000, huge past 2000."""

    def step(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        following = obs + 1
        following = th.where((obs > 1000) & (obs < 2000), th.full_like(obs, th.nan), following)
        following = th.where(obs > 2000, th.full_like(obs, 1e6), following)
        return following, 10 * obs[:, 0] + action[:, 0], (following[:, 0] > FAIL) & (following[:, 0] < 1000)

    space = spaces.Box(-np.inf, np.inf, (1,), dtype=dtype)
    return FunctionModel(space, spaces.Box(-2.0, 6.0, (1,), dtype=np.float32), step)


class Deck:
    """Starts that are dealt in order, whatever the random stream: 0, 10, 20, ..."""

    def __init__(self, cards: list[float]) -> None:
        self.cards = list(cards)

    def __call__(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return np.array([[self.cards.pop(0)] for _ in range(n)])


ACTIONS = np.array([[1.0], [2.0], [3.0]], np.float32)
CARDS = [0.0, 99.0, 1500.0, 20.0, 30.0, 40.0, 50.0, 98.0, 60.0, 70.0, 80.0]
F, T = False, True

# Row 0 runs into the horizon of 3, row 1 fails past 100, row 2 begins where the model predicts NaN.
# obs, reward, terminated, truncated, final_obs per row, invalid per row
SAME_STEP = [
    ([1, 100, 20], [1, 992, 0], [F, F, F], [F, F, T], [None, None, 1500], [F, F, T]),
    ([2, 30, 21], [11, 1002, 203], [F, T, F], [F, F, F], [None, 101, None], [F, F, F]),
    ([40, 31, 22], [21, 302, 213], [F, F, F], [T, F, F], [3, None, None], [F, F, F]),
    ([41, 32, 50], [401, 312, 223], [F, F, F], [F, F, T], [None, None, 23], [F, F, F]),
    ([42, 98, 51], [411, 322, 503], [F, F, F], [F, T, F], [None, 33, None], [F, F, F]),
    ([60, 99, 52], [421, 982, 513], [F, F, F], [T, F, F], [43, None, None], [F, F, F]),
    ([61, 100, 70], [601, 992, 523], [F, F, F], [F, F, T], [None, None, 53], [F, F, F]),
    # The failure falls on the last step of the horizon: a termination and nothing else.
    ([62, 80, 71], [611, 1002, 703], [F, T, F], [F, F, F], [None, 101, None], [F, F, F]),
]


class NoisyState(NamedTuple):
    member: th.Tensor  # (B,) drawn at reset
    level: th.Tensor  # (B, 1)


class NoisyModel:
    """Draws a member at reset and noise at each step; fails where the action says so."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(-1.0, 1.0, (1,))
    device = th.device("cpu")

    def reset(self, obs: th.Tensor, *, generator: th.Generator) -> NoisyState:
        return NoisyState(th.rand(len(obs), generator=generator), obs)

    def step(self, state: NoisyState, action: th.Tensor, *, generator: th.Generator) -> tuple[NoisyState, Prediction]:
        noise = th.randn(len(action), 1, generator=generator)
        level = state.level + noise + state.member[:, None]
        return NoisyState(state.member, level), Prediction(level, state.member, action[:, 0] > 0.5)


def drawn_levels(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(size=(n, 1))
