"""Models of a line, and a policy with one gain, for tests of unrolling."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from mbrl_wrappers import FunctionModel
from mbrl_wrappers.models.function import StepFn


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def line(step: StepFn, size: int = 1) -> FunctionModel:
    """A model of ``size`` dimensions and one unbounded action."""
    space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
    return FunctionModel(space, spaces.Box(-np.inf, np.inf, (1,), np.float32), step)


def never(obs: Tensor) -> Tensor:
    return th.zeros(len(obs), dtype=th.bool)


class Gain:
    """``a = -k x`` of the first dimension, plus what the generator or ``noise`` says."""

    def __init__(self, gain: Tensor, noise: float = 0.0) -> None:
        self.gain, self.noise = gain, noise

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        epsilon = th.randn((len(obs), 1), generator=generator, dtype=obs.dtype)
        return -self.gain * obs[:, :1] + self.noise * epsilon, None
