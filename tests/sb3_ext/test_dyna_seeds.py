"""Streams of the model follow the seed of the agent unless they are given one."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3 import SAC

from mbrl_wrappers import EnsembleDynamics, Trainer
from sb3_ext import DynaCallback
from tests.sb3_ext.dyna_agents import SMALL, make_agent, oracle_env


def streams(agent_seed: int | None, seed: int | None = None, buffer_seed: int | None = None) -> dict[str, Any]:
    """What each stream of a run gives first."""
    kwargs = {} if buffer_seed is None else {"replay_buffer_kwargs": {"seed": buffer_seed}}
    agent = make_agent(SAC, oracle_env(), seed=agent_seed, **kwargs)
    callback = DynaCallback(config=SMALL, seed=seed)
    callback.init_callback(agent)
    assert isinstance(callback.dynamics, EnsembleDynamics)
    assert isinstance(callback.trainer, Trainer)
    assert callback._streams is not None
    assert callback._generator is not None
    return {
        "weights": th.cat([weight.flatten()[:3] for weight in callback.dynamics.parameters()]).tolist(),
        "holdout": callback.trainer._split_seed,
        "starts": callback._streams.starts.integers(2**62),
        "rollouts": th.rand(2, generator=callback._generator).tolist(),
        "index": agent.replay_buffer._rng.integers(2**62),
        "shuffle": th.rand(2, generator=agent.replay_buffer._shuffle).tolist(),
    }


def same(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    return {name for name in first if first[name] == second[name]}


def test_all_streams_follow_the_agent() -> None:
    zero = streams(0)
    assert same(zero, streams(0)) == set(zero)
    assert same(zero, streams(1)) == set()
    assert same(streams(None), streams(None)) == set()


def test_a_seed_of_its_own_is_kept_whatever_the_agent_has() -> None:
    given = streams(0, seed=3, buffer_seed=3)
    assert same(given, streams(1, seed=3, buffer_seed=3)) == set(given)
    assert same(given, streams(0, seed=4, buffer_seed=4)) == set()
    assert same(given, streams(0, seed=3)) == set(given) - {"index", "shuffle"}
