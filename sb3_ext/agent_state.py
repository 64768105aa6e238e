"""The state of an unmodified SB3, sb3-contrib or SBX agent as nested plain values.

Taken at the start of a rollout, which is when an agent holds least: what it trains on next is in its replay buffer, and
a rollout buffer is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr

from mbrl_wrappers.seeding import numpy_stream_state, set_numpy_stream_state
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.torch_states import (
    check_optimizer_state,
    load_module_state,
    load_optimizer_state,
    module_state,
    optimizer_state,
)
from sb3_ext.jax_state import jax_state, load_jax_state
from sb3_ext.model_user import ModelUser
from sb3_ext.plain_values import plain, revived

COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "_current_progress_remaining",
    "exploration_rate",
    "reset_idx",
    "adaptive_lr.current_adaptive_lr",
)
LAST = ("_last_obs", "_last_original_obs", "_last_episode_starts")
EPISODES = ("ep_info_buffer", "ep_success_buffer")
_STREAMS = (th.Generator, np.random.Generator, np.random.RandomState)
EXPLORATION = ("exploration_mat", "exploration_matrices")
_PARTS = (
    "agent",
    "counters",
    "last",
    "episodes",
    "networks",
    "tensors",
    "jax",
    "action_space",
    "exploration",
    "noise",
    "own",
)


def agent_state(agent: BaseAlgorithm) -> StateDict:
    """Weights, target networks, optimisers, entropy coefficient, counters, last observations and exploration noise.

    The replay buffer, the environment and the global random streams, which SB3 draws from, are not in it.

    Raises:
        TypeError: for an agent that holds something which is no plain value.
    """
    if hasattr(agent, "_last_lstm_states"):
        raise TypeError(f"The recurrent state of {type(agent).__name__} cannot be kept in a run checkpoint yet.")
    _check_can_be_kept(agent)
    networks, tensors = agent._get_torch_save_params()
    return {
        "agent": type(agent).__name__,
        "counters": {name: plain(recursive_getattr(agent, name)) for name in COUNTERS if _has(agent, name)},
        "last": {name: plain(getattr(agent, name, None)) for name in LAST},
        "episodes": {name: plain(getattr(agent, name)) for name in EPISODES},
        "networks": {name: _part_state(recursive_getattr(agent, name)) for name in networks},
        "tensors": {name: recursive_getattr(agent, name).detach().cpu().clone() for name in _filled(agent, tensors)},
        "jax": jax_state(agent),
        "action_space": numpy_stream_state(agent.action_space.np_random),
        "exploration": exploration_state(agent),
        "own": agent.own_state() if hasattr(agent, "own_state") else None,
        "noise": [None if noise is None else noise.tolist() for noise in _noise_memories(agent.action_noise)],
    }


def load_agent_state(agent: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put an agent, built as the one that was saved, into a state that :func:`agent_state` gave.

    ``learn(..., reset_num_timesteps=False)`` then goes on without a reset of the environment. It resets the action
    noise and draws new exploration matrices first: :func:`load_exploration_state` puts those back.

    Raises:
        ValueError: if it is the state of another agent.
    """
    require_keys(state, _PARTS, "an agent")
    if state["agent"] != type(agent).__name__:
        raise ValueError(f"The run was saved with the agent {state['agent']}, and this one is {type(agent).__name__}.")
    if (state["own"] is None) == hasattr(agent, "own_state"):
        raise ValueError(f"The state is of another class of the name {type(agent).__name__}.")
    networks, tensors = agent._get_torch_save_params()
    require_keys(state["networks"], networks, f"this {type(agent).__name__}")
    require_keys(state["tensors"], _filled(agent, tensors), f"this {type(agent).__name__}")
    for name in networks:
        part = recursive_getattr(agent, name)
        if isinstance(part, th.optim.Optimizer):
            check_optimizer_state(part, state["networks"][name])
    for name in networks:
        _load_part(recursive_getattr(agent, name), state["networks"][name])
    for name, value in state["tensors"].items():
        recursive_getattr(agent, name).data.copy_(value)
    load_jax_state(agent, state["jax"])
    if state["own"] is not None:
        agent.load_own_state(state["own"])  # type: ignore[attr-defined]
    for name, value in state["counters"].items():
        recursive_setattr(agent, name, value)
    for name, value in state["last"].items():
        setattr(agent, name, value)
    for name, values in state["episodes"].items():
        buffer = None if values is None else deque(revived(values), maxlen=agent._stats_window_size)
        setattr(agent, name, buffer)
    set_numpy_stream_state(agent.action_space.np_random, state["action_space"])
    _vectorize_noise(agent)
    load_exploration_state(agent, state)


def exploration_state(agent: BaseAlgorithm) -> StateDict:
    """The exploration matrices of gSDE, where the agent has any."""
    found = {}
    for name, distribution in _distributions(agent).items():
        for key in EXPLORATION:
            matrix = getattr(distribution, key, None)
            if matrix is not None:
                found[f"{name}.{key}"] = matrix.detach().cpu().clone()
    return found


def load_exploration_state(agent: BaseAlgorithm, state: Mapping[str, Any]) -> None:
    """Put action noise and exploration matrices into the ``state`` of the agent, at the start of a rollout.

    Raises:
        ValueError: if the agent's action noise is of another kind.
    """
    for name, matrix in state["exploration"].items():
        owner, _, key = name.rpartition(".")
        setattr(_distributions(agent)[owner], key, matrix.to(agent.device))
    memories = state["noise"]
    noises = _single_noises(agent.action_noise)
    if len(noises) != len(memories):
        raise ValueError(
            f"The run was saved with {len(memories)} action noises, and this agent has {len(noises)}: build it with "
            "the action_noise that the run was started with."
        )
    for noise, memory in zip(noises, memories, strict=True):
        if memory is not None:
            noise.noise_prev = np.array(memory)  # type: ignore[attr-defined]


def _check_can_be_kept(agent: BaseAlgorithm) -> None:
    """Raise a ``TypeError`` for an agent that holds more than SB3's do and does not say what."""
    if hasattr(agent, "own_state"):
        return
    streams = [name for name, value in vars(agent).items() if isinstance(value, _STREAMS)]
    if streams or isinstance(agent, ModelUser):
        held = f"the random stream {streams[0]}" if streams else "what it computes with the model"
        raise TypeError(
            f"A run checkpoint cannot keep {held} of {type(agent).__name__}: give it own_state() -> StateDict and "
            "load_own_state(state), as sb3_ext.agents.DoubleHorizon has them."
        )


def _has(agent: BaseAlgorithm, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    return hasattr(getattr(agent, owner, None) if owner else agent, attribute)


def _filled(agent: BaseAlgorithm, names: list[str]) -> list[str]:
    """Those of the attributes that are set; SB3 names the optimiser of a fixed entropy coefficient too."""
    return [name for name in names if recursive_getattr(agent, name) is not None]


def _part_state(part: Any) -> StateDict:
    return optimizer_state(part) if isinstance(part, th.optim.Optimizer) else module_state(part)


def _load_part(part: Any, state: Mapping[str, Any]) -> None:
    if isinstance(part, th.optim.Optimizer):
        load_optimizer_state(part, state)
    else:
        load_module_state(part, state)


def _distributions(agent: BaseAlgorithm) -> dict[str, Any]:
    """The action distributions of the policy and of its actor."""
    holders: dict[str, Any] = {"policy": agent.policy, "actor": getattr(agent.policy, "actor", None)}
    return {name: each.action_dist for name, each in holders.items() if getattr(each, "action_dist", None) is not None}


def _vectorize_noise(agent: Any) -> None:
    """One action noise for each of several environments, as ``learn()`` makes them when it starts."""
    noise, count = agent.action_noise, agent.n_envs
    if noise is not None and count > 1 and not isinstance(noise, VectorizedActionNoise):
        agent.action_noise = VectorizedActionNoise(noise, count)


def _single_noises(noise: ActionNoise | None) -> list[ActionNoise]:
    if noise is None:
        return []
    return list(noise.noises) if isinstance(noise, VectorizedActionNoise) else [noise]


def _noise_memories(noise: ActionNoise | None) -> list[Any]:
    """What each noise remembers of its last value (Ornstein-Uhlenbeck); None for one without memory."""
    return [getattr(each, "noise_prev", None) for each in _single_noises(noise)]
