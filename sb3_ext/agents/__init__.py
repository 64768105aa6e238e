"""Agents with Stable-Baselines3's interface that SB3 does not have."""

from sb3_ext.agents.double_horizon import DoubleHorizon
from sb3_ext.agents.double_horizon_config import DoubleHorizonConfig
from sb3_ext.agents.dyna_q import DynaQ, DynaQPlus
from sb3_ext.agents.naf import NAF
from sb3_ext.agents.naf_explorer import ExploringController
from sb3_ext.agents.policy_gradient import ModelPolicyGradient
from sb3_ext.agents.prioritized_sweeping import PrioritizedSweeping
from sb3_ext.agents.svg import SVG
from sb3_ext.agents.tabular_policy import TabularPolicy
from sb3_ext.agents.value_expansion_agents import MVEDDPG, MVESAC, MVETD3, STEVEDDPG, STEVESAC, STEVETD3
from sb3_ext.agents.value_expansion_config import ExpansionConfig

__all__ = [
    "MVEDDPG",
    "MVESAC",
    "MVETD3",
    "NAF",
    "STEVEDDPG",
    "STEVESAC",
    "STEVETD3",
    "SVG",
    "DoubleHorizon",
    "DoubleHorizonConfig",
    "DynaQ",
    "DynaQPlus",
    "ExpansionConfig",
    "ExploringController",
    "ModelPolicyGradient",
    "PrioritizedSweeping",
    "TabularPolicy",
]
