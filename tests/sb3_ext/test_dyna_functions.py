"""Known rewards and terminations are held against the environment before they are relied on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from sb3_ext import DynaCallback, ImaginationConfig, learn_in_imagination
from tests.oracle import oracle_reward, oracle_termination
from tests.sb3_ext.dyna_agents import SMALL, make_agent, oracle_env


def callback(env: Any, reward_fn: Any = None, termination_fn: Any = None) -> DynaCallback:
    model = EnsembleDynamics(
        env.observation_space,
        env.action_space,
        reward_fn=reward_fn,
        termination_fn=termination_fn,
        hidden=(8,),
        device="cpu",
    )
    return DynaCallback(model, SMALL, trainer=Trainer(model, FitConfig(max_gradient_steps=2)))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_functions_of_the_wrong_kind_are_refused_before_the_first_step(n_envs: int, normalize: bool) -> None:
    env: Any = DummyVecEnv([oracle_env] * n_envs)
    env = VecNormalize(env) if normalize else env
    agent = make_agent(SAC, env)
    with pytest.raises(TypeError, match="reward_fn must return a torch tensor.*ndarray"):
        agent.learn(60, callback=DynaCallback(reward_fn=lambda o, a, n: np.asarray(n)[:, 0]))
    with pytest.raises(TypeError, match="termination_fn must return a torch tensor.*got bool"):
        agent.learn(60, callback=DynaCallback(termination_fn=lambda o, a, n: False))
    with pytest.raises(ValueError, match=r"reward_fn must return shape \(B,\)"):
        agent.learn(60, callback=callback(oracle_env(), lambda o, a, n: n[:, :1]))  # of a model of one's own, too
    assert agent.replay_buffer.num_real == 0


@pytest.mark.parametrize("normalize", [False, True])
def test_right_functions_are_not_warned_of(normalize: bool) -> None:
    env: Any = DummyVecEnv([oracle_env])
    agent = make_agent(SAC, VecNormalize(env) if normalize else env, gradient_steps=0)
    agent.learn(40, callback=callback(oracle_env(), oracle_reward, oracle_termination))
    assert agent.logger.name_to_value["model/known_reward_error"] < 1e-5


def test_a_reward_in_other_units_is_told_once_before_the_first_round() -> None:
    agent = make_agent(SAC, oracle_env(), gradient_steps=0)
    with pytest.warns(UserWarning, match="The known reward is not that of the environment: over 20 real") as told:
        agent.learn(60, callback=callback(oracle_env(), lambda o, a, n: oracle_reward(o, a, n) / 10))
    assert sum("known reward" in str(warning.message) for warning in told) == 1


def test_a_termination_that_misses_ends_is_told() -> None:
    agent = make_agent(SAC, oracle_env(), gradient_steps=0, learning_starts=200)
    with pytest.warns(UserWarning, match="The known termination is not that of the environment") as told:
        agent.learn(200, callback=callback(oracle_env(), None, lambda o, a, n: th.zeros(len(o), dtype=th.bool)))
    true = int(agent.replay_buffer.real_transitions().terminated.sum())
    assert true > 0
    assert any(f"of 200 real transitions its predictions miss {true} of {true} true" in str(w.message) for w in told)


def test_a_second_agent_is_compared_with_its_own_environment() -> None:
    dyna = callback(oracle_env(), lambda o, a, n: oracle_reward(o, a, n) + 1)
    for seed in (0, 1):
        with pytest.warns(UserWarning, match="they differ by 1 on average"):
            make_agent(SAC, oracle_env(), gradient_steps=0, seed=seed).learn(25, callback=dyna)


def test_discrete_actions_reach_the_functions_as_numbers() -> None:
    seen: list[Any] = []

    def reward(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        seen.append(action)
        return next_obs[:, 0]

    agent = make_agent(DQN, oracle_env(True), gradient_steps=0)
    with pytest.warns(UserWarning, match="The known reward is not that of the environment"):
        agent.learn(25, callback=callback(oracle_env(True), reward))
    assert {action.dtype for action in seen} == {th.int64}
    assert set(th.cat(seen).tolist()) == {0, 1, 2}


def test_learning_in_imagination_asks_the_same() -> None:
    config = ImaginationConfig(initial_steps=40, cycle_steps=10, imagined_steps=8, num_envs=2, horizon=4)

    def learn(**functions: Any) -> None:
        env = oracle_env()
        model = EnsembleDynamics(env.observation_space, env.action_space, **functions, hidden=(8,), device="cpu")
        trainer = Trainer(model, FitConfig(max_gradient_steps=2))
        agent = lambda env: PPO("MlpPolicy", env, n_steps=4, batch_size=8, device="cpu")  # noqa: E731
        learn_in_imagination(agent, env, 40, config=config, dynamics=model, trainer=trainer)

    with pytest.raises(TypeError, match="got float"):
        learn(reward_fn=lambda o, a, n: 1.0)
    with pytest.warns(UserWarning, match="over 40 real transitions"):
        learn(reward_fn=lambda o, a, n: n[:, 0] - 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(reward_fn=oracle_reward, termination_fn=oracle_termination)
    with pytest.raises(TypeError, match="config must be an ImaginationConfig"):
        learn_in_imagination(PPO, oracle_env(), 40, config={"horizon": 4})  # type: ignore[arg-type]
