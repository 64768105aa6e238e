from __future__ import annotations

from collections import deque

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from mbrl_wrappers.envs import ModelEnv
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.training import Trainer
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

    def __init__(self, model=None) -> None:
        self.model = model
        self.fits: list[Transitions] = []

    def fit(self, transitions: Transitions) -> Report:
        self.fits.append(transitions)
        return self.Report()


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


def test_collecting_leaves_the_global_streams_alone() -> None:
    """Real steps draw from streams of their own: with no imagination in between they would not move the agent's."""
    env, streams = real_env(), []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            streams.append(th.get_rng_state())

        def _on_rollout_end(self) -> None:
            streams.append(th.get_rng_state())

        def _on_step(self) -> bool:
            return True

    learn_in_imagination(small_ppo, env, 70, config=SMALL, dynamics=oracle_model(env), callback=Watch())
    assert th.equal(streams[0], streams[1])
    assert th.equal(streams[2], streams[3])
    assert not th.equal(streams[1], streams[2])


def small_ensemble(env) -> EnsembleDynamics:
    return EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(4,), device="cpu"
    )


def test_an_ensemble_without_a_trainer_gets_one() -> None:
    env = real_env()
    model = small_ensemble(env)
    result = learn_in_imagination(small_ppo, env, 40, config=SMALL, dynamics=model)
    assert result.log[0].fit.gradient_steps > 0
    assert result.dynamics is model


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


def test_an_eval_env_by_its_id_is_made_and_closed(monkeypatch) -> None:
    gymnasium.register("OracleForImagination-v0", OracleEnv, max_episode_steps=15)
    closed = []
    monkeypatch.setattr(OracleEnv, "close", lambda self: closed.append(self))
    name = "OracleForImagination-v0"
    result = learn_in_imagination(small_ppo, name, 40, config=SMALL, dynamics=oracle_model(OracleEnv()), eval_env=name)
    assert result.log[-1].eval_return is not None
    assert len(closed) == 2


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


def test_a_callback_can_stop_the_run() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 55

    env = real_env()
    result = learn_in_imagination(small_ppo, env, 500, config=SMALL, dynamics=oracle_model(env), callback=Stop())
    assert (result.real_steps, len(result.log)) == (55, 1)


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
