"""Agents whose actors are averaged, and what acts in them, read and written without the code under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext import AveragedActor
from tests.sb3_ext.dyna_agents import make_agent, oracle_env

TORCH = {agent.__name__: agent for agent in (SAC, TD3, DDPG, TQC, CrossQ, DQN, QRDQN)}
UNTRAINED = [*TORCH, *(f"sbx.{name}" for name in ("SAC", "TD3", "TQC", "CrossQ", "DQN"))]
TRAINED = [*TORCH, "sbx.SAC", "sbx.CrossQ", "sbx.DQN"]
"""Each training of an SBX agent costs seconds of compilation, so that few train, and each but once."""


def algorithm(name: str) -> Any:
    if not name.startswith("sbx."):
        return TORCH[name]
    return getattr(pytest.importorskip("sbx", reason="needs pip install 'mbrl-wrappers[sbx]'"), name[4:])


def env_of(name: str) -> Callable[[], Any]:
    return lambda: Monitor(oracle_env("DQN" in name))


def build(name: str, *, n_envs: int = 1, **kwargs: Any) -> Any:
    cls = algorithm(name)
    env = DummyVecEnv([env_of(name)] * n_envs)
    if "DQN" not in name:  # two layers, so that normalisation has something to normalise
        kwargs.setdefault("policy_kwargs", {"net_arch": [8, 8]})
    return make_agent(cls, env, **{"replay_buffer_class": ReplayBuffer, "batch_size": 8, **kwargs})


def is_jax(policy: Any) -> bool:
    return hasattr(policy, "actor_state") or hasattr(policy, "qf_state")


def acting_arrays(agent: Any) -> dict[str, np.ndarray]:
    """Copies of what acts in an agent, taken without the code under test."""
    policy = agent.policy
    if is_jax(policy):
        import jax

        state = policy.actor_state if hasattr(policy, "actor_state") else policy.qf_state
        leaves = jax.tree_util.tree_flatten_with_path(
            {"params": state.params, "batch_stats": getattr(state, "batch_stats", {})}
        )[0]
        return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}
    network = next(getattr(policy, name) for name in ("actor", "q_net", "quantile_net") if hasattr(policy, name))
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def everything(agent: Any) -> list[np.ndarray]:
    """All weights, optimisers included, and where the agent's random streams stand."""
    policy = agent.policy
    if is_jax(policy):
        import jax

        states = [getattr(policy, name) for name in ("actor_state", "qf_state") if hasattr(policy, name)]
        weights = [np.asarray(leaf) for leaf in jax.tree.leaves((states, getattr(policy, "key", 0), agent.key))]
    else:
        weights = [value.numpy() for value in policy.state_dict().values()]
        network = getattr(policy, "actor", policy)
        moments = network.optimizer.state_dict()["state"].values()
        weights += [np.asarray(value) for state in moments for value in state.values()]
    draws = [th.get_rng_state().numpy(), np.random.get_state()[1], agent.action_space.sample()]  # noqa: NPY002
    return [np.array(value) for value in (*weights, *draws)]


def averaged_arrays(averaged: AveragedActor) -> list[np.ndarray]:
    return list(averaged.network.arrays().values())


class Recorder(BaseCallback):
    """What acted in each step, seen before the agent trains on it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.actors: list[dict[str, np.ndarray]] = []

    def _on_step(self) -> bool:
        self.steps.append(self.num_timesteps)
        self.actors.append(acting_arrays(self.model))
        return True


class Script(BaseCallback):
    """Sets every weight of the actor to a given number before each step is averaged."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values

    def _on_step(self) -> bool:
        fill(self.model, self.values[self.n_calls - 1])
        return True


def fill(agent: Any, value: float) -> None:
    """Set all weights and statistics of what acts to one number."""
    policy = agent.policy
    if is_jax(policy):
        import jax

        name = "actor_state" if hasattr(policy, "actor_state") else "qf_state"
        state = getattr(policy, name)
        fields = {name: getattr(state, name) for name in ("params", "batch_stats") if hasattr(state, name)}
        full = jax.tree.map(lambda leaf: jax.numpy.full_like(leaf, value), fields)
        setattr(policy, name, state.replace(**full))
        return
    network = next(getattr(policy, name) for name in ("actor", "q_net", "quantile_net") if hasattr(policy, name))
    with th.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(value)


def assert_all_equal(averaged: AveragedActor, value: float, counter: float) -> None:
    for array in averaged_arrays(averaged):
        # Counters of batch normalisation are integers, and copied.
        np.testing.assert_array_equal(array, counter if np.issubdtype(array.dtype, np.integer) else value)
