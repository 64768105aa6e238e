"""A model the user writes as one batched function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_observation_space
from mbrl_wrappers.storage.checkpoint import resolve_device
from mbrl_wrappers.types import Prediction

StepFn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class FunctionState(NamedTuple):
    """``obs (B, O)`` is all the state there is."""

    obs: Tensor


class FunctionModel:
    """Dynamics given by ``step_fn(obs, action) -> (next_obs, reward, terminated)``.

    The function sees and returns environment units, batched: ``obs (B, O)``, ``action (B, A)`` in the bounds of
    the Box, ``(B,)`` int64 for Discrete or ``(B, G)`` int64 for MultiDiscrete, ``next_obs (B, O)``, ``reward (B,)``,
    ``terminated (B,)`` bool, all of them torch tensors. Gradients flow through it if it lets them.

    Args:
        observation_space: one-dimensional float Box.
        action_space: Box, Discrete or MultiDiscrete.
        step_fn: the dynamics.
        device: where ``step_fn`` gets its tensors, the CPU by default because constants of a function usually are
            there. ``"auto"`` takes CUDA when there is one.

    Attributes:
        exact: True: what the function says is taken for the truth, so planners act on the best plan they found and
            not on a mean of good ones.

    Raises:
        TypeError: for spaces that are not supported; in a step, for a function that returns anything else.
        RuntimeError: for a device that this machine does not have.
    """

    exact = True

    def __init__(
        self,
        observation_space: AnySpace,
        action_space: AnySpace,
        step_fn: StepFn,
        *,
        device: str | th.device = "cpu",
    ) -> None:
        self.observation_space = check_observation_space(observation_space)
        self.codec = ActionCodec(action_space)
        self.action_space: AnySpace = action_space
        self.device = resolve_device(device)
        self._step_fn = step_fn

    def reset(self, obs: Tensor, *, generator: Generator) -> FunctionState:
        """Start one trajectory per row of ``obs (B, O)``; float32 and float64 stay what they are."""
        return FunctionState(self._received(obs))

    def step(self, state: FunctionState, action: Tensor, *, generator: Generator) -> tuple[FunctionState, Prediction]:
        """Advance every row with model actions ``(B, A)``."""
        found = self._step_fn(state.obs, self.codec.decode(action.to(self.device)))
        if len(found) != 3 or not all(isinstance(part, Tensor) for part in found):
            got = ", ".join(type(part).__name__ for part in found)
            raise TypeError(f"step_fn must return three tensors (next_obs, reward, terminated), got ({got}).")
        next_obs, reward, terminated = (part.to(self.device) for part in found)
        if not reward.is_floating_point():
            reward = reward.to(next_obs.dtype)
        return FunctionState(next_obs), Prediction(next_obs, reward, terminated)

    def state_vector(self, state: FunctionState) -> Tensor:
        """The observation ``(B, O)``."""
        return state.obs

    def with_state_vector(self, state: FunctionState, vector: Tensor) -> FunctionState:
        """The state at the observation ``vector (B, O)``."""
        return FunctionState(self._received(vector))

    def _received(self, obs: Tensor) -> Tensor:
        """Observations on the model's device, as floating-point numbers."""
        return obs.to(self.device, obs.dtype if obs.is_floating_point() else th.float32)
