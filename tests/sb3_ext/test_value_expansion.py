"""MVE and STEVE as agents: what they share with their parents, and what their targets are in a known environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import EnsembleDynamics, FunctionModel
from sb3_ext import DynaCallback
from sb3_ext.agents.value_expansion_agents import (
    MVEDDPG,
    MVESAC,
    MVETD3,
    STEVEDDPG,
    STEVESAC,
    STEVETD3,
    SmoothedTarget,
)
from sb3_ext.agents.value_expansion_config import ExpansionConfig
from tests.oracle import OracleEnv, oracle_model
from tests.sb3_ext.dyna_agents import SMALL, make_agent, oracle_env, small_callback, weights

AGENTS = [(SAC, MVESAC), (SAC, STEVESAC), (TD3, MVETD3), (TD3, STEVETD3), (DDPG, MVEDDPG), (DDPG, STEVEDDPG)]
pytestmark = pytest.mark.filterwarnings("ignore:The learned termination")


def expanding(cls: type[Any], horizon: int, **kwargs: Any) -> Any:
    return make_agent(
        cls,
        oracle_env(),
        config=ExpansionConfig(horizon=horizon, members=2),
        policy_kwargs={"net_arch": [16], "n_critics": 2},
        **kwargs,
    )


def exact_callback(env: Any) -> DynaCallback:
    return DynaCallback(oracle_model(env), SMALL)


@pytest.mark.parametrize(("parent", "cls"), AGENTS)
def test_without_imagined_steps_the_agent_is_its_parent_bit_for_bit(parent: type[Any], cls: type[Any]) -> None:
    stock = make_agent(
        parent, oracle_env(), replay_buffer_class=ReplayBuffer, policy_kwargs={"net_arch": [16], "n_critics": 2}
    )
    stock.learn(40)
    agent = expanding(cls, 0)
    agent.learn(40, callback=exact_callback(oracle_env()))
    assert agent.dynamics is not None
    assert th.equal(weights(agent), weights(stock))
    further = expanding(cls, 2)
    further.learn(40, callback=exact_callback(oracle_env()))
    assert not th.equal(weights(further), weights(stock))


def start_rows(count: int) -> th.Tensor:
    return th.rand(count, 3, generator=th.Generator().manual_seed(1)) * 1.6 - 0.8


def real_returns(agent: TD3, starts: th.Tensor, horizon: int) -> tuple[list[float], int]:
    """What the target actor earns in the environment, and how many episodes fail on the way."""
    env, found, failures = OracleEnv(), [], 0
    for start in starts:
        env.set_obs(start.numpy())
        obs, total, scale = start, 0.0, 1.0
        for _ in range(horizon):
            action = agent.actor_target(obs[None])[0].detach().numpy()
            following, reward, failed, _, _ = env.step(agent.policy.unscale_action(action))
            total, scale = total + scale * reward, scale * agent.gamma
            obs = th.as_tensor(following)
            if failed:
                failures += 1
                break
        else:
            total += scale * 5.0  # what the critics below say of every state
        found.append(total)
    return found, failures


@pytest.mark.parametrize("cls", [MVETD3, STEVETD3])
def test_with_the_exact_model_the_target_is_the_true_discounted_sum(cls: type[Any]) -> None:
    agent = expanding(cls, 6, target_policy_noise=0.0, gamma=0.9)
    agent.use_model(oracle_model(OracleEnv()))
    starts = start_rows(30)
    expected, failures = real_returns(agent, starts, 6)
    assert 3 < failures < 27  # both endings are there
    with th.no_grad():
        found = agent._expanded(
            starts, SmoothedTarget(agent), lambda obs: th.full((2, len(obs)), 5.0), 0.0, ended=th.zeros(30)
        )
    if cls is MVETD3:
        assert found.value.tolist() == pytest.approx(expected, rel=1e-5)
        assert len(found.rows.target) == round(30 * float(found.steps))
    else:  # nobody disagrees, so all seven candidates count alike
        candidates = [real_returns(agent, starts, steps)[0] for steps in range(7)]
        assert found.value.tolist() == pytest.approx(np.mean(candidates, 0).tolist(), rel=1e-5)


def test_a_critic_learns_from_real_and_imagined_rows_alike() -> None:
    agent = expanding(MVETD3, 3, target_policy_noise=0.0)
    agent.learning_rate = 0.0
    agent._setup_lr_schedule()
    agent.learn(30, callback=exact_callback(oracle_env()))
    starts = start_rows(20)
    batch = ReplayBufferSamples(starts, th.zeros(20, 2), starts, th.zeros(20, 1), th.ones(20, 1))
    value = 1 + agent.gamma * 5.0  # of every state behind a real step
    with th.no_grad():
        expanded = agent._expanded(starts, SmoothedTarget(agent), agent._target_values, 0.0, ended=th.zeros(20))
        expanded = expanded._replace(value=th.full((20,), 5.0))
        values = agent.critic(batch.observations, batch.actions) + agent.critic(expanded.rows.obs, expanded.rows.action)
    wanted = 0.0
    for real, further in zip(values[:2], values[2:], strict=True):
        errors = th.cat([real[:, 0] - value, further[:, 0] - expanded.rows.target])
        wanted += float((errors**2).mean())
    assert len(expanded.rows.target) > 20
    assert agent._critic_step(batch, expanded, 1.0) == pytest.approx(wanted, rel=1e-5)


def test_every_step_off_regresses_on_real_rows_only() -> None:
    agent = make_agent(MVESAC, oracle_env(), config=ExpansionConfig(horizon=2, every_step=False))
    agent.use_model(oracle_model(oracle_env()))
    with th.no_grad():
        found = agent._expanded(
            start_rows(5),
            SmoothedTarget(expanding(MVETD3, 2)),
            lambda obs: th.ones(2, len(obs)),
            0.0,
            ended=th.zeros(5),
        )
    assert not len(found.rows.target)
    assert float(found.steps) > 0


def test_nothing_is_imagined_after_a_termination() -> None:
    """The critic learns nothing from steps that begin in a terminal observation."""
    agent = expanding(MVETD3, 3, target_policy_noise=0.0)
    agent.use_model(oracle_model(OracleEnv()))
    starts, ended = start_rows(12), th.arange(12) % 3 == 0

    def expanded(rows: th.Tensor, flags: th.Tensor) -> Any:
        with th.no_grad():
            return agent._expanded(rows, SmoothedTarget(agent), agent._target_values, 0.0, ended=flags)

    found, alone = expanded(starts, ended.float()), expanded(starts[~ended], th.zeros(8))
    assert len(alone.rows.target) > 8
    for column, wanted in zip(found.rows, alone.rows, strict=True):
        assert th.allclose(column, wanted)
    assert th.allclose(found.value[~ended], alone.value)
    assert float(found.refused) == 0
    assert float(found.steps) == pytest.approx(float(alone.steps))


@pytest.mark.parametrize("cls", [MVESAC, STEVESAC, MVEDDPG])
def test_a_model_that_breaks_leaves_the_parents_targets(cls: type[Any]) -> None:
    def broken(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        return obs / 0, action[:, 0], th.zeros(len(obs), dtype=th.bool)

    env = oracle_env()
    model = FunctionModel(env.observation_space, env.action_space, broken)
    agent = expanding(cls, 3)
    agent.learn(30, callback=DynaCallback(model, SMALL))
    assert agent.logger.name_to_value["train/imagined_refused"] == 1
    assert agent.logger.name_to_value["train/imagined_steps"] == 0
    for value in agent.policy.state_dict().values():
        assert value.isfinite().all()


def test_steve_follows_each_member_to_the_end_of_its_trajectory() -> None:
    env = oracle_env()
    model = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=3, num_elites=3, hidden=(8,), device="cpu"
    )
    agent = expanding(STEVESAC, 2)
    agent.use_model(model)
    assert isinstance(agent.dynamics, EnsembleDynamics)
    assert (agent.dynamics.propagation, model.propagation) == ("tsinf", "ts1")
    model.elites.copy_(th.tensor([2, 1, 0]))
    assert agent.dynamics.elites.tolist() == [2, 1, 0]  # a fit of the model is seen at once
    mve = expanding(MVESAC, 2)
    mve.use_model(model)
    assert mve.dynamics is model


@pytest.mark.parametrize("cls", [MVESAC, STEVETD3, STEVEDDPG])
def test_saved_loaded_and_continued(cls: type[Any], tmp_path: Path) -> None:
    agent = expanding(cls, 2)
    agent.learn(40, callback=small_callback(oracle_env()))
    agent.save(tmp_path / "agent.zip")
    loaded = cls.load(tmp_path / "agent.zip", env=oracle_env(), device="cpu")
    assert loaded.config == agent.config
    assert loaded.dynamics is None
    assert th.equal(weights(loaded), weights(agent))
    obs = np.zeros((4, 3), np.float32)
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])
    agent.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    loaded.learn(40, callback=small_callback(oracle_env()), reset_num_timesteps=False)
    assert loaded.num_timesteps == 80
    assert loaded.dynamics is not None
    assert not th.equal(weights(loaded), weights(agent))


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learn\(..., callback=DynaCallback\(\)\)"):
        expanding(MVESAC, 2).learn(40)
    normalized: Any = VecNormalize(DummyVecEnv([oracle_env]))
    agent = make_agent(MVESAC, normalized)
    with pytest.raises(ValueError, match="leave VecNormalize out"):
        agent.learn(40, callback=small_callback(oracle_env()))
    with pytest.raises(ValueError, match=r"policy_kwargs=dict\(n_critics=2\)"):
        make_agent(STEVETD3, oracle_env(), policy_kwargs={"net_arch": [16], "n_critics": 1})
    with pytest.raises(TypeError, match=r"ExpansionConfig\(horizon=...\), got int"):
        make_agent(MVESAC, oracle_env(), config=3)
    with pytest.raises(ValueError, match="horizon must be"):
        ExpansionConfig(horizon=-1)
    model = EnsembleDynamics(oracle_env().observation_space, oracle_env().action_space, hidden=(8,))
    with pytest.raises(ValueError, match="propagation must be one of"):
        model.with_propagation("ts2")  # type: ignore[arg-type]
