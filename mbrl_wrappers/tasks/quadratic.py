"""A quadratic reward, to plan for where the task's own reward says too little."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mbrl_wrappers.storage.stored_functions import register_function
from mbrl_wrappers.tasks.rules import check_width


@register_function
@dataclass(frozen=True)
class QuadraticReward:
    r"""A constant less the weighted squared distance from a target, a ``reward_fn`` in environment units.

    .. math:: r = b - \sum_i w_i (s'_i - g_i)^2 - c \sum_j a_j^2

    A task that pays the same for every step until it fails (InvertedPendulum) says nothing to LQR and iLQR, which climb
    derivatives, and lets a search end its plans on the brink: give them ``WithReward(model, QuadraticReward(...))``.
    Where an episode can end, ``b`` has to outweigh the distance, else the shortest life is the best.

    Attributes:
        weights: :math:`w_i`, one per entry of the observation; 0 leaves an entry free.
        target: :math:`g_i`; None is the origin.
        action_weight: :math:`c`.
        constant: :math:`b`, paid in every step.

    Raises:
        ValueError: for a target of another length.
    """

    weights: tuple[float, ...]
    target: tuple[float, ...] | None = None
    action_weight: float = 0.0
    constant: float = 0.0

    def __post_init__(self) -> None:
        if self.target is not None and len(self.target) != len(self.weights):
            raise ValueError(f"target has {len(self.target)} entries and weights has {len(self.weights)}.")

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Judge successors ``next_obs (B, O)`` and actions ``(B, A)``, Box only."""
        check_width(next_obs, len(self.weights), "observations", self)
        distance = next_obs if self.target is None else next_obs - next_obs.new_tensor(self.target)
        cost = distance.square() @ distance.new_tensor(self.weights)
        return self.constant - cost - self.action_weight * action.to(cost).square().sum(1)
