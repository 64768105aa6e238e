"""Schedules over real environment steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RolloutLength:
    r"""The branch length as a function of real steps (MBPO, Janner et al. 2019, appendix C).

    .. math:: k(t) = \lfloor \mathrm{clip}(k_0 + \tfrac{t - t_0}{t_1 - t_0}(k_1 - k_0),\; k_0,\; k_1) \rfloor

    In real steps and not in epochs, because an epoch's length differs by task.

    Args:
        start_step: ``t_0``, until here the length is ``start_length``.
        end_step: ``t_1``, from here on it is ``end_length``.
        start_length: ``k_0``, at least 1.
        end_length: ``k_1``, at least ``start_length``.
    """

    start_step: int
    end_step: int
    start_length: int = 1
    end_length: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.start_length <= self.end_length:
            raise ValueError(f"Need 1 <= start_length <= end_length, got {self.start_length} and {self.end_length}.")
        if not 0 <= self.start_step < self.end_step:
            raise ValueError(f"Need 0 <= start_step < end_step, got {self.start_step} and {self.end_step}.")

    def __call__(self, real_steps: int) -> int:
        """The length to use after ``real_steps`` environment steps."""
        progress = (real_steps - self.start_step) / (self.end_step - self.start_step)
        progress = min(max(progress, 0.0), 1.0)
        # The small term keeps an exact step of the ramp from landing one below through rounding.
        return int(self.start_length + progress * (self.end_length - self.start_length) + 1e-9)

    @classmethod
    def constant(cls, length: int) -> RolloutLength:
        """The same length throughout."""
        return cls(0, 1, length, length)
