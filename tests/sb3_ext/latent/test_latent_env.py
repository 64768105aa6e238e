"""A latent model as an environment: the same spaces as the filtered real one, for agents that learn inside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.envs import ModelEnv, ModelVectorEnv
from mbrl_wrappers.latent import BeliefObservation, LinearGaussianModel
from mbrl_wrappers.linear_system import NOISY_POSITION
from mbrl_wrappers.tasks import LinearSystemEnv
from sb3_ext import ModelVecEnv
from sb3_ext.latent import BeliefVecEnv
from tests.sb3_ext.latent.belief_agents import masked, small_agent, small_callback, small_model

FORMS = ["state", "belief"]


@pytest.mark.parametrize("form", FORMS)
def test_all_environments_of_one_model_have_the_same_spaces(form: Any) -> None:
    model = small_model(form)
    starts = np.zeros((3, *model.observation_space.shape), np.float32)
    real, single = BeliefVecEnv(DummyVecEnv([masked()]), model), BeliefObservation(masked()(), model)
    vector = ModelVectorEnv(model, starts, 2, horizon=3)
    for env in (ModelVecEnv(model, starts, 2, horizon=3), ModelEnv(model, starts, horizon=3), single):
        assert (env.observation_space, env.action_space) == (real.observation_space, real.action_space)
    assert vector.single_observation_space == real.observation_space


@pytest.mark.filterwarnings("ignore:The posterior has collapsed")
@pytest.mark.parametrize("form", FORMS)
def test_ppo_learns_inside_the_model_from_inferred_starts_and_acts_on_real_beliefs(form: Any) -> None:
    model = small_model(form)
    agent = small_agent(model)
    agent.learn(30, callback=small_callback(model, imagine=False))
    starts: Any = agent.replay_buffer  # it infers the features of stored steps anew
    imagined = ModelVecEnv(model, starts, 4, horizon=5)
    ppo = PPO("MlpPolicy", imagined, n_steps=8, batch_size=16, seed=0, device="cpu")
    ppo.learn(32)
    apart = agent.env.for_evaluation(DummyVecEnv([masked(10)]))  # type: ignore[union-attr]
    mean, _ = evaluate_policy(ppo, apart, n_eval_episodes=2, warn=False)
    assert -200 < mean < 0


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_what_ppo_earns_inside_the_exact_model_is_no_more_than_the_form_allows(form: Any) -> None:
    model: Any = LinearGaussianModel(NOISY_POSITION, LinearSystemEnv().action_space, form=form)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    state = rng.standard_normal((4000, 2)).astype(np.float32)
    starts = state
    if form == "belief":
        covariance = NOISY_POSITION.filter_covariances()[0]
        reading = state[:, :1] + 0.2 * rng.standard_normal((4000, 1))
        mean = np.concatenate([reading / 1.04, np.zeros((4000, 1))], 1)
        starts = np.concatenate([mean, np.tile(covariance.ravel(), (4000, 1))], 1).astype(np.float32)
    env = ModelVecEnv(model, starts, 32, horizon=NOISY_POSITION.steps)
    env.seed(0)
    ppo = PPO("MlpPolicy", env, n_steps=100, batch_size=400, learning_rate=1e-3, gamma=0.97, seed=0, device="cpu")
    ppo.learn(150_000)
    obs, total = env.reset(), np.zeros(32)
    for _ in range(NOISY_POSITION.steps):
        obs, reward, dones, _ = env.step(ppo.predict(obs, deterministic=True)[0])
        total += reward
    assert dones.all()
    best = NOISY_POSITION.expected_return(observed=form == "state")
    assert 3 * best < total.mean() < best + 3 * 16.6 / np.sqrt(32)
