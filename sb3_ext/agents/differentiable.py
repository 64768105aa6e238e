"""Whether gradients of the action flow through a model, asked before a pathwise agent trains in it."""

from __future__ import annotations

import warnings
from typing import Any

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.gradient_estimators import not_differentiable, unroll_with_gradient
from mbrl_wrappers.types import DifferentiablePolicy, DynamicsModel, NotFitted

STEPS, ROWS = 2, 16


@th.enable_grad()
def check_differentiable(
    dynamics: DynamicsModel[Any], policy: DifferentiablePolicy, starts: Tensor, *, generator: Generator
) -> None:
    """Unroll ``policy`` for two steps, and look for the derivatives of what ``dynamics`` predicts.

    A model that cannot predict before its first fit is not looked at. A reward that changes from row to row and has no
    derivative is warned of: the actor would be told nothing of it.

    Args:
        dynamics: the model.
        policy: of the agent.
        starts: ``(N, O)`` observations in raw units.
        generator: source of every draw.

    Raises:
        TypeError: if there is no derivative of the observations.
    """
    rows = starts.repeat(-(-ROWS // len(starts)), 1)
    try:
        unrolled = unroll_with_gradient(dynamics, policy, rows, STEPS, generator=generator)
    except NotFitted:
        return
    if not unrolled.obs[1:].requires_grad:
        raise not_differentiable(dynamics)
    rewards = unrolled.reward[unrolled.valid & ~unrolled.terminated]
    if not rewards.requires_grad and len(rewards) and bool((rewards != rewards[0]).any()):
        warnings.warn(
            f"The reward of {type(dynamics).__name__} changes from row to row and has no derivative, so the actor is "
            "told of it by the critics alone. Compute reward_fn with torch operations on what it is given, without "
            "numpy and detach(), or leave it out and the reward is learned.",
            stacklevel=2,
        )
