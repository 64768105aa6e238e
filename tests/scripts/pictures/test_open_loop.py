"""Open-loop errors of models whose errors are known."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from mbrl_wrappers import EnsembleDynamics, FunctionModel
from scripts.pictures.open_loop import Episode, collect_episodes, compare, horizon_errors, imagine

OBS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACT = spaces.Box(-1.0, 1.0, (2,), np.float32)


def drifting(bias: float) -> FunctionModel:
    """``o' = o + a + bias``, reward the first action, never over."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + action + bias, action[:, 0], th.zeros(len(obs), dtype=th.bool)

    return FunctionModel(OBS, ACT, step)


def episode(length: int) -> Episode:
    """Moves by 1/2 in the first dimension and by -1/4 in the second."""
    action = th.tensor([[0.5, -0.25]]).expand(length, 2)
    obs = th.arange(length + 1.0)[:, None] * th.tensor([[0.5, -0.25]])
    return Episode(obs, action, action[:, 0], terminated=False)


def test_an_exact_model_has_no_error_and_persistence_grows() -> None:
    errors = horizon_errors(drifting(0.0), [episode(10)], 4)
    assert errors.model.shape == errors.persistence.shape == (4, 7, 2)
    assert errors.model.max() < 1e-5
    # Both dimensions are the same line up to scale, so in standard deviations they are equal.
    std = (th.arange(11.0) * 0.5).std()
    for step in range(4):
        th.testing.assert_close(errors.persistence[step], th.full((7, 2), float(0.5 * (step + 1) / std)))


def test_a_bias_adds_up_over_the_horizon() -> None:
    errors = horizon_errors(drifting(0.1), [episode(10)], 3, starts=5)
    std = (th.arange(11.0) * 0.5).std()
    expected = th.tensor([0.1, 0.2, 0.3]) / std
    th.testing.assert_close(errors.model[:, :, 0], expected[:, None].expand(3, 5))


def test_no_start_when_episodes_are_short() -> None:
    with pytest.raises(ValueError, match="No episode lasts 11 steps, the longest 10"):
        horizon_errors(drifting(0.0), [episode(10)], 11)


def test_comparison_of_a_stretch() -> None:
    found = compare(drifting(0.0), episode(10), 7, 5, trajectories=2)
    assert found.real_obs.shape == (4, 2)
    assert found.obs.shape == (2, 4, 2)
    th.testing.assert_close(found.obs, found.real_obs.expand(2, -1, -1))
    th.testing.assert_close(found.reward, th.full((2, 3), 0.5))


def test_each_trajectory_keeps_its_member() -> None:
    model = EnsembleDynamics(OBS, ACT, num_members=3, num_elites=2, hidden=(8,), propagation="ts1", device="cpu")
    found = compare(model, episode(5), 0, 3)
    assert len(found.obs) == 2
    model.propagation = "tsinf"
    again, _ = imagine(model, th.zeros(2, 2), th.zeros(3, 2, 2), member=model.elites)
    twice, _ = imagine(model, th.zeros(2, 2), th.zeros(3, 2, 2), member=model.elites.flip(0))
    assert not th.equal(again[:, 0], twice[:, 0])


def test_collected_episodes_join_up() -> None:
    env = DummyVecEnv([lambda: gym.wrappers.TimeLimit(gym.make("Pendulum-v1").unwrapped, 7)])
    env.seed(0)
    agent = SAC("MlpPolicy", env, buffer_size=1, policy_kwargs={"net_arch": [8]}, seed=0)
    episodes = collect_episodes(env, agent, 10)
    assert [len(each.reward) for each in episodes] == [7, 7]
    assert all(len(each.obs) == 8 and each.action.shape == (7, 1) for each in episodes)
    # cos^2 + sin^2 = 1 in every observation, the last one included; actions are scaled to [-1, 1].
    for each in episodes:
        th.testing.assert_close(each.obs[:, :2].square().sum(1), th.ones(8))
        assert each.action.abs().max() <= 1.0
