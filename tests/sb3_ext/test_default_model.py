"""The model that is built when none is given."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from mbrl_wrappers import EnsembleDynamics
from sb3_ext import DynaCallback
from sb3_ext.default_model import known_functions
from tests.sb3_ext.dyna_agents import make_agent, oracle_env


def test_the_default_model_knows_the_tasks_termination_and_learns_the_reward(
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent = make_agent(SAC, gymnasium.make("Hopper-v5"))
    callback = DynaCallback(verbose=1)
    callback.init_callback(agent)
    assert isinstance(callback.dynamics, EnsembleDynamics)
    assert callback.dynamics.termination_fn is not None
    assert callback.dynamics.reward_fn is None
    assert "ForwardVelocityObservation" in capsys.readouterr().out


def test_an_unknown_task_falls_back_to_learning_both() -> None:
    agent = make_agent(SAC, oracle_env(dtype=np.float64))
    callback = DynaCallback()
    callback.init_callback(agent)
    assert isinstance(callback.dynamics, EnsembleDynamics)
    assert callback.dynamics.termination_fn is None
    assert callback.dynamics.reward_fn is None


@pytest.mark.parametrize("wrapped", [False, True])
def test_environments_in_other_processes_are_looked_into_by_their_spec(wrapped: bool) -> None:
    env = make_vec_env("Pendulum-v1", 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "spawn"})
    try:
        callback = DynaCallback()
        callback.init_callback(make_agent(SAC, VecNormalize(env) if wrapped else env))
        assert isinstance(callback.dynamics, EnsembleDynamics)
        assert callback.dynamics.reward_fn is not None
        assert callback.dynamics.termination_fn is not None
    finally:
        env.close()


def test_a_wrapper_of_the_vector_that_hides_the_task_means_learning_both() -> None:
    env = VecFrameStack(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]), 2)
    known = known_functions(env)
    assert (known.reward_fn, known.termination_fn) == (None, None)
    assert "VecFrameStack" in known.notes[0]
