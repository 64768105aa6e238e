"""Whether a model's predictions carry a gradient, asked before a pathwise agent trains in it."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import Tensor

from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.types import DynamicsModel


def check_differentiable(dynamics: DynamicsModel[Any], starts: Tensor, agent: str) -> None:
    """Take one step of ``dynamics`` and look for the derivative of its observations by the action.

    Args:
        dynamics: the model.
        starts: ``(N, O)`` observations in raw units.
        agent: what is said to need the derivative.

    Raises:
        TypeError: if there is none.
    """
    if not _has_gradient(dynamics, starts):
        raise TypeError(
            f"{agent} differentiates through the model, and the predictions of {type(dynamics).__name__} carry no "
            "gradient of the action. Take a model that computes in torch, such as EnsembleDynamics, or an agent that "
            "only samples the model: SAC with DynaCallback."
        )


@th.enable_grad()
def _has_gradient(dynamics: DynamicsModel[Any], starts: Tensor) -> bool:
    generator = torch_generator(0, dynamics.device)
    state = dynamics.reset(starts.to(dynamics.device, th.float32), generator=generator)
    action = th.zeros(len(starts), ActionCodec(dynamics.action_space).size, device=dynamics.device, requires_grad=True)
    try:
        next_obs = dynamics.step(state, action, generator=generator)[1].next_obs
    except RuntimeError as error:
        if "requires grad" in str(error):  # torch refuses .numpy() of such a tensor
            return False
        raise
    return next_obs.requires_grad and th.autograd.grad(next_obs.sum(), action, allow_unused=True)[0] is not None
