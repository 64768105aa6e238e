"""On-policy agents that learn inside a model."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor

from sb3_ext import imagination
from sb3_ext.default_model import DefaultModel
from sb3_ext.imagination import ImaginationConfig, learn_in_imagination
from sb3_ext.vec_env import ModelVecEnv
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model
from tests.sb3_ext.imagination_runs import SMALL, CountingTrainer, Rows, real_env, small_ensemble, small_ppo


def test_one_run_in_numbers(monkeypatch) -> None:
    """100 real steps: 40 at random, then cycles of 30; 64 imagined steps after each."""
    rows, resets, env = Rows(), [], real_env()
    trainer = CountingTrainer(oracle_model(env))
    original = ModelVecEnv.reset
    monkeypatch.setattr(ModelVecEnv, "reset", lambda self: resets.append(1) or original(self))

    def factory(model_env):
        agent = small_ppo(model_env)
        agent.set_logger(Logger(None, [rows]))
        return agent

    result = learn_in_imagination(
        factory, env, 100, config=SMALL, dynamics=trainer.model, trainer=trainer, eval_env=real_env(), seed=3
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


def test_rows_keep_their_number_when_old_ones_are_forgotten() -> None:
    """By which a trainer knows what it held out: the place of a row in the store changes, its number does not."""
    env = real_env()
    trainer = CountingTrainer(oracle_model(env))
    config = replace(SMALL, store_size=50)
    learn_in_imagination(small_ppo, env, 100, config=config, dynamics=trainer.model, trainer=trainer)
    assert [ids.tolist() for ids in trainer.row_ids] == [[*range(40)], [*range(20, 70)], [*range(50, 100)]]
    _, second, third = trainer.fits
    assert th.equal(second.obs[30:], third.obs[:20])  # rows 50 to 69, in both


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


def test_a_loaded_agent_counts_on(tmp_path) -> None:
    env, seen, rows = real_env(), [], Rows()
    first = learn_in_imagination(small_ppo, env, 100, config=SMALL, dynamics=oracle_model(env)).agent
    first.ep_info_buffer = deque([{"r": 1e6, "l": 1}], maxlen=100)  # another run's episodes
    first.save(tmp_path / "agent.zip")

    class Watch(BaseCallback):
        def _on_training_start(self) -> None:
            seen.append(self.locals["total_timesteps"])

        def _on_step(self) -> bool:
            seen.append(self.num_timesteps)
            return True

    def factory(model_env) -> PPO:
        agent = PPO.load(tmp_path / "agent.zip", env=model_env)
        agent.set_logger(Logger(None, [rows]))
        return agent

    result = learn_in_imagination(factory, env, 70, config=SMALL, dynamics=oracle_model(env), callback=Watch())
    assert seen == [170, *range(101, 171)]
    assert (result.real_steps, result.agent.num_timesteps) == (70, 170)
    assert [(record.real_steps, record.imagined_steps) for record in result.log] == [(40, 64), (70, 128)]
    assert [(step, logged["time/total_timesteps"]) for step, logged in rows.rows] == [(140, 140), (170, 170)]
    assert result.log[0].imagined_return <= 4


def test_the_progress_bar_counts_real_steps(monkeypatch) -> None:
    bars = []

    class Bar:
        def __init__(self, total: int) -> None:
            self.total, self.done = total, 0
            bars.append(self)

        def update(self, steps: int) -> None:
            self.done += steps

        def refresh(self) -> None:
            pass

        close = refresh

    monkeypatch.setattr("stable_baselines3.common.callbacks.tqdm", Bar)
    env = real_env()
    learn_in_imagination(small_ppo, env, 60, config=SMALL, dynamics=oracle_model(env), progress_bar=True)
    assert [(bar.total, bar.done) for bar in bars] == [(60, 60)]


def test_an_ensemble_without_a_trainer_gets_one() -> None:
    env = real_env()
    model = small_ensemble(env)
    result = learn_in_imagination(small_ppo, env, 40, config=SMALL, dynamics=model)
    assert result.log[0].fit.gradient_steps > 0
    assert result.dynamics is model


def test_a_callback_can_stop_the_run() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 55

    env = real_env()
    result = learn_in_imagination(small_ppo, env, 500, config=SMALL, dynamics=oracle_model(env), callback=Stop())
    assert (result.real_steps, len(result.log)) == (55, 1)


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


def test_the_model_its_trainer_and_its_episodes_follow_the_seed(monkeypatch) -> None:
    class Built(Exception):
        pass

    def seeds(seed: int) -> list[int]:
        found = []

        def build(vec_env, **kwargs):
            found.append(kwargs["seed"])
            return DefaultModel(small_ensemble(vec_env), ())

        def train(dynamics, *, seed):
            found.append(seed)
            raise Built

        monkeypatch.setattr(imagination, "build_default_dynamics", build)
        monkeypatch.setattr(imagination, "default_trainer", train)
        monkeypatch.setattr(ModelVecEnv, "seed", lambda self, seed=None: found.append(seed))
        with pytest.raises(Built):
            learn_in_imagination(small_ppo, real_env(), 10, config=SMALL, seed=seed)
        return [found[0], found[1], found[-1]]  # in between the agent gives the episodes its own

    assert seeds(5) == seeds(5)
    assert len({*seeds(5), *seeds(6)}) == 6
