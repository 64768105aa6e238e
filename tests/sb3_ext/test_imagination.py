from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_wrappers.envs import ModelEnv
from mbrl_wrappers.types import Transitions
from sb3_ext.imagination import ImaginationConfig, learn_in_imagination
from sb3_ext.vec_env import ModelVecEnv
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model

SMALL = ImaginationConfig(
    initial_steps=40, cycle_steps=30, imagined_steps=64, num_envs=8, horizon=4, eval_freq=50, eval_episodes=2
)
NET = {"net_arch": [8]}


def real_env(make=OracleEnv) -> TimeLimit:
    return TimeLimit(make(), 15)


def small_ppo(env) -> PPO:
    return PPO("MlpPolicy", env, n_steps=4, batch_size=8, n_epochs=1, policy_kwargs=NET, seed=0)


class Rows(KVWriter):
    """Keeps what was logged, row by row."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []

    def write(self, key_values, key_excluded, step=0) -> None:
        self.rows.append((step, dict(key_values)))

    def close(self) -> None:
        pass


class CountingTrainer:
    """Learns nothing and remembers what it was given."""

    class Report:
        holdout_r2 = (0.5, 0.7)
        holdout_error = (0.1, 0.3)
        epochs, gradient_steps = 2, 10

    def __init__(self) -> None:
        self.fits: list[Transitions] = []

    def fit(self, transitions: Transitions) -> Report:
        self.fits.append(transitions)
        return self.Report()


def test_one_run_in_numbers(monkeypatch) -> None:
    """100 real steps: 40 at random, then cycles of 30; 64 imagined steps after each."""
    rows, trainer, resets, env = Rows(), CountingTrainer(), [], real_env()
    original = ModelVecEnv.reset
    monkeypatch.setattr(ModelVecEnv, "reset", lambda self: resets.append(1) or original(self))

    def factory(model_env):
        agent = small_ppo(model_env)
        agent.set_logger(Logger(None, [rows]))
        return agent

    result = learn_in_imagination(
        factory, env, 100, config=SMALL, dynamics=oracle_model(env), trainer=trainer, eval_env=real_env(), seed=3
    )
    assert [record.real_steps for record in result.log] == [40, 70, 100]
    assert [record.imagined_steps for record in result.log] == [64, 128, 192]
    assert [fit.num_rows for fit in trainer.fits] == [40, 70, 100]
    assert len(resets) == 3  # every chunk starts from fresh stored observations
    assert (result.real_steps, result.agent.num_timesteps, len(result.store)) == (100, 100, 100)
    # Evaluated when 50 more steps were taken, and at the end.
    assert [record.eval_return is not None for record in result.log] == [False, True, True]
    assert [step for step, _ in rows.rows] == [40, 70, 100]
    for record, (_, logged) in zip(result.log, rows.rows, strict=True):
        assert logged["dyna/imagined_return"] == record.imagined_return
        assert logged["dyna/imagined_steps"] == record.imagined_steps
        assert logged["rollout/ep_rew_mean"] == record.real_return
        assert logged["model/r2_mean"] == pytest.approx(0.6)
        assert logged["time/total_timesteps"] == record.real_steps
        assert "train/loss" in logged
        assert ("eval/mean_reward" in logged) == (record.eval_return is not None)
        # Four imagined steps against fifteen real ones.
        assert logged["dyna/imagined_return"] <= 4 < logged["rollout/ep_rew_mean"] <= 15


def test_stored_rows_are_what_the_real_environment_did() -> None:
    env = real_env()
    result = learn_in_imagination(small_ppo, env, 100, config=SMALL, dynamics=oracle_model(env))
    rows = result.store.transitions()
    joined = (rows.next_obs[:-1] == rows.obs[1:]).all(1)
    assert th.equal(joined, ~rows.last[:-1])
    model = oracle_model(env)
    _, expected = model.step(model.reset(rows.obs, generator=th.Generator()), rows.action, generator=th.Generator())
    np.testing.assert_allclose(rows.next_obs, expected.next_obs, atol=1e-6)
    np.testing.assert_allclose(rows.reward, expected.reward, atol=1e-6)
    assert rows.action.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("make", [OracleEnv, lambda: OracleEnv(np.float64), DiscreteOracleEnv])
@pytest.mark.parametrize("agent", ["PPO", "A2C", "TRPO"])
def test_agent_classes_and_spaces(agent, make) -> None:
    agent_class = pytest.importorskip("sb3_contrib").TRPO if agent == "TRPO" else {"PPO": PPO, "A2C": A2C}[agent]
    env = real_env(make)
    result = learn_in_imagination(agent_class, env, 60, config=SMALL, dynamics=oracle_model(env))
    assert isinstance(result.agent, agent_class)
    assert isinstance(result.agent.get_env().unwrapped, ModelVecEnv)
    assert result.log[-1].imagined_steps == 128
    action, _ = result.agent.predict(env.reset()[0])
    assert env.action_space.contains(action if env.action_space.shape else int(action))


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> th.Tensor:
        env = real_env()
        result = learn_in_imagination(small_ppo, env, 80, config=SMALL, dynamics=oracle_model(env), seed=seed)
        return th.cat([parameter.detach().flatten() for parameter in result.agent.policy.parameters()])

    assert th.equal(weights(1), weights(1))
    assert not th.equal(weights(1), weights(2))


def test_callbacks_count_real_steps() -> None:
    seen = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            seen.append((self.n_calls, self.num_timesteps))
            return True

    env = real_env()
    evaluation = EvalCallback(Monitor(real_env()), eval_freq=25, n_eval_episodes=1, verbose=0, warn=False)
    learn_in_imagination(small_ppo, env, 60, config=SMALL, dynamics=oracle_model(env), callback=[Watch(), evaluation])
    assert seen == [(step, step) for step in range(1, 61)]
    assert evaluation.num_timesteps == 60
    assert np.isfinite(evaluation.last_mean_reward)


def test_the_agent_is_saved_and_goes_on_as_any_other(tmp_path) -> None:
    env = real_env()
    agent = learn_in_imagination(small_ppo, env, 40, config=SMALL, dynamics=oracle_model(env)).agent
    agent.save(tmp_path / "agent.zip")
    loaded = PPO.load(tmp_path / "agent.zip", env=Monitor(real_env()))
    obs = np.ones((5, 3), np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])
    assert loaded.num_timesteps == 40
    loaded.learn(32, reset_num_timesteps=False)  # in the real environment now


def test_a_callback_can_stop_the_run() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 55

    env = real_env()
    result = learn_in_imagination(small_ppo, env, 500, config=SMALL, dynamics=oracle_model(env), callback=Stop())
    assert (result.real_steps, len(result.log)) == (55, 1)


def test_vec_normalize_around_the_model_is_honoured() -> None:
    env = real_env()
    fed = []

    def factory(model_env):
        agent = small_ppo(VecNormalize(model_env))
        original = agent.predict
        agent.predict = lambda obs, **kwargs: fed.append(np.abs(obs).max()) or original(obs, **kwargs)
        return agent

    model = oracle_model(env)
    config = ImaginationConfig(initial_steps=40, cycle_steps=30, imagined_steps=640, num_envs=8, horizon=4)
    result = learn_in_imagination(factory, env, 70, config=config, dynamics=model)
    normalizer = result.agent.get_vec_normalize_env()
    assert normalizer.obs_rms.count > 600
    raw = result.store.transitions().obs[40:].abs().max()
    assert max(fed) > 1.2 * float(raw)  # the oracle's states are small: normalised ones are larger


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
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
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


def test_the_default_model_is_built_and_fitted() -> None:
    config = ImaginationConfig(initial_steps=60, cycle_steps=60, imagined_steps=64, num_envs=8, horizon=4)
    result = learn_in_imagination(small_ppo, "InvertedPendulum-v5", 60, config=config)
    assert result.dynamics.limits.obs_high.isfinite().all()
    assert result.log[0].fit.gradient_steps > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ppo_balances_the_pendulum_within_ten_thousand_real_steps() -> None:
    env = gymnasium.make("InvertedPendulum-v5")
    result = learn_in_imagination(PPO, "InvertedPendulum-v5", 10_000, eval_env=env, seed=0)
    assert result.log[-1].eval_return >= 950
