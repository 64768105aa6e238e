"""Layer normalisation in the critics of SB3's agents: where it is, what it computes, and that files keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch as th
from sb3_contrib import TQC
from stable_baselines3 import DDPG, SAC, TD3
from torch import nn

from sb3_ext import MixedReplayBuffer
from sb3_ext.layer_norm_policies import LayerNormSACPolicy, LayerNormTD3Policy, normalized_layers
from sb3_ext.layer_norm_tqc import LayerNormTQCPolicy
from tests.sb3_ext.dyna_agents import oracle_env, small_callback, weights

AGENTS = [(SAC, LayerNormSACPolicy), (TD3, LayerNormTD3Policy), (DDPG, LayerNormTD3Policy), (TQC, LayerNormTQCPolicy)]


def agent_of(algorithm: Any, policy: Any, **kwargs: Any) -> Any:
    return algorithm(
        policy,
        oracle_env(),
        replay_buffer_class=MixedReplayBuffer,
        learning_starts=20,
        batch_size=16,
        buffer_size=500,
        policy_kwargs={"net_arch": [16, 8]},
        seed=0,
        device="cpu",
        **kwargs,
    )


@pytest.mark.parametrize(("algorithm", "policy"), AGENTS)
def test_critics_are_normalised_before_each_activation(algorithm: Any, policy: Any) -> None:
    agent = agent_of(algorithm, policy)
    for critic in (agent.critic, agent.critic_target):
        for number, network in enumerate(critic.q_networks):
            kinds = [nn.Linear, nn.LayerNorm, nn.ReLU] * 2 + [nn.Linear]
            assert [type(layer) for layer in network] == kinds
            assert getattr(critic, f"qf{number}") is network
    inputs = th.randn(4, 5)
    first, norm, _, second, norm2, _, out = agent.critic.q_networks[0]
    hidden = th.relu(th.nn.functional.layer_norm(first(inputs), (16,)))
    hidden = th.relu(th.nn.functional.layer_norm(second(hidden), (8,)))
    th.testing.assert_close(agent.critic.q_networks[0](inputs), out(hidden))
    optimised = {id(p) for group in agent.critic.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in optimised for p in (*norm.parameters(), *norm2.parameters()))
    assert th.equal(agent.critic_target.q_networks[0][0].weight, first.weight)
    assert not any(isinstance(module, nn.LayerNorm) for module in agent.actor.modules())


@pytest.mark.parametrize(("algorithm", "policy"), AGENTS)
def test_agents_learn_with_a_model_and_load(algorithm: Any, policy: Any, tmp_path: Path) -> None:
    agent = agent_of(algorithm, policy)
    before = weights(agent)
    agent.learn(40, callback=small_callback(oracle_env()))
    assert not th.equal(before, weights(agent))
    agent.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=oracle_env(), device="cpu")
    assert th.equal(weights(loaded), weights(agent))
    assert type(loaded.policy) is policy


def test_a_network_without_hidden_layers_stays_as_it_is() -> None:
    assert [type(layer) for layer in normalized_layers(nn.Sequential(nn.Linear(2, 1)))] == [nn.Linear]
