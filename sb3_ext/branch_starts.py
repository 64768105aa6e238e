"""Where the branches of a round begin, and room in the buffer for what they will hold."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger

from mbrl_wrappers.envs import StartSampler
from mbrl_wrappers.precision import model_dtype
from mbrl_wrappers.types import DynamicsModel, Limits
from sb3_ext.buffers import MixedReplayBuffer

MAX_DRAWS = 20
"""Maximum number of attempts to draw enough starts inside the model's limits."""


def real_starts(
    dynamics: DynamicsModel[Any], buffer: MixedReplayBuffer, count: int, rng: np.random.Generator
) -> th.Tensor:
    """``count`` real observations ``(count, O)`` of ``buffer``."""
    return th.as_tensor(buffer.sample_observations(count, rng), dtype=model_dtype(dynamics))


def starts_inside(
    dynamics: DynamicsModel[Any], sampler: StartSampler, count: int, rng: np.random.Generator, logger: Logger
) -> th.Tensor:
    """``count`` start observations ``(n, O)`` of ``sampler``; fewer if too few lie inside the model's limits."""
    dtype = model_dtype(dynamics)
    limits: Limits | None = getattr(dynamics, "limits", None)
    inside, draws = th.zeros(0, dynamics.observation_space.shape[0]), 0
    while len(inside) < count and draws < MAX_DRAWS:
        drawn = th.as_tensor(sampler(count, rng), dtype=dtype)
        inside = th.cat([inside, drawn if limits is None else drawn[limits.contains(drawn)]])
        draws += 1
    logger.record("dyna/starts_inside", len(inside) / (draws * count))
    if not len(inside):
        warnings.warn(
            "None of the starts is near the real data that the model was fitted to, so nothing was imagined: "
            "narrow the starts, or begin with more random steps (learning_starts).",
            stacklevel=2,
        )
    return inside[:count]


def reserve(buffer: MixedReplayBuffer, usual: int, new: int) -> int | None:
    """Make ``buffer`` large enough for ``usual`` rows, and for ``new`` ones beside those not yet too old.

    Returns:
        The bytes that its imagined rows will take; None where nothing had to change.
    """
    synthetic = buffer.synthetic
    wanted = max(usual, len(synthetic) + new)
    if not len(synthetic) or min(wanted, buffer.synthetic_size) > synthetic.capacity:
        return buffer.reserve_synthetic(wanted)
    return None
