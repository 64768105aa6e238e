"""The double-horizon agent: its updates, its file, and what it refuses."""

from __future__ import annotations

import math
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from mbrl_wrappers import FunctionModel, LocalLinearModel, branched_rollout
from mbrl_wrappers.seeding import global_stream_states
from sb3_ext import ActorPolicy, DynaCallback, DynaConfig
from sb3_ext.agents import DoubleHorizon, DoubleHorizonConfig
from sb3_ext.agents.double_horizon import visited
from sb3_ext.model_user import ModelUser
from tests.oracle import OracleEnv, oracle_model, oracle_step, oracle_termination
from tests.sb3_ext.dyna_agents import SMALL, oracle_env, small_callback, weights

CONFIG = DoubleHorizonConfig(horizon=3, distribution_horizon=4, distribution_starts=16, distribution_freq=5)
NOTHING = DynaConfig(min_real_rows=20, model_train_freq=20)


def small_agent(env: Any = None, **kwargs: Any) -> DoubleHorizon:
    defaults: dict[str, Any] = {
        "config": CONFIG,
        "learning_starts": 20,
        "batch_size": 32,
        "policy_kwargs": {"net_arch": [16]},
        "gradient_steps": 1,
        "buffer_size": 1000,
        "seed": 0,
        "device": "cpu",
    }
    return DoubleHorizon("MlpPolicy", oracle_env() if env is None else env, **(defaults | kwargs))


def function_model(step: Any) -> FunctionModel:
    env = OracleEnv()
    return FunctionModel(env.observation_space, env.action_space, step)


def logged(agent: DoubleHorizon) -> dict[str, Any]:
    return agent.logger.name_to_value


# --- with a model -------------------------------------------------------------------------------------------------


def test_it_learns_inside_the_fitted_model_and_no_imagined_row_enters_its_buffer() -> None:
    agent, env = small_agent(), oracle_env()
    callback = small_callback(env)
    before = weights(agent)
    agent.learn(50, callback=callback)
    assert isinstance(agent, ModelUser)
    assert agent.dynamics is callback.dynamics
    assert agent._n_updates == 30  # after learning_starts, one per step
    assert (weights(agent) != before).float().mean() > 0.9
    assert len(agent.replay_buffer.synthetic) == 0  # type: ignore[union-attr]
    values = logged(agent)
    assert values["train/real_updates"] == values["train/skipped_updates"] == 0
    assert values["model/fits"] == 2
    assert values["dyna/rollout_length"] == 4
    assert values["train/value_low"] < values["train/value_mean"] < values["train/value_high"]


def test_equal_seeds_give_equal_agents_and_a_callback_of_the_next_learn_goes_on() -> None:
    agents = []
    for lengths in ((50,), (50,), (30, 20)):
        agent = small_agent()
        callback = small_callback(oracle_env(), seed=1)
        for length in lengths:
            agent.learn(length, callback=callback, reset_num_timesteps=False)
        agents.append(agent)
        assert callback._fits == 2  # at 20 and 40 steps
    assert th.equal(weights(agents[0]), weights(agents[1]))
    assert agents[2]._n_updates == 30


def test_updates_in_the_model_draw_from_its_generator_alone() -> None:
    agent = small_agent()
    agent.learn(30, callback=small_callback(oracle_env()))
    before = global_stream_states()
    agent.train(3, 16)
    assert global_stream_states() == before


def test_a_given_model_needs_no_fit() -> None:
    agent, model = small_agent(), oracle_model(oracle_env())
    agent.learn(40, callback=DynaCallback(model, NOTHING))
    assert agent.dynamics is model
    assert agent._n_updates == 20


def test_the_rates_of_the_two_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def counted(model: Any, policy: Any, starts: Tensor, length: int, **kwargs: Any) -> Any:
        lengths.append(length)
        assert len(starts) == 16
        return branched_rollout(model, policy, starts, length, **kwargs)

    monkeypatch.setattr("sb3_ext.agents.double_horizon.branched_rollout", counted)
    horizons: list[int] = []
    original = DoubleHorizon._learn

    def seen(self: DoubleHorizon, for_critics: Any, for_actor: Any) -> Any:
        horizons.append(len(for_actor.unrolled.reward))
        return original(self, for_critics, for_actor)

    monkeypatch.setattr(DoubleHorizon, "_learn", seen)
    agent = small_agent()
    agent.learn(43, callback=DynaCallback(oracle_model(oracle_env()), NOTHING))
    assert lengths == [4] * 5  # before updates 0, 5, 10, 15 and 20
    assert horizons == [3] * 23


def test_the_ring_holds_what_an_episode_goes_on_from() -> None:
    model = oracle_model(oracle_env())
    starts = th.tensor([[0.95, 1.0, 0.0], [0.0, 0.0, 0.0]])  # the first leaves the limits in its first step
    agent = small_agent()
    rollout = branched_rollout(model, ActorPolicy(agent), starts, 3, generator=th.Generator().manual_seed(0))
    found = visited(rollout)
    assert len(found) == 1 + 4  # a start; a start and three successors
    assert found[:, 0].abs().max() <= 1
    assert any(th.equal(row, rollout.transitions.next_obs[-1]) for row in found)


def test_networks_standardise_by_the_real_rows() -> None:
    agent = small_agent()
    agent.learn(40, callback=DynaCallback(oracle_model(oracle_env()), NOTHING))
    agent.use_model(oracle_model(oracle_env()))
    rows = agent.replay_buffer.observations[:40, 0]  # type: ignore[union-attr]
    for network in (agent.actor, agent.critic, agent.critic_target):
        shown = network.extract_features(th.as_tensor(rows), network.features_extractor)  # type: ignore[arg-type]
        th.testing.assert_close(shown.mean(0), th.zeros(3), atol=1e-5, rtol=0)
        th.testing.assert_close(shown.std(0, correction=0), th.ones(3), atol=1e-4, rtol=0)


# --- critics --------------------------------------------------------------------------------------------------------


def test_critics_begin_in_the_middle_of_the_bounds_and_are_those_of_each_alone() -> None:
    agent = small_agent(policy_kwargs={"net_arch": [8, 8], "n_critics": 3})
    critic, obs, action = agent.critic, th.randn(5, 3), th.rand(5, 2)
    critic.bounds.follow(th.tensor([-1.0, 3.0]), discount=0.9, quantile=0, rate=1)
    th.testing.assert_close(critic.values(obs, action), th.full((3, 5), 10.0))
    assert agent.critic_target.bounds is critic.bounds
    with th.no_grad():
        for parameter in critic.parameters():
            parameter.add_(th.randn(parameter.shape, generator=th.Generator().manual_seed(parameter.numel())))
    found = critic(obs, action)
    assert [one.shape for one in found] == [(5, 1)] * 3
    for member, one in enumerate(found):
        x = th.cat([obs, action], 1)  # the statistics are those of a standard normal before the first fit
        *hidden, last = critic.net.linear_layers()
        for layer in hidden:
            x = th.nn.functional.silu(x @ layer.weight[member].T + layer.bias[member, :, 0])
        slow = x @ last.weight[member].T + last.bias[member, :, 0]
        th.testing.assert_close(one, slow * 20 + 10, rtol=1e-4, atol=1e-4)


def test_a_target_takes_the_smallest_of_drawn_critics() -> None:
    agent = small_agent(policy_kwargs={"net_arch": [8], "n_critics": 4})
    agent._generator = th.Generator().manual_seed(0)
    drawn = [tuple(sorted(agent._target_members().tolist())) for _ in range(60)]
    assert set(drawn) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_model_that_predicts_no_numbers_is_replaced_by_real_rows() -> None:
    def lost(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, reward, ended = oracle_step(obs, action)
        return following * math.nan, reward, ended

    agent = small_agent()
    before = weights(agent)
    agent.learn(40, callback=DynaCallback(function_model(lost), NOTHING))
    values = logged(agent)
    assert (values["train/real_updates"], values["train/skipped_updates"]) == (20, 0)
    found = weights(agent)
    assert found.isfinite().all()
    assert (found != before).float().mean() > 0.9


def test_a_few_lost_rows_do_not_disturb_the_others() -> None:
    def partly_lost(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, reward, ended = oracle_step(obs, action)
        return th.where(obs[:, 1:2] > 0.4, math.inf, following), reward, ended

    agent = small_agent()
    agent.learn(40, callback=DynaCallback(function_model(partly_lost), NOTHING))
    assert logged(agent)["train/real_updates"] == 0
    assert 0.5 < logged(agent)["train/valid_fraction"] < 1
    assert weights(agent).isfinite().all()


def test_a_gradient_that_is_not_finite_is_not_applied() -> None:
    def steep(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, reward, ended = oracle_step(obs, action)
        return following, reward + (action[:, 0] * 0).sqrt(), ended  # zero, with an infinite slope

    agent = small_agent()
    agent.learn(21, callback=DynaCallback(oracle_model(oracle_env()), NOTHING))
    actor = [weight.clone() for weight in agent.actor.parameters()]
    critic = [weight.clone() for weight in agent.critic.parameters()]
    agent.use_model(function_model(steep))
    agent.train(2, 16)
    assert logged(agent)["train/skipped_updates"] == 2
    assert all(map(th.equal, actor, agent.actor.parameters()))
    assert not all(map(th.equal, critic, agent.critic.parameters()))


@pytest.mark.parametrize("how", ["numpy", "detached", "constant"])
def test_a_model_without_gradients_is_refused(how: str) -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if how == "numpy":
            action = th.as_tensor(action.numpy())
        following, reward, ended = oracle_step(obs, action.detach() if how == "detached" else action)
        return (obs if how == "constant" else following), reward, ended

    with pytest.raises(TypeError, match=r"No gradient flows .*estimator='likelihood_ratio'.*SAC with DynaCallback"):
        small_agent().learn(30, callback=DynaCallback(function_model(step), NOTHING))


def test_a_reward_that_lost_its_derivative_is_told() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, reward, ended = oracle_step(obs, action)
        return following, reward.detach(), ended

    with pytest.warns(UserWarning, match="FunctionModel changes from row to row and has no derivative"):
        small_agent().learn(25, callback=DynaCallback(function_model(step), NOTHING))

    def alive(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        following, _, ended = oracle_step(obs, action)
        return following, 1.0 - ended.float(), ended

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_agent().check_model(function_model(alive), th.tensor([[0.9, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_a_model_that_is_not_fitted_yet_is_waited_for() -> None:
    env = oracle_env()
    model = LocalLinearModel(env.observation_space, env.action_space, termination_fn=oracle_termination, device="cpu")
    agent = small_agent(env)
    agent.learn(50, callback=DynaCallback(model, NOTHING))
    assert agent._n_updates == 30
    assert weights(agent).isfinite().all()


def test_targets_follow_at_their_interval() -> None:
    agent = small_agent(target_update_interval=3, tau=1.0)
    agent.learn(21, callback=DynaCallback(oracle_model(oracle_env()), NOTHING))
    for update in range(2, 7):
        before = [weight.clone() for weight in agent.critic_target.parameters()]
        agent.train(1, 16)
        changed = not all(map(th.equal, before, agent.critic_target.parameters()))
        assert changed == (update % 3 == 0)


def test_wrong_use_is_told() -> None:
    with pytest.raises(TypeError, match="no Box"):
        DoubleHorizon("MlpPolicy", gymnasium.make("CartPole-v1"))
    with pytest.raises(TypeError, match="DoubleHorizonConfig"):
        small_agent(config={"horizon": 2})
    with pytest.raises(ValueError, match="horizon"):
        replace(CONFIG, horizon=0)
    with pytest.raises(ValueError, match="bound_quantile"):
        replace(CONFIG, bound_quantile=0.5)
    with pytest.raises(ValueError, match="gamma must be at least 0 and below 1, got 1.0"):
        small_agent(gamma=1.0)
    with pytest.raises(ValueError, match="target_critics=4 cannot be drawn from n_critics=3"):
        small_agent(config=replace(CONFIG, target_critics=4))
    with pytest.raises(ValueError, match="callback=DynaCallback"):
        small_agent().learn(30)
    normalized = VecNormalize(DummyVecEnv([oracle_env]))
    with pytest.raises(ValueError, match="VecNormalize"):
        small_agent(normalized).learn(30, callback=DynaCallback(oracle_model(oracle_env()), NOTHING))


def test_there_are_no_updates_before_the_first_fit() -> None:
    agent = small_agent(learning_starts=10)
    agent.learn(30, callback=small_callback(oracle_env(), replace(SMALL, min_real_rows=25)))
    assert agent._n_updates == 6  # the fit comes with the 25th row, before that step's update


# --- files ------------------------------------------------------------------------------------------------------------


def test_saved_loaded_and_continued(tmp_path: Path) -> None:
    agent = small_agent(config=replace(CONFIG, horizon=2), target_entropy=-1.5)
    agent.learn(40, callback=DynaCallback(oracle_model(oracle_env()), NOTHING))
    agent.save(tmp_path / "agent.zip")
    agent.save_replay_buffer(tmp_path / "buffer.pkl")
    with zipfile.ZipFile(tmp_path / "agent.zip") as file:
        data = file.read("data").decode()
    assert '"dynamics"' not in data
    assert '"_ring"' not in data

    loaded = DoubleHorizon.load(tmp_path / "agent.zip", env=oracle_env(), device="cpu")
    assert (loaded.config.horizon, loaded.target_entropy, loaded.dynamics) == (2, -1.5, None)
    assert th.equal(weights(loaded), weights(agent))
    assert float(loaded.critic.bounds.high) == float(agent.critic.bounds.high) != 0
    assert loaded.critic_target.bounds is loaded.critic.bounds
    obs = np.array([0.1, 0.2, -0.3], np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    loaded.learn(20, callback=DynaCallback(oracle_model(oracle_env()), NOTHING), reset_num_timesteps=False)
    assert loaded._n_updates == 40
    assert not th.equal(weights(loaded), weights(agent))


@pytest.mark.slow
def test_it_balances_a_pendulum() -> None:
    env = gymnasium.make("InvertedPendulum-v5")
    agent = DoubleHorizon("MlpPolicy", env, learning_starts=500, seed=101, device="cpu")
    agent.learn(1500, callback=DynaCallback())
    returns = []
    for seed in range(5):
        obs, total, done = env.reset(seed=seed)[0], 0.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(agent.predict(obs, deterministic=True)[0])
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    assert np.mean(returns) > 900
