"""Adapters: what wrappers do to observations and actions, undone (observations) or repeated (actions) on batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th
from torch import Tensor

from mbrl_wrappers.storage.stored_functions import register_function
from mbrl_wrappers.tasks.rewards import Reward
from mbrl_wrappers.tasks.rules import check_width
from mbrl_wrappers.types import TerminationFn


@register_function
@dataclass(frozen=True)
class ClippedAction:
    """``gymnasium.wrappers.ClipAction``: ``clip(u, low, high)``, so that costs are charged for the clipped action."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __call__(self, action: Tensor) -> Tensor:
        """``(B, A)`` to ``(B, A)``."""
        check_width(action, len(self.low), "actions", self)
        return th.minimum(th.maximum(action, action.new_tensor(self.low)), action.new_tensor(self.high))


@register_function
@dataclass(frozen=True)
class AffineAction:
    """``gymnasium.wrappers.RescaleAction``: ``scale * u + offset`` per dimension."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __call__(self, action: Tensor) -> Tensor:
        """``(B, A)`` to ``(B, A)``."""
        check_width(action, len(self.scale), "actions", self)
        return action * action.new_tensor(self.scale) + action.new_tensor(self.offset)


@register_function
@dataclass(frozen=True)
class AnglesFromSines:
    """Undoes :class:`mbrl_wrappers.tasks.AngleObservation`: ``atan2(sin, cos)``, in (-pi, pi].

    Attributes:
        others: where the entries that are no angles belong.
        angles: where the angles belong.
    """

    others: tuple[int, ...]
    angles: tuple[int, ...]

    def __call__(self, obs: Tensor) -> Tensor:
        """``[others, sines, cosines]`` ``(B, O + number of angles)`` to the observation inside, ``(B, O)``."""
        kept, count = len(self.others), len(self.angles)
        check_width(obs, kept + 2 * count, "observations", self)
        angles = th.atan2(obs[:, kept : kept + count], obs[:, kept + count :])
        places = self.others + self.angles
        order = sorted(range(kept + count), key=places.__getitem__)
        return th.cat([obs[:, :kept], angles], 1)[:, order]


ActionAdapter = ClippedAction | AffineAction


@register_function
@dataclass(frozen=True)
class AdaptedReward:
    """The reward of a task behind wrappers.

    Attributes:
        inner: the reward in the units of the unwrapped task.
        actions: from the outermost wrapper inwards.
        observations: from the outermost wrapper inwards.
    """

    inner: Reward
    actions: tuple[ActionAdapter, ...] = ()
    observations: tuple[AnglesFromSines, ...] = ()

    @property
    def uses_action(self) -> bool:
        """Whether the reward depends on the action."""
        return self.inner.uses_action

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` in the dtype of ``next_obs``."""
        for observe in self.observations:
            obs, next_obs = observe(obs), observe(next_obs)
        for act in self.actions:
            action = act(action)
        return self.inner(obs, action, next_obs)


@register_function
@dataclass(frozen=True)
class AdaptedTermination:
    """The termination rule of a task behind observation wrappers, outermost first (no rule looks at the action)."""

    inner: TerminationFn
    observations: tuple[AnglesFromSines, ...]

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """``(B,)`` bool."""
        for observe in self.observations:
            obs, next_obs = observe(obs), observe(next_obs)
        return self.inner(obs, action, next_obs)
