"""Checks that an agent fits Dyna-style training, with error messages that say what to change."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from mbrl_wrappers.fitting import ModelTrainer
from mbrl_wrappers.spaces import check_observation_space
from mbrl_wrappers.types import DynamicsModel, RewardFn, TerminationFn
from sb3_ext.buffers import MixedReplayBuffer
from sb3_ext.dyna_config import DynaConfig
from sb3_ext.model_user import ModelUser


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


def check_agent(agent: object, config: DynaConfig) -> None:
    """Raise a ``TypeError`` or ``ValueError`` that says what to do if ``agent`` cannot be trained with a model.

    Args:
        agent: any agent.
        config: the rates that it would be trained at.
    """
    if not isinstance(agent, OffPolicyAlgorithm):
        raise TypeError(
            f"DynaCallback trains off-policy agents; {type(agent).__name__} has no replay buffer. "
            "For PPO, A2C and TRPO use sb3_ext.learn_in_imagination."
        )
    check_observation_space(agent.observation_space)
    if not isinstance(agent.action_space, spaces.Box | spaces.Discrete):
        raise TypeError(f"DynaCallback supports Box and Discrete actions, not {agent.action_space}.")
    if isinstance(agent.action_space, spaces.Discrete) and agent.action_space.start != 0:
        start, count = agent.action_space.start, agent.action_space.n
        raise ValueError(
            f"The actions of {agent.action_space} begin at start={start}, and agents of SB3 and SBX choose from 0 to "
            f"{count - 1} whatever the start. Let them count from 0: gymnasium.wrappers.TransformAction(env, "
            f"lambda action: action + {start}, gymnasium.spaces.Discrete({count}))."
        )
    buffer = mixed_buffer(agent)
    _check_buffer(buffer, agent, config)
    if config.agent is not None:
        config.agent.check(agent, buffer)
    if isinstance(agent, ModelUser) and not config.model_train_freq:
        raise ValueError(f"model_train_freq=0 leaves {type(agent).__name__} without a model: give a number of steps.")
    if isinstance(agent, ModelUser) and config.until is not None:
        raise ValueError(
            f"{type(agent).__name__} uses the model in its own update, which DynaConfig.until would leave with a model "
            "that nobody fits any more: leave until at None."
        )
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


def _check_buffer(buffer: MixedReplayBuffer, agent: OffPolicyAlgorithm, config: DynaConfig) -> None:
    """Raise a ``ValueError`` unless ``buffer`` fits the agent's environments and can hold the rows ``config`` needs."""
    if buffer.observation_space != agent.observation_space or buffer.action_space != agent.action_space:
        raise ValueError("The replay buffer was recorded in another environment: its spaces differ from the agent's.")
    if buffer.n_envs != agent.n_envs:
        raise ValueError(
            f"The replay buffer was recorded in n_envs={buffer.n_envs} environments side by side, and the agent has "
            f"n_envs={agent.n_envs}: load it into an agent with {buffer.n_envs}, or begin with an empty buffer."
        )
    capacity = buffer.buffer_size * buffer.n_envs
    if capacity < config.min_real_rows:
        raise ValueError(
            f"The first fit waits for DynaConfig.min_real_rows={config.min_real_rows} real transitions, and the replay "
            f"buffer keeps {capacity}: raise the agent's buffer_size, or lower min_real_rows."
        )
    needed = buffer.fewest_synthetic(agent.batch_size)
    most = min(config.rollouts_per_step * config.retain_steps * config.longest, buffer.synthetic_size)
    imagines = config.rollout_freq > 0 and not isinstance(agent, ModelUser)
    if most < needed and buffer.real_ratio < 1 and imagines:
        raise ValueError(
            f"Batches take no imagined rows until {needed} are stored, and there are never more than {most}: raise "
            "DynaConfig.rollouts_per_step or retain_steps, or the buffer's synthetic_size, or lower the agent's "
            "batch_size."
        )


def check_arguments(
    dynamics: DynamicsModel[Any] | None,
    config: DynaConfig | None,
    trainer: ModelTrainer | None,
    reward_fn: RewardFn | None,
    termination_fn: TerminationFn | None,
) -> None:
    """Check what a ``DynaCallback`` is given.

    Raises:
        TypeError: for arguments of another kind than it takes.
        ValueError: for arguments that contradict each other.
    """
    if config is not None and not isinstance(config, DynaConfig):
        raise TypeError(
            f"config must be a DynaConfig, got {type(config).__name__}: DynaConfig(model_train_freq=250, ...), or "
            "DynaConfig(**settings) for a dict."
        )
    for name, function in (("reward_fn", reward_fn), ("termination_fn", termination_fn)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function of (obs, action, next_obs), got {function!r}.")
    if dynamics is not None and (reward_fn is not None or termination_fn is not None):
        raise ValueError("reward_fn and termination_fn are for the default model: give them to your own dynamics.")
    if trainer is not None and trainer.model is not dynamics:
        raise ValueError("The trainer fits another model than the dynamics given: build it as Trainer(dynamics, ...).")
