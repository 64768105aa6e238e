"""The rates of learning and using a model beside an off-policy agent."""

from __future__ import annotations

from dataclasses import dataclass, field

from mbrl_wrappers.branch_gate import GateConfig
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.schedules import RolloutLength

FEWEST_REAL_ROWS = 10
"""Real rows that a fit needs at least, since it holds some out."""


@dataclass(frozen=True)
class DynaConfig:
    """The rates of model learning and model use, in real environment steps (all environments together).

    Collecting, target update and Q regression keep SB3's own settings: ``train_freq``, ``tau`` or
    ``target_update_interval``, and ``gradient_steps``; the share of real rows is the buffer's ``real_ratio``.

    A fit or a round of rollouts that is due waits until the agent has collected its ``train_freq``. A round starts
    ``rollouts_per_step`` branches for each real step since the last round, or for ``rollout_freq`` steps if these are
    more, so its size follows the steps that were taken.

    Attributes:
        model_train_freq: steps between fits.
        rollout_freq: steps between rounds of rollouts.
        rollouts_per_step: branches started per real step.
        rollout_length: steps per branch as a function of real steps, or a constant.
        retain_steps: age in real steps at which imagined rows are removed, however many there are; at least
            ``rollout_freq``.
        min_real_rows: real transitions before the first fit, at least 10; never before the agent's
            ``learning_starts``.
        first_fit_gradient_steps: cap of the first fit, in place of the trainer's.
        policy_noise_std: exploration noise of deterministic actors in the model.
        gate: ends branches where the members of the model disagree; None believes every prediction inside the limits.
    """

    model_train_freq: int = 250
    rollout_freq: int = 250
    rollouts_per_step: int = 400
    rollout_length: RolloutLength | int = field(default_factory=lambda: RolloutLength.constant(1))
    retain_steps: int = 1000
    min_real_rows: int = 250
    first_fit_gradient_steps: int | None = 2500
    policy_noise_std: float = 0.1
    gate: GateConfig | None = None

    def __post_init__(self) -> None:
        for name in ("model_train_freq", "rollout_freq", "rollouts_per_step", "retain_steps"):
            at_least(name, getattr(self, name))
        at_least("min_real_rows", self.min_real_rows, FEWEST_REAL_ROWS)
        if self.retain_steps < self.rollout_freq:
            raise ValueError(
                f"retain_steps must be at least rollout_freq ({self.rollout_freq}), got {self.retain_steps}: imagined "
                "rows would be gone before the next round makes new ones."
            )
        if not isinstance(self.rollout_length, RolloutLength):
            at_least("rollout_length", self.rollout_length)
        if self.first_fit_gradient_steps is not None:
            at_least("first_fit_gradient_steps", self.first_fit_gradient_steps)
        within("policy_noise_std", self.policy_noise_std, 0)
        if self.gate is not None and not isinstance(self.gate, GateConfig):
            raise TypeError(f"gate must be a GateConfig or None, got {type(self.gate).__name__}.")

    def length(self, real_steps: int) -> int:
        """The branch length after ``real_steps``."""
        length = self.rollout_length
        return length(real_steps) if isinstance(length, RolloutLength) else length

    @property
    def longest(self) -> int:
        """The branch length that is reached in the end."""
        length = self.rollout_length
        return length.end_length if isinstance(length, RolloutLength) else length
