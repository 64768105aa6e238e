"""Critics as terminal values, against their formulas in numpy."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from controllers import CEM, MPCPolicy, PlanningProblem
from sb3_ext import AgentValue
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model

OBS = np.array([[0.3, -0.2, 0.1], [-0.9, 0.4, 0.0], [0.05, 0.6, -1.5]], np.float32)


def small(**kwargs: Any) -> dict[str, Any]:
    """Arguments of a tiny agent; anew each time, since agents write into ``policy_kwargs``."""
    return {"policy_kwargs": {"net_arch": [6]}, "seed": 3, "device": "cpu", **kwargs}


def mlp(layers: nn.Module, x: np.ndarray) -> np.ndarray:
    """A stack of linear layers, ReLU or Tanh, computed in numpy."""
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().numpy().T.astype(np.float64) + layer.bias.detach().numpy()
        elif isinstance(layer, nn.ReLU):
            x = np.maximum(x, 0)
        elif isinstance(layer, nn.Tanh):
            x = np.tanh(x)
    return x


def squashed_mean(agent: Any, obs: np.ndarray) -> np.ndarray:
    return np.tanh(mlp(agent.actor.mu, mlp(agent.actor.latent_pi, obs)))


def twin(agent: Any, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    both = [mlp(net, np.concatenate([obs, action], 1))[:, 0] for net in agent.critic.q_networks]
    return np.min(both, 0)


def value(agent: BaseAlgorithm, obs: np.ndarray = OBS) -> np.ndarray:
    with th.no_grad():
        found = AgentValue(agent)(th.as_tensor(obs))
    assert found.shape == (len(obs),)
    return found.numpy()


def test_observations_of_another_task_are_refused() -> None:
    agent = PPO("MlpPolicy", OracleEnv(), **small())
    with pytest.raises(ValueError, match=r"observes \(3,\), and the plan ends in \(4,\)"):
        AgentValue(agent)(th.zeros(2, 4))


def test_sac_is_the_smaller_critic_at_the_mean_action() -> None:
    agent = SAC("MlpPolicy", OracleEnv(), **small(buffer_size=10))
    np.testing.assert_allclose(value(agent), twin(agent, OBS, squashed_mean(agent, OBS)), atol=1e-5)


@pytest.mark.parametrize(("cls", "critics"), [(TD3, 2), (DDPG, 1)])
def test_td3_and_ddpg(cls: type[TD3], critics: int) -> None:
    agent = cls("MlpPolicy", OracleEnv(), **small(buffer_size=10))
    assert len(agent.critic.q_networks) == critics
    np.testing.assert_allclose(value(agent), twin(agent, OBS, mlp(agent.actor.mu, OBS)), atol=1e-5)


def test_tqc_is_the_mean_of_all_quantiles() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    agent = contrib.TQC("MlpPolicy", OracleEnv(), **small(buffer_size=10))
    inputs = np.concatenate([OBS, squashed_mean(agent, OBS)], 1)
    quantiles = np.concatenate([mlp(net, inputs) for net in agent.critic.q_networks], 1)
    assert quantiles.shape == (3, 50)
    np.testing.assert_allclose(value(agent), quantiles.mean(1), atol=1e-5)


def test_crossq_uses_its_running_statistics_and_keeps_its_mode() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    agent = contrib.CrossQ("MlpPolicy", OracleEnv(), **small(buffer_size=10))
    agent.policy.set_training_mode(True)
    agent.actor.set_bn_training_mode(False)  # as in the middle of train()
    modes = [module.training for module in agent.policy.modules()]
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    whole = value(agent)
    one_by_one = np.concatenate([value(agent, OBS[i : i + 1]) for i in range(len(OBS))])
    np.testing.assert_allclose(whole, one_by_one, atol=1e-6)  # statistics of the batch would differ
    assert [module.training for module in agent.policy.modules()] == modes
    assert all(th.equal(before[name], tensor) for name, tensor in agent.policy.state_dict().items())


def test_dqn_is_the_largest_value() -> None:
    agent = DQN("MlpPolicy", DiscreteOracleEnv(), **small(buffer_size=10))
    np.testing.assert_allclose(value(agent), mlp(agent.q_net.q_net, OBS).max(1), atol=1e-5)


def test_qrdqn_is_the_largest_mean_quantile() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    agent = contrib.QRDQN("MlpPolicy", DiscreteOracleEnv(), **small(buffer_size=10))
    quantiles = mlp(agent.quantile_net.quantile_net, OBS).reshape(len(OBS), -1, 3)
    np.testing.assert_allclose(value(agent), quantiles.mean(1).max(1), atol=1e-5)


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_on_policy_agents_have_a_value_of_their_own(cls: type[PPO]) -> None:
    agent = cls("MlpPolicy", OracleEnv(), **small(n_steps=64))
    nets: Any = agent.policy
    expected = mlp(nets.value_net, mlp(nets.mlp_extractor.value_net, OBS))[:, 0]
    np.testing.assert_allclose(value(agent), expected, atol=1e-5)


@pytest.mark.parametrize("norm_obs", [True, False])
@pytest.mark.parametrize("norm_reward", [True, False])
def test_normalised_agents_get_what_they_know_and_give_raw_rewards(norm_obs: bool, norm_reward: bool) -> None:
    env = VecNormalize(DummyVecEnv([OracleEnv]), norm_obs=norm_obs, norm_reward=norm_reward, clip_obs=1.5)
    if norm_obs:
        env.obs_rms.mean, env.obs_rms.var = np.array([0.1, 0.0, -0.2]), np.array([0.04, 1.0, 0.25])
    env.ret_rms.var = np.array(9.0)
    agent = SAC("MlpPolicy", env, **small(buffer_size=10))
    shown = np.clip((OBS - [0.1, 0.0, -0.2]) / [0.2, 1.0, 0.5], -1.5, 1.5) if norm_obs else OBS
    assert not norm_obs or (np.abs(shown) == 1.5).any()
    expected = (3.0 if norm_reward else 1.0) * twin(agent, shown, squashed_mean(agent, shown))
    np.testing.assert_allclose(value(agent), expected, atol=1e-4)
    assert np.allclose(env.ret_rms.var, 9.0)


def test_it_draws_nothing_and_is_differentiable() -> None:
    agent = SAC("MlpPolicy", OracleEnv(), use_sde=True, **small(buffer_size=10))
    streams = th.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    obs = th.as_tensor(OBS, dtype=th.float64).requires_grad_()
    first = AgentValue(agent)(obs)
    first.sum().backward()
    assert obs.grad is not None
    assert (obs.grad != 0).any()
    assert th.equal(first, AgentValue(agent)(obs))
    assert th.equal(streams[0], th.get_rng_state())
    assert np.array_equal(streams[1], np.random.get_state()[1])  # noqa: NPY002


def test_it_is_the_end_of_a_plan() -> None:
    env = OracleEnv()
    agent = SAC("MlpPolicy", env, gamma=0.9, **small(buffer_size=10))
    worth, model = AgentValue(agent), oracle_model(env)
    assert worth.discount == 0.9
    obs, action = th.tensor([[0.1, 0.0, 0.2]]), th.zeros(1, 1, 1, 2)
    problem = PlanningProblem(model, obs, 1, discount=0.9, terminal_value=worth)
    generator = th.Generator()
    _, prediction = model.step(model.reset(obs, generator=generator), action[0, 0], generator=generator)
    with th.no_grad():
        expected = prediction.reward + 0.9 * worth(prediction.next_obs)
        assert problem.score(action).item() == pytest.approx(expected.item(), abs=1e-6)
    policy = MPCPolicy(model, CEM(population=10, iterations=2), horizon=2, terminal_value=worth)
    assert env.action_space.contains(policy.predict(env.reset(seed=0)[0])[0])


def test_agents_without_a_readable_critic_are_refused() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(TypeError, match="ARS has no critic"):
        AgentValue(contrib.ARS("LinearPolicy", env))
    with pytest.raises(TypeError, match="recurrent"):
        AgentValue(contrib.RecurrentPPO("MlpLstmPolicy", env, n_steps=8, batch_size=8))


@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_the_critic_of_an_sbx_agent(name: str) -> None:
    sbx = pytest.importorskip("sbx")
    agent = getattr(sbx, name)("MlpPolicy", OracleEnv(), buffer_size=10, policy_kwargs={"net_arch": [6]}, seed=3)
    action, _ = agent.predict(OBS, deterministic=True)
    scaled = agent.policy.scale_action(action)
    values = []
    for critic in range(2):
        # Flax keeps the layers in order, one leading axis for the critics.
        layers = next(iter(agent.policy.qf_state.params["params"].values()))
        x = np.concatenate([OBS, scaled], 1).astype(np.float64)
        leaves = _dense_layers(layers)
        for depth, layer in enumerate(leaves):
            x = x @ np.asarray(layer["kernel"])[critic] + np.asarray(layer["bias"])[critic]
            x = np.maximum(x, 0) if depth < len(leaves) - 1 else x
        values.append(x[:, 0])
    found = AgentValue(agent)(th.as_tensor(OBS))
    np.testing.assert_allclose(found.numpy(), np.minimum(*values), rtol=1e-4, atol=1e-5)


def _dense_layers(tree: Any) -> list[Any]:
    """The affine layers below ``tree``, in order."""
    if "kernel" in tree:
        return [tree]
    return [layer for name in sorted(tree) for layer in _dense_layers(tree[name])]


def test_other_sbx_agents_are_refused_with_a_sentence() -> None:
    sbx = pytest.importorskip("sbx")
    with pytest.raises(TypeError, match="TQC of SBX cannot be read"):
        AgentValue(sbx.TQC("MlpPolicy", OracleEnv(), buffer_size=10))
