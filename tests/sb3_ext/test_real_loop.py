"""The real steps between the lessons: collecting, evaluating, and whose random streams they draw from."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.types import Transitions
from sb3_ext.imagination import ImaginationConfig, learn_in_imagination
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model
from tests.sb3_ext.imagination_runs import NET, SMALL, real_env, small_ppo


class OneArray(gymnasium.Wrapper):
    """Writes every observation into the same array, as some environments do."""

    def __init__(self, env) -> None:
        super().__init__(env)
        self._array = np.zeros(env.observation_space.shape, env.observation_space.dtype)

    def reset(self, **kwargs):
        self._array[:], info = self.env.reset(**kwargs)
        return self._array, info

    def step(self, action):
        self._array[:], *rest = self.env.step(action)
        return self._array, *rest


def test_an_environment_may_reuse_its_array() -> None:
    def rows(wrap) -> Transitions:
        env = wrap(real_env())
        result = learn_in_imagination(small_ppo, env, 60, config=SMALL, dynamics=oracle_model(env))
        return result.store.transitions()

    for one, other in zip(rows(OneArray), rows(lambda env: env), strict=True):
        assert th.equal(one, other)


class Recorder(gymnasium.Wrapper):
    """Remembers seeds, and what was done where."""

    def __init__(self, env) -> None:
        super().__init__(env)
        self.seeds: list[int | None] = []
        self.acts: list[tuple] = []

    def reset(self, **kwargs):
        self.seeds.append(kwargs.get("seed"))
        self.obs, info = self.env.reset(**kwargs)
        return self.obs, info

    def step(self, action):
        self.acts.append((self.obs, action))
        self.obs, *rest = self.env.step(action)
        return self.obs, *rest


@pytest.mark.parametrize("make", [OracleEnv, DiscreteOracleEnv])
def test_evaluation_is_deterministic_and_seeded_once(make) -> None:
    env, judge = real_env(make), Recorder(real_env(make))
    config = ImaginationConfig(
        initial_steps=40, cycle_steps=20, imagined_steps=64, num_envs=8, horizon=4, eval_freq=1, eval_episodes=3
    )
    # One cycle, so that the agent at the end is the agent that was evaluated.
    result = learn_in_imagination(small_ppo, env, 40, config=config, dynamics=oracle_model(env), eval_env=judge)
    assert [seed is None for seed in judge.seeds] == [False, True, True]
    for obs, action in judge.acts:
        np.testing.assert_array_equal(action, result.agent.predict(obs, deterministic=True)[0])
        assert env.action_space.contains(action)
    assert len({obs.tobytes() for obs, _ in judge.acts}) == len(judge.acts)  # no episode was lived twice
    # Across cycles, too.
    judge = Recorder(real_env(make))
    learn_in_imagination(small_ppo, env, 60, config=config, dynamics=oracle_model(env), eval_env=judge)
    assert [seed is None for seed in judge.seeds] == [False] + [True] * 5


def test_an_eval_env_by_its_id_is_made_and_closed(monkeypatch) -> None:
    gymnasium.register("OracleForImagination-v0", OracleEnv, max_episode_steps=15)
    closed = []
    monkeypatch.setattr(OracleEnv, "close", lambda self: closed.append(self))
    name = "OracleForImagination-v0"
    result = learn_in_imagination(small_ppo, name, 40, config=SMALL, dynamics=oracle_model(OracleEnv()), eval_env=name)
    assert result.log[-1].eval_return is not None
    assert len(closed) == 2


def exploring_ppo(env, **kwargs) -> PPO:
    return PPO("MlpPolicy", env, n_steps=4, batch_size=8, n_epochs=1, policy_kwargs=NET, seed=0, **kwargs)


@pytest.mark.parametrize(("sde_sample_freq", "every"), [(-1, 4), (10, 10)])
def test_gsde_explores_anew_as_often_as_in_the_agents_own_loop(sde_sample_freq, every) -> None:
    """Every ``n_steps``, or by ``sde_sample_freq``; what the last imagined rollout left behind would serve for all."""
    env, matrices = real_env(), []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            matrices.append(self.model.policy.action_dist.exploration_mat.clone())
            return True

    learn_in_imagination(
        lambda model_env: exploring_ppo(model_env, use_sde=True, sde_sample_freq=sde_sample_freq),
        env,
        70,
        config=SMALL,
        dynamics=oracle_model(env),
        callback=Watch(),
    )
    own = matrices[40:]  # the 40 steps before are random
    changes = [step for step in range(1, 30) if not th.equal(own[step - 1], own[step])]
    assert changes == [*range(every, 30, every)]
    assert not th.equal(own[0], matrices[39])


@pytest.mark.parametrize("use_sde", [False, True])
def test_collecting_leaves_the_global_streams_alone(use_sde) -> None:
    """Real steps draw from streams of their own: with no imagination in between they would not move the agent's."""
    env, streams = real_env(), []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            streams.append(th.get_rng_state())

        def _on_rollout_end(self) -> None:
            streams.append(th.get_rng_state())

        def _on_step(self) -> bool:
            return True

    learn_in_imagination(
        lambda model_env: exploring_ppo(model_env, use_sde=use_sde),
        env,
        70,
        config=SMALL,
        dynamics=oracle_model(env),
        callback=Watch(),
    )
    assert th.equal(streams[0], streams[1])
    assert th.equal(streams[2], streams[3])
    assert not th.equal(streams[1], streams[2])
