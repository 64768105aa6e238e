"""NAF: the algebra of its network, the linear-quadratic problem that it can hold exactly, and SB3's interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import AgentValue, AveragedActor
from sb3_ext.agents.naf import NAF
from sb3_ext.agents.naf_explorer import ExploringController
from sb3_ext.agents.naf_policy import NAFNetwork
from tests.oracle import HIGH, LOW
from tests.sb3_ext.dyna_agents import make_agent, oracle_env, small_callback, weights
from tests.sb3_ext.lqg import FORCE, LinearEnv, Quadratics, linear_step, regulator

pytestmark = pytest.mark.filterwarnings("ignore:The learned termination")


def small_naf(**kwargs: Any) -> NAF:
    agent: NAF = make_agent(NAF, oracle_env(), **kwargs)
    return agent


def network() -> NAFNetwork:
    net = small_naf().q_net
    with th.no_grad():
        for parameter in net.parameters():
            parameter.copy_(th.randn(parameter.shape, generator=th.Generator().manual_seed(parameter.numel())))
    return net


def test_the_value_is_the_quadratic_of_the_paper() -> None:
    generator = th.Generator().manual_seed(0)
    net, obs = network(), th.rand(6, 3, generator=generator)
    action = th.rand(6, 2, generator=generator) * 2 - 1
    value, mean, factor = (part.detach() for part in net.parts(obs))
    for row in range(6):
        matrix = factor[row] @ factor[row].T
        away = action[row] - mean[row]
        expected = value[row] - 0.5 * away @ matrix @ away
        assert net.action_value(obs, action)[row].item() == pytest.approx(float(expected), rel=1e-4)
        assert (th.linalg.eigvalsh(matrix) > 0).all()
        assert float(factor[row, 0, 1]) == 0
    assert th.allclose(net.action_value(obs, mean), value)  # the maximum, at the mean
    assert th.equal(net(obs)[:, 0], value)


def linear_agent(discount: float) -> NAF:
    """An agent whose network is exact for the linear problem, with 500 random transitions of it."""
    agent = NAF(
        "MlpPolicy",
        LinearEnv(),
        gamma=discount,
        tau=1.0,
        target_update_interval=100,
        max_grad_norm=1e6,
        buffer_size=500,
        policy_kwargs={"net_arch": [], "squash_mean": False, "features_extractor_class": Quadratics},
        seed=0,
        device="cpu",
    )
    agent.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    assert agent.replay_buffer is not None
    for _ in range(500):
        state, action = rng.normal(size=2), rng.uniform(-1, 1, 1)
        following, reward = linear_step(state, FORCE * action)
        agent.replay_buffer.add(state, following, action, np.array([reward]), np.array([0.0]), [{}])
    return agent


def gain(agent: NAF) -> np.ndarray[Any, Any]:
    obs = th.cat([th.zeros(1, 2), th.eye(2)])
    mean = agent.q_net.parts(obs).mean.detach().numpy()
    return -FORCE * (mean[1:] - mean[:1]).T


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_the_regulators_value_is_a_fixed_point(discount: float) -> None:
    agent = linear_agent(discount)
    cost, best = regulator(discount)
    curvature = 2 * FORCE**2 * (0.1 + discount * 0.1**2 * cost[1, 1])
    with th.no_grad():
        for parameter in agent.q_net.parameters():
            parameter.zero_()
        quadratic = [0, 0, -cost[0, 0], -cost[1, 1], -2 * cost[0, 1]]
        agent.q_net.value_head.weight.copy_(th.tensor([quadratic]))
        agent.q_net.mean_head.weight[0, :2] = th.tensor(-best[0] / FORCE)
        agent.q_net.factor_head.bias.fill_(float(np.log(curvature) / 2))
        agent.q_net_target.load_state_dict(agent.q_net.state_dict())
    agent.train(1, 500)
    assert agent.logger.name_to_value["train/loss"] < 1e-9


@pytest.mark.slow
def test_learning_finds_the_regulators_gain() -> None:
    agent = linear_agent(1.0)
    for rate, steps in ((3e-2, 2000), (1e-2, 2000), (3e-3, 2000)):
        agent.lr_schedule = lambda _, rate=rate: rate
        agent.train(steps, 500)
    cost, best = regulator(1.0)
    assert best.tolist() == [pytest.approx([2.8211, 2.2212], abs=1e-4)]
    assert gain(agent).tolist() == [pytest.approx(best[0].tolist(), rel=1e-3)]
    curvature = 2 * FORCE**2 * (0.1 + 0.01 * cost[1, 1])
    assert agent.q_net.parts(th.ones(1, 2)).factor.item() ** 2 == pytest.approx(curvature, rel=2e-3)


def test_noise_follows_the_curvature() -> None:
    agent = small_naf(covariance_noise=0.05, policy_kwargs={"net_arch": [4]})
    with th.no_grad():
        agent.q_net.mean_head.weight.zero_()
        agent.q_net.mean_head.bias.zero_()
        agent.q_net.factor_head.weight.zero_()
        agent.q_net.factor_head.bias.copy_(th.tensor([0.0, 1.0, -0.5]))  # row by row, logarithms on the diagonal
    factor = np.array([[1.0, 0.0], [1.0, np.exp(-0.5)]])
    th.manual_seed(0)
    drawn = agent.policy._predict(th.zeros(40_000, 3)).detach().numpy()
    assert np.abs(drawn).max() < 1  # nothing was clipped
    assert np.cov(drawn.T) == pytest.approx(0.05**2 * np.linalg.inv(factor @ factor.T), rel=0.05)
    assert not agent.policy._predict(th.zeros(5, 3), deterministic=True).any()


def test_it_learns_with_a_model_saves_loads_and_goes_on(tmp_path: Path) -> None:
    agent = small_naf(covariance_noise=0.1)
    callback = small_callback(oracle_env())
    agent.learn(60, callback=callback)
    assert len(agent.replay_buffer.synthetic) > 0
    assert agent.logger.name_to_value["train/loss"] > 0
    agent.save(tmp_path / "naf.zip")
    loaded = NAF.load(tmp_path / "naf.zip", env=oracle_env(), device="cpu")
    assert th.equal(weights(loaded), weights(agent))
    assert loaded.policy.covariance_noise == 0.1
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    action = agent.predict(obs, deterministic=True)[0]
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], action)
    assert (action >= LOW).all()
    assert (action <= HIGH).all()
    agent.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    loaded.learn(40, callback=small_callback(oracle_env()), reset_num_timesteps=False)
    assert not th.equal(weights(loaded), weights(agent))
    same = agent.policy.__class__.load  # a policy alone goes through a file too
    agent.policy.save(tmp_path / "policy.zip")
    assert np.array_equal(same(tmp_path / "policy.zip").predict(obs, deterministic=True)[0], action)


def test_one_seed_gives_identical_weights() -> None:
    first, second = (small_naf(covariance_noise=0.1).learn(40) for _ in range(2))
    assert th.equal(weights(first), weights(second))


def test_what_is_made_for_other_agents_takes_it_too() -> None:
    normalized: Any = VecNormalize(DummyVecEnv([oracle_env, oracle_env]))
    agent = make_agent(NAF, normalized, action_noise=NormalActionNoise(np.zeros(2), 0.1 * np.ones(2)))
    averaged = AveragedActor(10)
    agent.learn(80, callback=[averaged, small_callback(oracle_env())])
    obs = th.rand(4, 3)
    shown = th.as_tensor(normalized.normalize_obs(obs.numpy()))
    scale = float(np.sqrt(normalized.ret_rms.var + normalized.epsilon))
    assert th.allclose(AgentValue(agent)(obs), agent.q_net.parts(shown).value * scale, rtol=1e-5)


class Marked:
    """A controller whose actions nobody else takes, which counts the starts it is told."""

    def __init__(self) -> None:
        self.starts: list[bool] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        self.starts += episode_start.tolist()
        return np.tile(HIGH, (len(observation), 1)), (state or 0) + 1


def test_a_controller_acts_through_whole_episodes() -> None:
    agent = small_naf(learning_starts=0)
    controller = Marked()
    explorer = ExploringController(controller, 0.5, seed=1)
    agent.explore_with(explorer)
    agent.learn(200)
    rows = agent.replay_buffer.real_transitions()
    marked = (rows.action == 1).all(1)
    ends = rows.last.nonzero().flatten().tolist()
    episodes = [marked[start + 1 : end + 1] for start, end in zip([-1, *ends[:-1]], ends, strict=True)]
    assert all(bool(episode.all()) or not bool(episode.any()) for episode in episodes)
    controlled = sum(bool(episode.all()) for episode in episodes)
    assert 0.2 < controlled / len(episodes) < 0.8
    assert agent.logger.name_to_value["rollout/controlled_episodes"] == explorer.episodes
    assert sum(controller.starts) == controlled


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(AssertionError, match="only supports"):
        NAF("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match="covariance_noise"):
        small_naf(covariance_noise=-1.0)
    with pytest.raises(ValueError, match="probability"):
        ExploringController(Marked(), 1.5)
