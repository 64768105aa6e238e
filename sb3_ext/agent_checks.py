"""What an agent must be for Dyna-style training, and the sentences that say so."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_ext.buffers import MixedReplayBuffer


def mixed_buffer(agent: object) -> MixedReplayBuffer:
    """The agent's replay buffer, looked up anew because ``load_replay_buffer`` replaces it.

    Raises:
        TypeError: if it is not a :class:`MixedReplayBuffer`.
    """
    buffer = getattr(agent, "replay_buffer", None)
    if not isinstance(buffer, MixedReplayBuffer):
        raise TypeError(
            f"DynaCallback needs the agent to be built with replay_buffer_class=MixedReplayBuffer; "
            f"its buffer is {type(buffer).__name__}."
        )
    return buffer


def check_agent(agent: object) -> None:
    """Raise with a sentence that helps if ``agent`` cannot be trained Dyna-style."""
    if not isinstance(agent, OffPolicyAlgorithm):
        raise TypeError(
            f"DynaCallback trains off-policy agents; {type(agent).__name__} has no replay buffer. "
            "For PPO, A2C and TRPO use sb3_ext.learn_in_imagination."
        )
    buffer = mixed_buffer(agent)
    if buffer.observation_space != agent.observation_space or buffer.action_space != agent.action_space:
        raise ValueError("The replay buffer was recorded in another environment: its spaces differ from the agent's.")
    if getattr(agent, "use_sde", False):
        raise ValueError(
            "use_sde=True is not supported: gSDE draws one exploration matrix for all rows of a batch, so every "
            "imagined branch would explore alike. Use the default use_sde=False."
        )
    if getattr(agent, "n_steps", 1) > 1:
        raise ValueError(
            "n_steps > 1 is not supported with imagined rows (SB3 ignores it silently for a custom buffer): "
            "use n_steps=1."
        )
    if not isinstance(agent.action_space, spaces.Box | spaces.Discrete):
        raise TypeError(f"DynaCallback supports Box and Discrete actions, not {agent.action_space}.")
