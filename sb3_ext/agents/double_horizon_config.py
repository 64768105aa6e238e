"""The numbers of the double-horizon agent."""

from __future__ import annotations

from dataclasses import dataclass

from mbrl_wrappers.checks import at_least, within


@dataclass(frozen=True)
class DoubleHorizonConfig:
    """Lengths and rates of the two rollouts, and how values are bounded; defaults follow DHMBPO (Kubo et al. 2024).

    Attributes:
        horizon: steps of the training rollout, through which gradients flow.
        distribution_horizon: steps of the distribution rollout, without gradients.
        distribution_starts: real observations that a distribution rollout starts from.
        distribution_freq: updates between distribution rollouts.
        ring_states: visited observations kept to start updates from, the newest.
        target_critics: critics, drawn anew in each update, whose smallest value ends a target.
        bound_quantile: share of rewards on each side that the bounds of values leave out as outliers. A task whose
            reward is zero in nearly all steps needs 0.
        bound_rate: share of the distance that the bounds of values move in an update.
    """

    horizon: int = 5
    distribution_horizon: int = 20
    distribution_starts: int = 256
    distribution_freq: int = 20
    ring_states: int = 51_200
    target_critics: int = 2
    bound_quantile: float = 0.01
    bound_rate: float = 3e-4

    def __post_init__(self) -> None:
        for name in (
            "horizon",
            "distribution_horizon",
            "distribution_starts",
            "distribution_freq",
            "ring_states",
            "target_critics",
        ):
            at_least(name, getattr(self, name))
        within("bound_quantile", self.bound_quantile, 0, 0.49)
        within("bound_rate", self.bound_rate, 0, 1)
