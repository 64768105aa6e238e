"""Each agent that ``train.py`` offers, killed and resumed, ends bit for bit as one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.env_util import make_vec_env

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from sb3_ext import AveragedActor, DynaCallback, MixedReplayBuffer
from sb3_ext.agents.double_horizon_config import DoubleHorizonConfig
from sb3_ext.model_user import ModelUser
from scripts.training.algorithms import _MODULES, ON_POLICY, agent_class
from tests.sb3_ext.resumed_runs import RARE, Built, differences, run

FAST = ("sb3 dh", "sb3 steve-td3", "sb3 naf")
CHOICES = [f"{backend} {algo}" for backend, algorithms in _MODULES.items() for algo in algorithms]
AGENTS = [pytest.param(choice, marks=() if choice in FAST else pytest.mark.slow) for choice in CHOICES]
DOUBLE = DoubleHorizonConfig(
    horizon=2, distribution_horizon=4, distribution_starts=16, distribution_freq=7, ring_states=64
)


def build(backend: str, algo: str) -> Built:
    if backend == "sbx":
        pytest.importorskip("sbx")
    cls: Any = agent_class(algo, backend)
    small: dict[str, Any] = {"seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
    env = make_vec_env("CartPole-v1" if "dqn" in algo else "Pendulum-v1", seed=0)
    if algo in ON_POLICY:
        batches = {} if algo == "a2c" else {"batch_size": 16}
        return Built(cls("MlpPolicy", env, n_steps=16, **batches, **small), [])
    model = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(8,), device="cpu"
    )
    dyna = DynaCallback(model, RARE, trainer=Trainer(model, FitConfig(max_gradient_steps=8)))
    more = {"config": DOUBLE} if algo == "dh" else {}
    rows: dict[str, Any] = {"learning_starts": 45, "batch_size": 16, "buffer_size": 200, "gradient_steps": 1}
    rows["replay_buffer_class"] = MixedReplayBuffer
    return Built(cls("MlpPolicy", env, **rows, **more, **small), [AveragedActor(20), dyna])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("choice", AGENTS)
def test_an_agent_that_was_killed_ends_as_one_that_was_not(tmp_path: Path, choice: str) -> None:
    backend, algo = choice.split()
    steps, every, kills = (160, 48, (60, 130)) if algo in ON_POLICY else (130, 50, (67, 112))
    whole = run(tmp_path / "whole", lambda: build(backend, algo), steps, every=every)
    killed = run(tmp_path / "killed", lambda: build(backend, algo), steps, kills, every=every)
    assert [done // every for done in killed.restored_to] == [0, 1, 2]
    assert list(differences(whole.state, killed.state)) == []
    names = [{key for key in row if key != "time/iterations"} for _, row in whole.rows]
    for keys, (_, one), (_, other) in zip(names, whole.rows, killed.rows, strict=True):
        assert list(differences({key: one[key] for key in keys}, {key: other[key] for key in keys})) == []


def test_an_agent_that_computes_with_the_model_keeps_a_state_of_its_own() -> None:
    for choice in CHOICES:
        if choice.startswith("sb3 "):
            agent = build(*choice.split()).agent
            assert isinstance(agent, ModelUser) <= hasattr(agent, "own_state"), choice
