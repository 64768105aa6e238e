"""Dyna behind a gate: calibrated after each fit, every stored row within its threshold, and logged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC

from mbrl_wrappers import EnsembleDynamics, FitConfig, FunctionModel, GateConfig, Trainer
from mbrl_wrappers.disagreement import bhattacharyya
from sb3_ext import DynaCallback, DynaConfig
from tests.oracle import oracle_model
from tests.sb3_ext.dyna_agents import SMALL, make_agent, oracle_env


def gated_run(gate: GateConfig) -> tuple[Any, DynaCallback, EnsembleDynamics]:
    env = oracle_env()
    model = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=3, num_elites=3, hidden=(16,), device="cpu"
    )
    trainer = Trainer(model, FitConfig(max_epochs=3, batch_size=16))
    # One fit, and one round of branches that starts after it.
    config = replace(SMALL, model_train_freq=100, rollout_freq=100, retain_steps=100, rollout_length=4, gate=gate)
    callback = DynaCallback(model, config, trainer=trainer)
    agent = make_agent(SAC, env, learning_starts=60)
    agent.learn(60, callback=callback)
    return agent, callback, model


def test_every_stored_row_is_within_the_threshold_of_the_real_rows() -> None:
    agent, callback, model = gated_run(GateConfig(quantile=0.5))
    real = agent.replay_buffer.real_transitions()
    with th.no_grad():
        measured = bhattacharyya(model.member_gaussians(real.obs, real.action)).sort().values
        rows = agent.replay_buffer.synthetic.take(np.arange(len(agent.replay_buffer.synthetic)))
        imagined = bhattacharyya(model.member_gaussians(*map(th.as_tensor, (rows.obs, rows.action))))
    assert len(rows.obs) > 0
    assert float(imagined.max()) <= float(measured[29]) * 1.001
    values = callback.logger.name_to_value
    assert 0 < values["dyna/gated_fraction"] < 1
    assert values["dyna/branch_length_mean"] == pytest.approx(len(rows.obs) / 300)  # 3 branches for each of 100 steps


def test_a_gate_that_nothing_passes_leaves_only_real_rows() -> None:
    agent, callback, _ = gated_run(GateConfig(scale=0.0))
    assert len(agent.replay_buffer.synthetic) == 0
    assert callback.logger.name_to_value["dyna/gated_fraction"] == 1
    assert callback.logger.name_to_value["dyna/branch_length_mean"] == 0


def test_a_model_without_members_is_refused_before_the_first_step() -> None:
    agent = make_agent(SAC, oracle_env())
    model: FunctionModel = oracle_model(oracle_env().unwrapped)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no members"):
        agent.learn(30, callback=DynaCallback(model, replace(SMALL, gate=GateConfig())))
    assert agent.num_timesteps == 0


def test_the_gate_is_a_gate_config() -> None:
    with pytest.raises(TypeError, match="GateConfig"):
        DynaConfig(gate={"quantile": 1.0})  # type: ignore[arg-type]
