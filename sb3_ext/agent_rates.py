"""The rates of an agent's own three processes, and those of all five, per real step."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from mbrl_wrappers.checks import at_least, within
from sb3_ext.buffers import MixedReplayBuffer


class FiveRates(NamedTuple):
    """How often each process of model-based off-policy learning runs, per real step.

    Attributes:
        collected: real steps; 1.
        target_updates: of the target networks.
        regressions: of the value function, one batch each.
        fits: of the model.
        imagined_steps: in the model, at the branch length asked for.
    """

    collected: float
    target_updates: float
    regressions: float
    fits: float
    imagined_steps: float


@dataclass(frozen=True)
class AgentRates:
    """The arguments of SB3's that are rates, so that one schedule holds all five processes.

    Attributes:
        train_freq: real steps collected (per environment) between rounds of updates.
        gradient_steps: regressions of the value function in a round.
        target_update_interval: updates between two of the target networks.
        real_ratio: share of real rows in each batch.
    """

    train_freq: int = 1
    gradient_steps: int = 1
    target_update_interval: int = 1
    real_ratio: float = 0.05

    def __post_init__(self) -> None:
        for name in ("train_freq", "gradient_steps", "target_update_interval"):
            at_least(name, getattr(self, name))
        within("real_ratio", self.real_ratio, 0, 1)

    def arguments(self, algorithm: type[OffPolicyAlgorithm]) -> dict[str, Any]:
        """Keyword arguments that build an agent with these rates: ``SAC("MlpPolicy", env, **rates.arguments(SAC))``.

        Raises:
            ValueError: if targets should be updated less often than ``algorithm`` can.
        """
        taken = {name for base in algorithm.__mro__ for name in inspect.signature(base).parameters}
        arguments: dict[str, Any] = {
            "train_freq": self.train_freq,
            "gradient_steps": self.gradient_steps,
            "replay_buffer_class": MixedReplayBuffer,
            "replay_buffer_kwargs": {"real_ratio": self.real_ratio},
        }
        if "target_update_interval" in taken:
            return arguments | {"target_update_interval": self.target_update_interval}
        if self.target_update_interval > 1:
            raise ValueError(
                f"{algorithm.__name__} updates its targets with every update: leave target_update_interval at 1."
            )
        return arguments

    def check(self, agent: OffPolicyAlgorithm, buffer: MixedReplayBuffer) -> None:
        """Raise a ``ValueError`` that names the first rate in which ``agent`` differs."""
        frequency = (
            agent.train_freq if isinstance(agent.train_freq, int) else getattr(agent.train_freq, "frequency", None)
        )
        found = {
            "train_freq": frequency,
            "gradient_steps": agent.gradient_steps,
            "target_update_interval": getattr(agent, "target_update_interval", 1),
            "real_ratio": buffer.real_ratio,
        }
        for name, value in found.items():
            if value != getattr(self, name):
                cls = type(agent).__name__
                raise ValueError(
                    f"The schedule says {name}={getattr(self, name)} and the agent has {value}: build it with "
                    f"{cls}(..., **config.agent.arguments({cls})), or leave DynaConfig.agent out."
                )
