"""A latent model whose belief is a record of what it was shown, and an environment that counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

SENSORS = spaces.Box(-np.inf, np.inf, (1,), np.float32)
ACTIONS = spaces.Box(-2.0, 2.0, (1,), np.float32)


class CountEnv(gym.Env[Any, Any]):
    """Shows ``100 * episode + step``; the episode number goes on from reset to reset; terminates after ``length``."""

    observation_space, action_space = SENSORS, ACTIONS

    def __init__(self, length: int = 3, offset: int = 0) -> None:
        self.length, self.episode, self.time = length, offset, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._shown(), float(np.asarray(action)[0]), self.time == self.length, False, {}

    def _shown(self) -> Any:
        return np.array([100 * self.episode + self.time], np.float32)


class Record(NamedTuple):
    """What a row was shown since its episode began.

    Attributes:
        first: ``(B, 1)`` the first reading.
        newest: ``(B, 1)`` the newest one.
        count: ``(B, 1)`` readings.
        actions: ``(B, 1)`` sum of model actions.
    """

    first: Tensor
    newest: Tensor
    count: Tensor
    actions: Tensor


class RecordingModel(th.nn.Module):
    """Its features are its record, and one weight that is added to the first reading."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    sensor_space, action_space, device = SENSORS, ACTIONS, th.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.weight = th.nn.Parameter(th.zeros(1))

    def initial(self, batch: int) -> Record:
        return Record(*(th.zeros(batch, 1) for _ in range(4)))

    def observe(self, state: Record, action: Tensor, obs: Tensor, first: Tensor, *, generator: Generator) -> Record:
        new = first[:, None]
        return Record(
            th.where(new, obs + self.weight.detach(), state.first),
            obs,
            th.where(new, 1, state.count + 1),
            th.where(new, 0, state.actions + action),
        )

    def features(self, state: Record) -> Tensor:
        return th.cat([*state], 1)

    def reset(self, obs: Tensor, *, generator: Generator) -> Record:
        return Record(*obs.split(1, 1))

    def step(self, state: Record, action: Tensor, *, generator: Generator) -> Any:
        raise NotImplementedError
