"""MBA: NAF with imagination rollouts in a local linear model, and with episodes of the controller made from it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from controllers import ILQR, MPCPolicy
from mbrl_wrappers import LocalLinearModel, LocalLinearTrainer
from sb3_ext import DynaCallback, DynaConfig, MixedReplayBuffer
from sb3_ext.agents.naf import NAF
from sb3_ext.agents.naf_explorer import ExploringController
from tests.oracle import oracle_termination
from tests.sb3_ext.dyna_agents import make_agent, oracle_env
from tests.sb3_ext.lqg import LinearEnv, regulator

RATES = DynaConfig(
    model_train_freq=50, rollout_freq=10, rollouts_per_step=5, rollout_length=3, retain_steps=50, min_real_rows=50
)


def linear_env() -> gymnasium.Env[np.ndarray, np.ndarray]:
    return TimeLimit(LinearEnv(), 25)


def test_imagined_rows_of_a_linear_system_are_what_the_environment_would_have_given() -> None:
    env = linear_env()
    model = LocalLinearModel(env.observation_space, env.action_space, device="cpu")
    agent = make_agent(NAF, env, learning_starts=50)
    callback = DynaCallback(model, RATES)
    agent.learn(80, callback=callback)
    assert isinstance(callback.trainer, LocalLinearTrainer)
    assert callback.report is not None
    assert callback.report.r2_min > 0.999
    assert isinstance(agent.replay_buffer, MixedReplayBuffer)
    synthetic = agent.replay_buffer.synthetic
    assert len(synthetic) > 250
    rows = synthetic.take(np.arange(len(synthetic)))
    matrix, force = np.array([[1.0, 0.1], [0.0, 0.95]]), np.array([[0.0], [1.0]])  # B times the bound of 10
    assert rows.next_obs == pytest.approx(rows.obs @ matrix.T + rows.action @ force.T, abs=2e-3)


def test_the_fitted_model_makes_the_controller_that_explores() -> None:
    env = linear_env()
    model = LocalLinearModel(env.observation_space, env.action_space, device="cpu")
    agent = make_agent(NAF, env, learning_starts=60)
    planner = MPCPolicy(model, ILQR(), horizon=20)
    agent.explore_with(ExploringController(planner, 1.0))
    agent.learn(70, callback=DynaCallback(model, RATES))
    rows = agent.replay_buffer.real_transitions()
    best = -(rows.obs[60:].numpy() @ regulator(1.0)[1].T)[:, 0] / 10
    assert rows.action[60:, 0].numpy() == pytest.approx(best.clip(-1, 1), abs=0.05)


def test_a_task_that_terminates_takes_its_known_termination() -> None:
    env = oracle_env()
    model = LocalLinearModel(env.observation_space, env.action_space, termination_fn=oracle_termination, device="cpu")
    agent = make_agent(NAF, env, covariance_noise=0.2, learning_starts=60)
    callback = DynaCallback(model, RATES)
    agent.learn(80, callback=callback)
    assert callback.report is not None
    assert callback.report.r2_min > 0.99
