"""What ``MPCPolicy`` passes from call to call, as nested plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch as th
from torch import Tensor

from controllers.plan import WarmStart
from mbrl_wrappers.states import StateDict, require_keys

_FIELDS = ("actions", "age", "warm_start", "steps", "belief", "calls")
_WARM = ("actions", "known", "elites")


class MPCState(NamedTuple):
    """State passed from one call of ``predict`` to the next, one row per environment.

    Attributes:
        actions: ``(N, H, A)`` the plan under way.
        age: ``(N,)`` int64, how many of its actions have been executed.
        warm_start: what the next plan starts from, not yet shifted.
        steps: ``(N,)`` int64, actions taken in this episode.
        belief: of a latent model, None otherwise.
        calls: calls of ``predict`` so far, which selects the random stream.
    """

    actions: Tensor
    age: Tensor
    warm_start: WarmStart
    steps: Tensor
    belief: Any
    calls: int

    @property
    def can_be_kept(self) -> bool:
        """Whether all of it is tensors; a search tree in the warm start is not."""
        memory = self.warm_start.memory
        return memory is None or all(row is None for row in memory)

    def state_dict(self) -> StateDict:
        """The state as nested plain values.

        Raises:
            TypeError: if the planner keeps a search tree from plan to plan.
        """
        if not self.can_be_kept:
            raise TypeError("The search tree that MCTS reuses cannot be kept: set reuse=False to keep its state.")
        warm = {name: _copy(getattr(self.warm_start, name)) for name in _WARM}
        return {
            "actions": _copy(self.actions),
            "age": _copy(self.age),
            "warm_start": warm,
            "steps": _copy(self.steps),
            "belief": None if self.belief is None else _leaves(self.belief),
            "calls": self.calls,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], *, device: th.device, belief: Any = None) -> MPCState:
        """The state that :meth:`state_dict` gave.

        Args:
            state: nested plain values.
            device: where the model computes.
            belief: of a latent model: any belief and action of the same shape, whose structure the state has.

        Raises:
            ValueError: if it is the state of something else.
        """
        require_keys(state, _FIELDS, "an MPCPolicy")
        require_keys(state["warm_start"], _WARM, "a warm start")
        warm: dict[str, Any] = {
            name: None if value is None else value.to(device) for name, value in state["warm_start"].items()
        }
        leaves = state["belief"]
        if (leaves is None) != (belief is None) or (leaves is not None and len(leaves) != len(_leaves(belief))):
            raise ValueError("The state of the MPCPolicy has the belief of another model.")
        return cls(
            state["actions"].to(device),
            state["age"].to(device),
            WarmStart(**warm),
            state["steps"].to(device),
            None if belief is None else _filled(belief, iter(leaves), device),
            int(state["calls"]),
        )


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().cpu().clone()


def _leaves(value: Any) -> list[Any]:
    """The tensors of nested tuples in order."""
    if isinstance(value, Tensor):
        return [_copy(value)]
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    raise TypeError(f"The belief of the model holds a {type(value).__name__}, which cannot be kept.")


def _filled(like: Any, leaves: Any, device: th.device) -> Any:
    """Nested tuples of the structure of ``like`` with the next of ``leaves`` for each tensor."""
    if isinstance(like, Tensor):
        return next(leaves).to(device)
    parts = [_filled(part, leaves, device) for part in like]
    return type(like)._make(parts) if hasattr(like, "_make") else tuple(parts)
