"""Wrong use of learn_in_imagination is told what to do."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from mbrl_wrappers.envs import ModelEnv
from mbrl_wrappers.training import Trainer
from sb3_ext.imagination import ImaginationConfig, learn_in_imagination
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model
from tests.sb3_ext.imagination_runs import SMALL, CountingTrainer, real_env, small_ensemble, small_ppo


def test_pieces_that_do_not_belong_together_are_refused() -> None:
    env = real_env()
    with pytest.raises(ValueError, match="action space .* build it for this task"):
        learn_in_imagination(small_ppo, env, 40, config=SMALL, dynamics=oracle_model(DiscreteOracleEnv()))
    with pytest.raises(ValueError, match="observation space .* build it for this task"):
        learn_in_imagination(small_ppo, env, 40, config=SMALL, dynamics=oracle_model(OracleEnv(np.float64)))
    with pytest.raises(ValueError, match="trainer fits another model"):
        learn_in_imagination(
            small_ppo, env, 40, config=SMALL, dynamics=small_ensemble(env), trainer=Trainer(small_ensemble(env))
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"agent": lambda: A2C("MlpPolicy", real_env())}, TypeError, r"the class, A2C, or a function .* A2C\.load"),
        ({"agent": lambda: SAC("MlpPolicy", real_env())}, TypeError, "SAC is not an on-policy agent"),
        ({"agent": lambda: "PPO"}, TypeError, "agent class such as PPO.*got 'PPO'"),
        ({"env": lambda: DummyVecEnv([real_env])}, TypeError, "env is a DummyVecEnv, which is many environments"),
        ({"env": lambda: gymnasium.vector.SyncVectorEnv([real_env])}, TypeError, "env is a SyncVectorEnv"),
        ({"env": lambda: real_env}, TypeError, "env must be a Gymnasium environment or its id, got function"),
        ({"eval_env": lambda: DummyVecEnv([real_env])}, TypeError, "eval_env is a DummyVecEnv"),
        ({"eval_env": lambda: real_env(DiscreteOracleEnv)}, ValueError, "spaces of eval_env"),
        ({"total_timesteps": lambda: 1e4}, ValueError, "total_timesteps must be an integer"),
    ],
)
def test_wrong_pieces_get_a_sentence(changes, error, message) -> None:
    arguments = {"agent": lambda: small_ppo, "env": real_env, "total_timesteps": lambda: 40} | changes
    with pytest.raises(error, match=message):
        learn_in_imagination(
            **{name: make() for name, make in arguments.items()}, config=SMALL, dynamics=oracle_model(OracleEnv())
        )


def test_evaluating_in_the_collecting_environment_is_refused() -> None:
    env = real_env()
    with pytest.raises(ValueError, match="eval_env is env itself"):
        learn_in_imagination(
            small_ppo, env, 40, config=SMALL, dynamics=oracle_model(env), eval_env=Monitor(env.unwrapped)
        )


@pytest.mark.parametrize("name", ["learning_rate", "clip_range"])
def test_changing_schedules_are_refused(name) -> None:
    env = real_env()
    with pytest.raises(ValueError, match="use a constant"):
        learn_in_imagination(
            lambda e: PPO("MlpPolicy", e, n_steps=4, batch_size=8, **{name: lambda progress: 0.1 * progress}),
            env,
            50,
            config=SMALL,
            dynamics=oracle_model(env),
        )


def test_wrong_use_is_refused() -> None:
    env = real_env()
    model = oracle_model(env)
    with pytest.raises(TypeError, match="DynaCallback"):
        learn_in_imagination(SAC, env, 50, config=SMALL, dynamics=model)
    with pytest.raises(TypeError, match="must return a PPO"):
        learn_in_imagination(lambda e: SAC("MlpPolicy", e), env, 50, config=SMALL, dynamics=model)
    with pytest.raises(ValueError, match="environment it is handed"):
        learn_in_imagination(
            lambda e: PPO("MlpPolicy", real_env(), n_steps=4, batch_size=4), env, 50, config=SMALL, dynamics=model
        )
    with pytest.raises(ValueError, match="total_timesteps"):
        learn_in_imagination(PPO, env, 0, config=SMALL, dynamics=model)
    with pytest.raises(ValueError, match="without its model"):
        learn_in_imagination(PPO, env, 50, config=SMALL, trainer=CountingTrainer())
    with pytest.raises(ValueError, match="scores in there are imagined"):
        learn_in_imagination(
            PPO, env, 50, config=SMALL, dynamics=model, eval_env=ModelEnv(model, np.zeros((1, 3)), horizon=5)
        )
    with pytest.raises(TypeError, match="BaseCallback"):
        learn_in_imagination(PPO, env, 50, config=SMALL, dynamics=model, callback=lambda *_: True)
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1"):
        ImaginationConfig(num_envs=0)


def test_recurrent_agents_are_refused() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = real_env()
    with pytest.raises(TypeError, match="Recurrent"):
        learn_in_imagination(
            lambda e: contrib.RecurrentPPO("MlpLstmPolicy", e, n_steps=4, batch_size=8),
            env,
            50,
            config=SMALL,
            dynamics=oracle_model(env),
        )


class TimesHundred(VecEnvWrapper):
    """Shows other observations than the environment inside."""

    def reset(self):
        return 100 * self.venv.reset()

    def step_wait(self):
        obs, *rest = self.venv.step_wait()
        return 100 * obs, *rest


class Renamed(VecMonitor):
    """Could override anything."""


@pytest.mark.parametrize(
    "wrap",
    [
        TimesHundred,
        Renamed,
        lambda env: VecFrameStack(env, 2),
        lambda env: VecNormalize(TimesHundred(env)),
        lambda env: TimesHundred(VecNormalize(env)),
    ],
)
def test_wrappers_that_the_real_environment_lacks_are_refused(wrap) -> None:
    env = real_env()
    with pytest.raises(ValueError, match="around the model, and only VecMonitor and VecNormalize"):
        learn_in_imagination(lambda e: small_ppo(wrap(e)), env, 40, config=SMALL, dynamics=oracle_model(env))


def test_normalising_twice_is_refused() -> None:
    env = real_env()
    with pytest.raises(ValueError, match="two VecNormalize"):
        learn_in_imagination(
            lambda e: small_ppo(VecNormalize(VecNormalize(e))), env, 40, config=SMALL, dynamics=oracle_model(env)
        )


@pytest.mark.parametrize("start", [1, -2])
def test_discrete_actions_that_do_not_count_from_zero_are_refused(start) -> None:
    env = real_env(lambda: DiscreteOracleEnv(start=start))
    with pytest.raises(ValueError, match=f"begin at {start}, .*TransformAction"):
        learn_in_imagination(small_ppo, env, 40, config=SMALL, dynamics=oracle_model(env))
    shifted = gymnasium.wrappers.TransformAction(env, lambda action: action + start, gymnasium.spaces.Discrete(3))
    learn_in_imagination(small_ppo, shifted, 40, config=SMALL, dynamics=oracle_model(shifted))
