"""Agents with Stable-Baselines3's interface that SB3 does not have."""

from sb3_ext.agents.double_horizon import DoubleHorizon
from sb3_ext.agents.double_horizon_config import DoubleHorizonConfig
from sb3_ext.agents.dyna_q import DynaQ, DynaQPlus
from sb3_ext.agents.policy_gradient import ModelPolicyGradient
from sb3_ext.agents.prioritized_sweeping import PrioritizedSweeping
from sb3_ext.agents.svg import SVG
from sb3_ext.agents.tabular_policy import TabularPolicy

__all__ = [
    "SVG",
    "DoubleHorizon",
    "DoubleHorizonConfig",
    "DynaQ",
    "DynaQPlus",
    "ModelPolicyGradient",
    "PrioritizedSweeping",
    "TabularPolicy",
]
