"""Building on-policy agents on a model environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

AgentFactory = Callable[[VecEnv], OnPolicyAlgorithm]
"""``factory(env) -> agent``: builds the agent on the given model environment, which the agent must keep."""


def build_agent(
    agent: type[OnPolicyAlgorithm] | AgentFactory, env: VecEnv, horizon: int, seed: int
) -> OnPolicyAlgorithm:
    """Build the agent on the model environment and check that it can be trained by many short calls of ``learn()``.

    Args:
        agent: a class, built with an MLP policy and rollouts of one horizon, or a factory.
        env: the model environment.
        horizon: length of an imagined episode.
        seed: of the agent, when a class is given.

    Raises:
        TypeError: if it is not on-policy, is recurrent, or was built already.
        ValueError: if a schedule changes, or the agent was built on another environment or in wrappers that the real
            environment does not have.
    """
    _check_buildable(agent)
    if isinstance(agent, type):
        # Rollouts of one horizon each, in minibatches that divide it.
        share = next(divisor for divisor in (5, 4, 3, 2, 1) if horizon % divisor == 0)
        takes_batches = "batch_size" in inspect.signature(agent).parameters
        batch = {"batch_size": share * env.num_envs} if takes_batches else {}
        built = cast(Any, agent)("MlpPolicy", env, n_steps=horizon, seed=seed, **batch)
    else:
        built = agent(env)
    if not isinstance(built, OnPolicyAlgorithm):
        raise TypeError(f"The agent factory must return a PPO, A2C, TRPO or the like, got {type(built).__name__}.")
    if hasattr(built.policy, "lstm_actor"):
        raise TypeError(
            "Recurrent agents are not supported: their memory does not fit branches from stored observations."
        )
    inner = built.get_env()
    if inner is None or inner.unwrapped is not env.unwrapped:
        raise ValueError(
            "The agent factory must build the agent on the environment it is handed: factory(env) -> agent."
        )
    _check_wrappers(inner)
    for name in ("lr_schedule", "clip_range", "clip_range_vf"):
        schedule = getattr(built, name, None)
        if callable(schedule) and schedule(1.0) != schedule(0.5):
            raise ValueError(
                f"{name} changes with progress, but each of the many short calls of learn() would run through it anew: "
                "use a constant."
            )
    return built


def _check_wrappers(env: VecEnv) -> None:
    """Raise a ``ValueError`` for wrappers of the model environment that the real environment would lack."""
    wrappers: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper):
        wrappers.append(env)
        env = env.venv
    for wrapper in wrappers:
        if type(wrapper) not in (VecMonitor, VecNormalize):
            raise ValueError(
                f"The agent factory put {type(wrapper).__name__} around the model, and only VecMonitor and "
                "VecNormalize are carried over to the real environment: there the agent would see, or do, something "
                "else. Wrap the real environment instead (a gymnasium.Wrapper), before the model is made for it."
            )
    if sum(isinstance(wrapper, VecNormalize) for wrapper in wrappers) > 1:
        raise ValueError("The agent factory put two VecNormalize around the model: leave one of them out.")


def _check_buildable(agent: object) -> None:
    """Raise a ``TypeError`` unless ``agent`` is an on-policy class or a function."""
    kind = type(agent) if isinstance(agent, BaseAlgorithm) else agent
    if isinstance(kind, type) and not issubclass(kind, OnPolicyAlgorithm):
        raise TypeError(
            f"{kind.__name__} is not an on-policy agent. SAC, TD3, DDPG, DQN and their like learn model-based "
            "with DynaCallback and replay_buffer_class=MixedReplayBuffer."
        )
    if isinstance(agent, BaseAlgorithm):
        name = type(agent).__name__
        raise TypeError(
            f"This {name} was built on an environment of its own, and it must be built on the model: pass the class, "
            f'{name}, or a function such as lambda env: {name}("MlpPolicy", env). To go on with a saved agent: '
            f'lambda env: {name}.load("agent.zip", env=env).'
        )
    if not callable(agent):
        raise TypeError(
            f"agent must be an agent class such as PPO, or a function that builds one on the environment it is "
            f"handed; got {agent!r}."
        )
