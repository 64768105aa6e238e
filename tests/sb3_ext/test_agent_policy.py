"""The agent as the policy of a model rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import AgentPolicy
from sb3_ext.agents import NAF
from tests.sb3_ext.dyna_agents import make_agent, oracle_env


@pytest.mark.parametrize("algorithm", [TD3, DDPG])
def test_noise_never_leaves_the_bounds_of_model_actions(algorithm: type[BaseAlgorithm]) -> None:
    agent = make_agent(algorithm, oracle_env())
    actions = AgentPolicy(agent, noise_std=3.0)(th.zeros(500, 3), generator=th.Generator().manual_seed(0))
    assert actions.abs().max() == 1
    assert 0.2 < (actions.abs() == 1).float().mean() < 0.95


def test_a_value_agent_explores_row_by_row() -> None:
    agent = make_agent(DQN, oracle_env(True))
    agent.exploration_rate = 0.3
    obs = th.zeros(5000, 3)
    policy = AgentPolicy(agent)
    choice = policy(obs, generator=th.Generator().manual_seed(0)).argmax(1)
    greedy = int(AgentPolicy(agent, deterministic=True)(obs[:1], generator=th.Generator()).argmax(1))
    # A random third of the exploring three tenths hits the greedy action as well.
    assert float((choice == greedy).float().mean()) == pytest.approx(0.8, abs=0.02)


def test_a_deterministic_actor_gets_its_own_noise_and_keeps_its_action_noise() -> None:
    class Loud(NormalActionNoise):
        def __call__(self) -> Any:
            raise AssertionError("the agent's own noise is stateful and must be left alone")

    agent = make_agent(TD3, oracle_env(), action_noise=Loud(np.zeros(2), np.ones(2)))
    obs = th.zeros(4000, 3)
    noisy = AgentPolicy(agent, noise_std=0.2)(obs, generator=th.Generator().manual_seed(0))
    plain = AgentPolicy(agent, deterministic=True)(obs, generator=th.Generator().manual_seed(0))
    assert (plain == plain[0]).all()
    assert float((noisy - plain).std()) == pytest.approx(0.2, rel=0.05)


def test_naf_explores_by_its_own_noise_or_by_that_of_the_rollout() -> None:
    obs = th.zeros(400, 3)
    for own, expected in ((0.0, 0.5), (0.2, 0.2)):
        agent = make_agent(NAF, oracle_env(), covariance_noise=own)
        with th.no_grad():  # the greedy action is 0, and the factor one
            for head in (agent.q_net.mean_head, agent.q_net.factor_head):
                head.weight.zero_()
                head.bias.zero_()
        drawn = AgentPolicy(agent, noise_std=0.5)(obs, generator=th.Generator().manual_seed(0))
        assert 0.8 * expected < float(drawn.std()) < 1.1 * expected


def test_the_policys_actions_are_the_agents_own_in_model_units() -> None:
    env = oracle_env()
    agent = make_agent(SAC, env)
    obs = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    actions = AgentPolicy(agent, deterministic=True)(th.as_tensor(obs), generator=th.Generator())
    expected, _ = agent.predict(obs, deterministic=True)
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    np.testing.assert_allclose(actions.numpy(), 2 * (expected - low) / (high - low) - 1, atol=1e-5)


def test_the_policy_sees_normalised_observations_and_never_updates_the_statistics() -> None:
    env = VecNormalize(DummyVecEnv([oracle_env]))
    agent = make_agent(SAC, env)
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, 2.0, 3.0]), np.array([4.0, 9.0, 0.25])  # type: ignore[union-attr]
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    actions = AgentPolicy(agent, deterministic=True)(th.as_tensor(obs), generator=th.Generator())
    expected, _ = agent.predict(env.normalize_obs(obs), deterministic=True)
    np.testing.assert_allclose(actions.numpy(), AgentPolicy(agent).codec.from_env(expected).numpy(), atol=1e-6)
    assert env.obs_rms.mean.tolist() == [1.0, 2.0, 3.0]  # type: ignore[union-attr]
