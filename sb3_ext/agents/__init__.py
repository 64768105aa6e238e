"""Agents with Stable-Baselines3's interface that SB3 does not have."""

from sb3_ext.agents.dyna_q import DynaQ, DynaQPlus
from sb3_ext.agents.prioritized_sweeping import PrioritizedSweeping
from sb3_ext.agents.tabular_policy import TabularPolicy

__all__ = ["DynaQ", "DynaQPlus", "PrioritizedSweeping", "TabularPolicy"]
