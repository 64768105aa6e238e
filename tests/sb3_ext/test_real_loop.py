"""The real steps between the lessons: collecting, evaluating, and whose random streams they draw from."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from mbrl_wrappers.models import FunctionModel
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.types import Transitions
from sb3_ext.imagination import ImaginationConfig, learn_in_imagination
from sb3_ext.real_loop import RealLoop
from tests.oracle import HIGH, LOW, DiscreteOracleEnv, OracleEnv, oracle_model, oracle_step
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


class WritesItsAction(gymnasium.Wrapper):
    """Scales and clips the action in the array it was given, as some environments do."""

    def step(self, action):
        action *= 3.0
        np.clip(action, LOW, HIGH, out=action)
        return self.env.step(action)


def test_an_environment_may_write_into_its_action() -> None:
    env = WritesItsAction(real_env())
    result = learn_in_imagination(small_ppo, env, 80, config=SMALL, dynamics=oracle_model(env))
    rows, codec = result.store.transitions(), result.store.codec
    # What was stored is what was asked for: three times of that, clipped, leads from one observation to the next.
    applied = (3 * codec.decode(rows.action)).clamp(th.as_tensor(LOW), th.as_tensor(HIGH))
    expected, _, _ = oracle_step(rows.obs, applied)
    np.testing.assert_allclose(rows.next_obs, expected, atol=1e-5)
    assert not rows.last.all()


class Strict(gymnasium.Wrapper):
    """Ends its own episodes, one way or the other, and refuses to be stepped past the end."""

    def __init__(self, env) -> None:
        super().__init__(env)
        self.left, self.ends = 0, []

    def reset(self, **kwargs):
        self.left = 15
        return self.env.reset(**kwargs)

    def step(self, action):
        assert self.left > 0, "stepped past the end"
        obs, reward, terminated, _, info = self.env.step(action)
        self.left = 0 if terminated else self.left - 1
        self.ends.append(bool(terminated))
        return obs, reward, np.bool_(terminated), np.bool_(self.left == 0), info


def test_no_environment_is_stepped_past_its_own_end() -> None:
    env, judge = Strict(OracleEnv()), Strict(OracleEnv())
    result = learn_in_imagination(small_ppo, env, 100, config=SMALL, dynamics=oracle_model(env), eval_env=judge)
    assert result.log[-1].eval_return is not None
    assert len(judge.ends) > 5


def test_a_failure_is_stored_as_one_and_a_time_limit_is_not() -> None:
    env = Strict(OracleEnv())
    result = learn_in_imagination(small_ppo, env, 150, config=SMALL, dynamics=oracle_model(env), seed=1)
    rows = result.store.transitions()
    assert rows.terminated.tolist() == env.ends
    assert rows.last.sum() > rows.terminated.sum() > 0


class Presses(gymnasium.Env):
    """Buttons numbered by an integer Box; remembers what it was given."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-5, 5, (1,), np.int64)

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.given.append(action.copy())
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_an_agents_action_is_rounded_and_not_truncated() -> None:
    def step(obs, action):
        return obs, action[:, 0], th.zeros(len(obs), dtype=th.bool)

    env, wanted = Presses(), []

    def factory(model_env) -> PPO:
        agent = small_ppo(model_env)
        original = agent.predict
        agent.predict = lambda obs, **kwargs: wanted.append(original(obs, **kwargs)) or wanted[-1]
        return agent

    model = FunctionModel(env.observation_space, env.action_space, step)
    result = learn_in_imagination(factory, env, 80, config=SMALL, dynamics=model)
    own = np.array(env.given)[40:]
    np.testing.assert_array_equal(own, np.rint([action for action, _ in wanted]))
    assert (own != np.trunc([action for action, _ in wanted])).any()
    stored = result.store.codec.to_env(result.store.transitions().action)
    np.testing.assert_array_equal(stored, env.given)


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


def test_every_stream_of_the_loop_follows_its_seed() -> None:
    agent = PPO("MlpPolicy", OracleEnv(), n_steps=4, batch_size=4, policy_kwargs=NET, seed=0)

    def draws(seed: int) -> list:
        env = OracleEnv()
        loop = RealLoop(env, agent, TransitionStore(9, env.observation_space, env.action_space), seed=seed)
        first, action = loop.observation.tolist(), env.action_space.sample().tolist()
        return [first, action, th.rand(2, generator=loop._generator).tolist(), loop._eval_seed]

    zero, again, one = draws(0), draws(0), draws(1)
    assert zero == again
    assert all(a != b for a, b in zip(zero, one, strict=True))
