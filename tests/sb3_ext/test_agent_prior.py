from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import AgentPrior


def observations(rows: int = 5) -> th.Tensor:
    return th.randn(rows, 4, generator=th.Generator().manual_seed(0))


def test_a_value_agent_gives_the_softmax_of_its_values() -> None:
    agent = DQN("MlpPolicy", "CartPole-v1", seed=0)
    obs = observations()
    values = agent.policy.q_net(obs).detach()
    th.testing.assert_close(AgentPrior(agent, temperature=0.5)(obs), (values / 0.5).softmax(1))
    greedy, _ = agent.predict(obs.numpy(), deterministic=True)
    np.testing.assert_array_equal(AgentPrior(agent)(obs).argmax(1).numpy(), greedy)


def test_a_policy_agent_gives_the_probabilities_of_its_policy() -> None:
    agent = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
    obs = observations()
    prior = AgentPrior(agent)(obs)
    th.testing.assert_close(prior, agent.policy.get_distribution(obs).distribution.probs.detach())
    th.testing.assert_close(AgentPrior(agent, temperature=0.5)(obs), prior**2 / (prior**2).sum(1, keepdim=True))


def test_observations_are_normalised_as_the_agent_sees_them() -> None:
    envs = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    agent = PPO("MlpPolicy", envs, seed=0, device="cpu")
    envs.obs_rms.mean, envs.obs_rms.var = np.full(4, 0.3), np.full(4, 4.0)
    obs = observations()
    shown = th.as_tensor(envs.normalize_obs(obs.numpy())).float()
    th.testing.assert_close(AgentPrior(agent)(obs), agent.policy.get_distribution(shown).distribution.probs.detach())


def test_the_agent_and_the_random_streams_are_left_alone() -> None:
    agent = DQN("MlpPolicy", "CartPole-v1", seed=0)
    agent.policy.set_training_mode(True)
    before, state = th.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    AgentPrior(agent)(observations())
    assert agent.policy.training
    assert th.equal(th.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_what_has_no_prior_is_refused() -> None:
    with pytest.raises(TypeError, match="Discrete"):
        AgentPrior(SAC("MlpPolicy", "Pendulum-v1"))
    with pytest.raises(ValueError, match="temperature"):
        AgentPrior(DQN("MlpPolicy", "CartPole-v1"), temperature=0.0)
