"""What the callback must not change: the agent without imagined rows, and anyone's random streams."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import EnsembleDynamics
from sb3_ext import DynaCallback, DynaConfig
from tests.sb3_ext.dyna_agents import CONTINUOUS, DISCRETE, make_agent, oracle_env, small_callback, weights


@pytest.mark.parametrize("algorithm", CONTINUOUS)
def test_with_ratio_one_the_agent_ends_bit_equal_to_stock(algorithm: type[BaseAlgorithm]) -> None:
    stock = make_agent(algorithm, oracle_env(), replay_buffer_class=ReplayBuffer)
    stock.learn(80)
    mixed = make_agent(algorithm, oracle_env(), replay_buffer_kwargs={"real_ratio": 1.0})
    callback = small_callback(oracle_env())
    mixed.learn(80, callback=callback)
    assert callback.report is not None  # it fitted and rolled out all the same
    assert len(mixed.replay_buffer.synthetic) > 0
    assert th.equal(weights(stock), weights(mixed))


def test_with_nothing_synthetic_the_agent_ends_bit_equal_to_stock() -> None:
    stock = make_agent(SAC, oracle_env(), replay_buffer_class=ReplayBuffer)
    stock.learn(80)
    mixed = make_agent(SAC, oracle_env())
    with pytest.warns(UserWarning, match="never fitted in 80 steps"):
        mixed.learn(80, callback=small_callback(oracle_env(), DynaConfig(min_real_rows=1000)))
    assert th.equal(weights(stock), weights(mixed))


@pytest.mark.parametrize("algorithm", DISCRETE)
def test_value_agents_are_transparent_too(algorithm: type[BaseAlgorithm]) -> None:
    stock = make_agent(algorithm, oracle_env(True), replay_buffer_class=ReplayBuffer)
    stock.learn(80)
    mixed = make_agent(algorithm, oracle_env(True), replay_buffer_kwargs={"real_ratio": 1.0})
    mixed.learn(80, callback=small_callback(oracle_env(True)))
    assert th.equal(weights(stock), weights(mixed))


@pytest.mark.parametrize("normalize", [False, True])
def test_an_sbx_agent_is_transparent_too(normalize: bool) -> None:
    sbx = pytest.importorskip("sbx", reason="needs pip install 'mbrl-wrappers[sbx]'")

    def trained(callback: DynaCallback | None, **kwargs: Any) -> list[Any]:
        env: Any = DummyVecEnv([oracle_env])
        agent = make_agent(sbx.SAC, VecNormalize(env) if normalize else env, **kwargs)
        agent.learn(50, callback=callback)
        import jax

        return jax.tree.leaves((agent.policy.actor_state.params, agent.policy.qf_state.params))

    stock = trained(None, replay_buffer_class=ReplayBuffer)
    callback = small_callback(oracle_env())
    mixed = trained(callback, replay_buffer_kwargs={"real_ratio": 1.0})
    assert callback._fits == 2
    assert all((a == b).all() for a, b in zip(stock, mixed, strict=True))


def test_one_seed_gives_identical_weights() -> None:
    def run() -> tuple[th.Tensor, th.Tensor]:
        agent = make_agent(SAC, oracle_env())
        callback = small_callback(oracle_env(), seed=3)
        agent.learn(80, callback=callback)
        assert isinstance(callback.dynamics, EnsembleDynamics)
        return weights(agent), th.nn.utils.parameters_to_vector(callback.dynamics.parameters()).detach()

    first = run()
    np.random.rand(13)  # noqa: NPY002
    th.rand(17)
    second = run()
    assert th.equal(first[0], second[0])
    assert th.equal(first[1], second[1])


def test_the_model_ends_the_same_whatever_draws_from_the_global_streams_in_between() -> None:
    class Disturbance(BaseCallback):
        def _on_rollout_end(self) -> None:
            np.random.rand(self.num_timesteps)  # noqa: NPY002
            th.rand(self.num_timesteps)

        def _on_step(self) -> bool:
            return True

    def run(*callbacks: BaseCallback) -> th.Tensor:
        agent = make_agent(SAC, oracle_env(), learning_starts=81)  # random actions, from the action space's own stream
        callback = small_callback(oracle_env(), seed=3)
        with pytest.warns(UserWarning, match="never fitted"):
            agent.learn(80, callback=[callback, *callbacks])
        callback._fit(agent.replay_buffer)
        assert isinstance(callback.dynamics, EnsembleDynamics)
        return th.nn.utils.parameters_to_vector(callback.dynamics.parameters()).detach()

    assert th.equal(run(), run(Disturbance()))


def test_model_draws_do_not_depend_on_the_global_streams() -> None:
    def synthetic(global_seed: int) -> Any:
        agent = make_agent(SAC, oracle_env())
        callback = small_callback(oracle_env())
        agent.learn(19)  # random actions only, drawn from the seeded action space
        np.random.seed(global_seed)  # noqa: NPY002
        th.manual_seed(global_seed)
        callback.init_callback(agent)
        callback._roll_out(agent.replay_buffer)
        return agent.replay_buffer.synthetic.take(np.arange(30))

    first, second = synthetic(1), synthetic(2)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
