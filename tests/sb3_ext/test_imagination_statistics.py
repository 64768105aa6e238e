"""VecNormalize around the model takes its statistics from the real environment."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_ext.imagination import learn_in_imagination
from tests.oracle import oracle_model
from tests.sb3_ext.imagination_runs import SMALL, real_env, small_ppo


def normalizing_ppo(model_env, **kwargs) -> PPO:
    return small_ppo(VecNormalize(model_env, **kwargs))


def test_vec_normalize_takes_its_statistics_from_the_real_environment() -> None:
    """As VecNormalize itself would around the real environment, and as they are throughout the imagination."""
    env, frozen = real_env(), []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            frozen.append((normalizer_of(self.model), len(steps)))

        def _on_step(self) -> bool:
            steps.append(self.num_timesteps)
            return True

    def normalizer_of(agent) -> tuple:
        normalizer = agent.get_vec_normalize_env()
        return (normalizer.obs_rms.mean.tolist(), normalizer.obs_rms.count, float(normalizer.ret_rms.var))

    steps: list[int] = []
    result = learn_in_imagination(
        normalizing_ppo, env, 100, config=SMALL, dynamics=oracle_model(env), callback=Watch(), seed=2
    )
    normalizer = result.agent.get_vec_normalize_env()
    rows = result.store.transitions()
    # What the agent acted in: the start of each episode, and where each step led that did not end one.
    seen = np.concatenate([rows.obs[:1], rows.next_obs])
    seen[1:-1][rows.last[:-1]] = rows.obs[1:][rows.last[:-1]]
    assert normalizer.obs_rms.count == pytest.approx(101, abs=0.01)
    np.testing.assert_allclose(normalizer.obs_rms.mean, seen.mean(0), atol=1e-3)
    np.testing.assert_allclose(normalizer.obs_rms.var, seen.var(0), atol=2e-3)
    returns, total = [], 0.0
    for reward, last in zip(rows.reward.tolist(), rows.last.tolist(), strict=True):
        total = total * normalizer.gamma + reward
        returns.append(total)
        total = 0.0 if last else total
    assert normalizer.ret_rms.var == pytest.approx(np.var(returns), rel=1e-2)
    assert normalizer.training  # as the user made it
    # 40 steps and the first observation before the first imagination, 70 and 100 after: nothing else was counted.
    assert [round(state[1]) for state, _ in frozen] == [1, 41, 71]


def test_the_agent_sees_normalised_observations_in_the_real_environment() -> None:
    env, fed = real_env(), []

    def factory(model_env):
        agent = normalizing_ppo(model_env)
        original = agent.predict
        agent.predict = lambda obs, **kwargs: fed.append(np.array(obs)) or original(obs, **kwargs)
        return agent

    result = learn_in_imagination(factory, env, 41, config=SMALL, dynamics=oracle_model(env))
    normalizer = result.agent.get_vec_normalize_env()
    (obs,) = fed  # one step of the agent's own, after 40 at random
    # The statistics went on by the step after it.
    np.testing.assert_allclose(obs, normalizer.normalize_obs(result.store.transitions().obs[40].numpy()), atol=0.1)
    assert np.abs(obs - result.store.transitions().obs[40].numpy()).max() > 0.2


def test_statistics_that_the_user_froze_stay_frozen() -> None:
    env = real_env()
    result = learn_in_imagination(
        lambda e: normalizing_ppo(e, training=False), env, 60, config=SMALL, dynamics=oracle_model(env)
    )
    normalizer = result.agent.get_vec_normalize_env()
    assert (normalizer.obs_rms.count, normalizer.training) == (pytest.approx(1e-4), False)


def test_eval_callback_takes_the_statistics_when_wrapped_alike() -> None:
    env = real_env()
    outer = VecNormalize(VecMonitor(DummyVecEnv([real_env])), training=False, norm_reward=False)
    evaluation = EvalCallback(outer, eval_freq=25, n_eval_episodes=1, verbose=0, warn=False)
    result = learn_in_imagination(
        normalizing_ppo, env, 75, config=SMALL, dynamics=oracle_model(env), callback=evaluation
    )
    assert evaluation.num_timesteps == 75
    assert outer.obs_rms.count == pytest.approx(76, abs=0.01)
    np.testing.assert_array_equal(outer.obs_rms.mean, result.agent.get_vec_normalize_env().obs_rms.mean)
