"""The callback on real agents: transparency, exact counts, every agent, and what wrong use is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import FlattenObservation, TimeLimit
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from mbrl_wrappers import EnsembleDynamics, FitConfig, FunctionModel, RolloutLength, Trainer
from sb3_ext import AgentPolicy, DynaCallback, DynaConfig, MixedReplayBuffer
from sb3_ext.default_model import known_functions
from tests.oracle import DiscreteOracleEnv, OracleEnv, oracle_model

SMALL = DynaConfig(model_train_freq=20, rollout_freq=10, rollouts_per_step=3, retain_steps=20, min_real_rows=20)
CONTINUOUS = [SAC, TD3, DDPG, TQC, CrossQ]
DISCRETE = [DQN, QRDQN]


def oracle_env(discrete: bool = False, dtype: Any = np.float32) -> gymnasium.Env[Any, Any]:
    return TimeLimit(DiscreteOracleEnv(dtype) if discrete else OracleEnv(dtype), 12)


def small_callback(env: gymnasium.Env[Any, Any], config: DynaConfig = SMALL, **kwargs: Any) -> DynaCallback:
    dynamics = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(16,), device="cpu"
    )
    trainer = Trainer(dynamics, FitConfig(max_epochs=3, batch_size=16))
    return DynaCallback(dynamics, config, trainer=trainer, **kwargs)


def make_agent(algorithm: type[BaseAlgorithm], env: Any, **kwargs: Any) -> Any:
    defaults: dict[str, Any] = {
        "replay_buffer_class": MixedReplayBuffer,
        "learning_starts": 20,
        "train_freq": 1,
        "batch_size": 32,
        "policy_kwargs": {"net_arch": [16]},  # a new one each time: SB3 writes into it
        "seed": 0,
        "device": "cpu",
        "buffer_size": 1000,
    }
    return algorithm("MlpPolicy", env, **(defaults | kwargs))


def weights(agent: BaseAlgorithm) -> th.Tensor:
    return th.cat([value.flatten().float() for value in agent.policy.state_dict().values()])


# --- transparency -----------------------------------------------------------------------------------------------------


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
        mixed.learn(80, callback=small_callback(oracle_env(), DynaConfig(min_real_rows=10_000)))
    assert th.equal(weights(stock), weights(mixed))


@pytest.mark.parametrize("algorithm", DISCRETE)
def test_value_agents_are_transparent_too(algorithm: type[BaseAlgorithm]) -> None:
    stock = make_agent(algorithm, oracle_env(True), replay_buffer_class=ReplayBuffer)
    stock.learn(80)
    mixed = make_agent(algorithm, oracle_env(True), replay_buffer_kwargs={"real_ratio": 1.0})
    mixed.learn(80, callback=small_callback(oracle_env(True)))
    assert th.equal(weights(stock), weights(mixed))


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


# --- every agent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("algorithm", CONTINUOUS + DISCRETE)
def test_every_agent_trains_on_the_mix(algorithm: type[BaseAlgorithm], n_envs: int, normalize: bool) -> None:
    discrete = algorithm in DISCRETE
    env: Any = DummyVecEnv([lambda: oracle_env(discrete)] * n_envs)
    if normalize:
        env = VecNormalize(env)
    agent = make_agent(algorithm, env)
    callback = small_callback(oracle_env(discrete))
    agent.learn(80, callback=callback)
    buffer = agent.replay_buffer
    assert buffer.num_real == 80
    assert callback.report is not None
    assert callback.report.train_rows + callback.report.holdout_rows == 80  # due at 20, 40, 60 and 80
    assert callback._fits == 4
    assert buffer.synthetic.capacity == 60
    assert 0 < len(buffer.synthetic) <= 60
    assert th.isfinite(weights(agent)).all()
    actions = buffer.synthetic.take(np.arange(len(buffer.synthetic))).action
    if discrete:
        assert set(np.unique(actions)) <= {0, 1, 2}
    else:
        assert np.abs(actions).max() <= 1
        assert actions.std(0).min() > 0.01  # a stochastic policy, also where the actor is deterministic
    raw = buffer.synthetic.take(np.arange(len(buffer.synthetic))).obs
    real = buffer.real_transitions().obs.numpy()
    assert (raw.min(0) >= real.min(0) - 1e-6).all()  # branch starts are raw real states, also under VecNormalize
    assert (raw.max(0) <= real.max(0) + 1e-6).all()


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


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["SAC", "TQC", "CrossQ", "TD3", "DDPG", "DQN"])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_every_sbx_agent_trains_on_the_mix(name: str, n_envs: int) -> None:
    sbx = pytest.importorskip("sbx", reason="needs pip install 'mbrl-wrappers[sbx]'")
    discrete = name == "DQN"
    agent = make_agent(getattr(sbx, name), DummyVecEnv([lambda: oracle_env(discrete)] * n_envs))
    callback = small_callback(oracle_env(discrete))
    agent.learn(60, callback=callback)
    assert callback._fits == 3
    assert len(agent.replay_buffer.synthetic) > 0


def test_batches_hold_the_configured_share_of_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(SAC, oracle_env(), replay_buffer_kwargs={"real_ratio": 0.25})
    shares = []
    original = MixedReplayBuffer._synthetic_samples

    def counted(self: MixedReplayBuffer, count: int, env: Any) -> Any:
        shares.append(count)
        return original(self, count, env)

    monkeypatch.setattr(MixedReplayBuffer, "_synthetic_samples", counted)
    agent.learn(60, callback=small_callback(oracle_env()))
    assert set(shares) == {24}
    assert len(shares) == 40  # one per update from step 21 on, the first fit being at step 20


def test_with_the_exact_model_dyna_writes_what_the_real_environment_would_have_given() -> None:
    env = OracleEnv()
    agent = make_agent(SAC, oracle_env())
    callback = DynaCallback(oracle_model(env), SMALL)
    agent.learn(45, callback=callback)
    assert callback.trainer is None
    buffer = agent.replay_buffer
    rows = buffer.synthetic.take(np.arange(len(buffer.synthetic)))
    for row in range(len(buffer.synthetic)):
        env.set_obs(rows.obs[row])
        action = buffer.codec.to_env(th.as_tensor(rows.action[row : row + 1]))[0]
        obs, reward, terminated, _, _ = env.step(action)
        np.testing.assert_allclose(rows.next_obs[row], obs, atol=1e-5)
        assert rows.reward[row, 0] == pytest.approx(reward, abs=1e-5)
        assert bool(rows.terminated[row, 0]) == terminated


def test_rollout_length_follows_its_schedule_in_real_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("sb3_ext.callbacks.branched_rollout", _recording(seen))
    config = DynaConfig(
        model_train_freq=20,
        rollout_freq=20,
        rollouts_per_step=2,
        rollout_length=RolloutLength(20, 60, 1, 3),
        min_real_rows=20,
    )
    agent = make_agent(SAC, oracle_env())
    agent.learn(80, callback=small_callback(oracle_env(), config))
    assert seen == [(40, 1), (40, 2), (40, 3), (40, 3)]


def _recording(seen: list[tuple[int, int]]) -> Any:
    from mbrl_wrappers.rollout import branched_rollout

    def record(model: Any, policy: Any, starts: th.Tensor, length: int, **kwargs: Any) -> Any:
        seen.append((len(starts), length))
        return branched_rollout(model, policy, starts, length, **kwargs)

    return record


def test_episode_training_and_two_environments_trigger_on_crossed_thresholds() -> None:
    agent = make_agent(SAC, DummyVecEnv([oracle_env] * 3), train_freq=5, gradient_steps=-1)
    callback = small_callback(
        oracle_env(), DynaConfig(model_train_freq=40, rollout_freq=20, rollouts_per_step=2, min_real_rows=20)
    )
    agent.learn(120, callback=callback)  # rollouts end at 15, 30, 45 ... : fits at 30, 75, 120
    assert callback._fits == 3


def test_eval_and_checkpoint_callbacks_work_beside_it(tmp_path: Path) -> None:
    agent = make_agent(SAC, oracle_env())
    evaluation = EvalCallback(
        oracle_env(),
        eval_freq=40,
        n_eval_episodes=2,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
        warn=False,
    )
    checkpoint = CheckpointCallback(40, str(tmp_path), save_replay_buffer=True)
    agent.learn(80, callback=[small_callback(oracle_env()), evaluation, checkpoint])
    assert len(evaluation.evaluations_timesteps) == 2
    assert (tmp_path / "best_model.zip").exists()
    assert (tmp_path / "rl_model_80_steps.zip").exists()


def test_saved_and_loaded_it_refills_the_synthetic_part_and_goes_on(tmp_path: Path) -> None:
    agent = make_agent(SAC, oracle_env())
    callback = small_callback(oracle_env())
    agent.learn(40, callback=callback)
    agent.save(tmp_path / "agent")
    agent.save_replay_buffer(tmp_path / "buffer")
    loaded = SAC.load(tmp_path / "agent", env=oracle_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert isinstance(loaded.replay_buffer, MixedReplayBuffer)
    assert len(loaded.replay_buffer.synthetic) == 0
    assert loaded.replay_buffer.num_real == 40
    filled = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            filled.append(len(self.model.replay_buffer.synthetic))  # type: ignore[attr-defined]
            return True

    loaded.learn(20, callback=[callback, Watch()], reset_num_timesteps=False)
    assert filled[0] == 0
    assert filled[1] > 0  # at the first chance, not at the next threshold


def test_log_keys_stay_under_model_and_dyna() -> None:
    agent = make_agent(SAC, oracle_env())
    seen: dict[str, Any] = {}
    agent.set_logger(_Recorder(seen))
    agent.learn(60, callback=small_callback(oracle_env()))
    ours = {key for key in seen if key.startswith(("model/", "dyna/"))}
    assert {"model/r2_mean", "model/r2_reward", "model/r2_obs0", "dyna/rollout_length", "dyna/synthetic_rows"} <= ours
    assert all(key.split("/")[0] in ("model", "dyna", "train", "rollout", "time") for key in seen)
    assert not any("imagined" in key for key in seen if key.startswith("rollout/"))


def _Recorder(seen: dict[str, Any]) -> Any:
    from stable_baselines3.common.logger import Logger

    class Recorder(Logger):
        def record(self, key: str, value: Any, exclude: Any = None) -> None:
            seen[key] = value

    return Recorder(None, [])


def test_a_second_learn_goes_on_with_the_schedule() -> None:
    agent = make_agent(SAC, oracle_env())
    callback = small_callback(oracle_env())
    agent.learn(20, callback=callback)
    for _ in range(15):
        agent.learn(4, callback=callback, reset_num_timesteps=False)
    assert agent.num_timesteps == 80
    assert callback._fits == 4  # at 20, 40, 60 and 80


def test_nothing_is_fitted_before_learning_starts() -> None:
    agent = make_agent(SAC, oracle_env(), learning_starts=50)
    callback = small_callback(oracle_env())
    with pytest.warns(UserWarning, match="learning_starts"):
        agent.learn(49, callback=callback)
    assert callback._fits == 0
    agent.learn(2, callback=callback, reset_num_timesteps=False)
    assert callback._fits == 1


def test_the_first_fit_has_a_cap_of_its_own() -> None:
    caps = []

    class Spy(Trainer):
        def fit(self, *args: Any, **kwargs: Any) -> Any:
            caps.append(kwargs["max_gradient_steps"])
            return super().fit(*args, **kwargs)

    env = oracle_env()
    dynamics = EnsembleDynamics(env.observation_space, env.action_space, hidden=(8,), device="cpu")
    config = replace(SMALL, first_fit_gradient_steps=9)
    callback = DynaCallback(dynamics, config, trainer=Spy(dynamics, FitConfig(max_gradient_steps=2)))
    make_agent(SAC, env).learn(60, callback=callback)
    assert caps == [9, None, None]


def test_a_ring_that_is_too_small_takes_fewer_branches_and_not_only_their_ends() -> None:
    agent = make_agent(SAC, oracle_env(), replay_buffer_kwargs={"synthetic_size": 12})
    config = replace(SMALL, rollouts_per_step=100, rollout_length=3)
    agent.learn(20, callback=small_callback(oracle_env(), config))
    synthetic = agent.replay_buffer.synthetic
    assert synthetic.capacity == 12
    rows = synthetic.take(np.arange(len(synthetic))).obs
    real = {tuple(row) for row in agent.replay_buffer.real_transitions().obs.tolist()}
    assert sum(tuple(row) in real for row in rows.tolist()) == 4


def test_the_capacity_follows_the_branch_length() -> None:
    agent = make_agent(SAC, oracle_env())
    agent.learn(30, callback=small_callback(oracle_env(), replace(SMALL, rollout_length=4)))
    assert agent.replay_buffer.synthetic.capacity == 3 * 20 * 4


def test_noise_of_a_deterministic_actor_is_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stds = []
    original = AgentPolicy.__init__

    def init(self: AgentPolicy, agent: Any, **kwargs: Any) -> None:
        stds.append(kwargs["noise_std"])
        original(self, agent, **kwargs)

    monkeypatch.setattr(AgentPolicy, "__init__", init)
    make_agent(TD3, oracle_env()).learn(
        25, callback=small_callback(oracle_env(), replace(SMALL, policy_noise_std=0.33))
    )
    assert set(stds) == {0.33}


def test_a_model_whose_predictions_are_dropped_says_so() -> None:
    env = OracleEnv()
    broken = FunctionModel(
        env.observation_space, env.action_space, lambda obs, action: (obs + th.nan, obs[:, 0], obs[:, 0] > 9)
    )
    with pytest.warns(UserWarning, match="predictions of the model were dropped and 0 kept"):
        make_agent(SAC, oracle_env()).learn(25, callback=DynaCallback(broken, SMALL))


# --- the default model ------------------------------------------------------------------------------------------------


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


def test_dict_observations_work_flattened() -> None:
    from gymnasium import spaces

    class DictEnv(OracleEnv):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Dict(  # type: ignore[assignment]
                {"a": spaces.Box(-np.inf, np.inf, (1,)), "b": spaces.Box(-np.inf, np.inf, (2,))}
            )

        def _observation(self) -> Any:
            return {"a": self._state[:1].copy(), "b": self._state[1:].copy()}

    env = FlattenObservation(TimeLimit(DictEnv(), 12))
    agent = make_agent(SAC, env)
    agent.learn(40, callback=small_callback(env))
    assert len(agent.replay_buffer.synthetic) > 0
    with pytest.raises(TypeError, match="FlattenObservation"):
        SAC("MultiInputPolicy", DictEnv(), replay_buffer_class=MixedReplayBuffer)


# --- the agent as a rollout policy ------------------------------------------------------------------------------------


def test_a_value_agent_explores_row_by_row() -> None:
    agent = make_agent(DQN, oracle_env(True))
    agent.exploration_rate = 0.3
    obs = th.zeros(5000, 3)
    policy = AgentPolicy(agent)
    choice = policy(obs, generator=th.Generator().manual_seed(0)).argmax(1)
    greedy = int(AgentPolicy(agent, deterministic=True)(obs[:1], generator=th.Generator()).argmax(1))
    # A random third of the exploring three tenths hits the greedy action as well.
    assert float((choice == greedy).float().mean()) == pytest.approx(0.8, abs=0.02)


def test_a_deterministic_actor_gets_its_own_noise_and_keeps_its_action_noise() -> None:
    class Loud(NormalActionNoise):
        def __call__(self) -> Any:
            raise AssertionError("the agent's own noise is stateful and must be left alone")

    agent = make_agent(TD3, oracle_env(), action_noise=Loud(np.zeros(2), np.ones(2)))
    obs = th.zeros(4000, 3)
    noisy = AgentPolicy(agent, noise_std=0.2)(obs, generator=th.Generator().manual_seed(0))
    plain = AgentPolicy(agent, deterministic=True)(obs, generator=th.Generator().manual_seed(0))
    assert (plain == plain[0]).all()
    assert float((noisy - plain).std()) == pytest.approx(0.2, rel=0.05)


def test_the_policys_actions_are_the_agents_own_in_model_units() -> None:
    env = oracle_env()
    agent = make_agent(SAC, env)
    obs = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    actions = AgentPolicy(agent, deterministic=True)(th.as_tensor(obs), generator=th.Generator())
    expected, _ = agent.predict(obs, deterministic=True)
    low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
    np.testing.assert_allclose(actions.numpy(), 2 * (expected - low) / (high - low) - 1, atol=1e-5)


def test_the_policy_sees_normalised_observations_and_never_updates_the_statistics() -> None:
    env = VecNormalize(DummyVecEnv([oracle_env]))
    agent = make_agent(SAC, env)
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, 2.0, 3.0]), np.array([4.0, 9.0, 0.25])  # type: ignore[union-attr]
    obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    actions = AgentPolicy(agent, deterministic=True)(th.as_tensor(obs), generator=th.Generator())
    expected, _ = agent.predict(env.normalize_obs(obs), deterministic=True)
    np.testing.assert_allclose(actions.numpy(), AgentPolicy(agent).codec.from_env(expected).numpy(), atol=1e-6)
    assert env.obs_rms.mean.tolist() == [1.0, 2.0, 3.0]  # type: ignore[union-attr]


# --- wrong use --------------------------------------------------------------------------------------------------------


def test_a_stock_buffer_is_named() -> None:
    agent = make_agent(SAC, oracle_env(), replay_buffer_class=ReplayBuffer)
    with pytest.raises(TypeError, match="replay_buffer_class=MixedReplayBuffer"):
        agent.learn(10, callback=DynaCallback())


def test_an_on_policy_agent_is_sent_to_imagination() -> None:
    agent = PPO("MlpPolicy", oracle_env(), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(TypeError, match="learn_in_imagination"):
        agent.learn(8, callback=DynaCallback())


def test_n_step_returns_are_refused() -> None:
    with pytest.warns(UserWarning, match="n_steps=3"):
        agent = make_agent(SAC, oracle_env(), n_steps=3)
    with pytest.raises(ValueError, match="n_steps"):
        agent.learn(10, callback=DynaCallback())


def test_a_child_of_an_event_callback_is_refused() -> None:
    agent = make_agent(SAC, oracle_env())
    with pytest.raises(ValueError, match="EveryNTimesteps"):
        agent.learn(10, callback=EveryNTimesteps(5, small_callback(oracle_env())))


def test_a_model_of_another_task_is_refused() -> None:
    agent = make_agent(SAC, "Pendulum-v1")
    with pytest.raises(ValueError, match="build it for this task"):
        agent.learn(10, callback=small_callback(oracle_env()))


def test_a_buffer_of_another_task_is_refused(tmp_path: Path) -> None:
    other = make_agent(SAC, "MountainCarContinuous-v0")
    other.save_replay_buffer(tmp_path / "buffer")
    agent = make_agent(SAC, oracle_env())
    agent.load_replay_buffer(tmp_path / "buffer")
    with pytest.raises(ValueError, match="recorded in another environment"):
        agent.learn(10, callback=small_callback(oracle_env()))


def test_gsde_is_refused() -> None:
    with pytest.raises(ValueError, match="gSDE"):
        make_agent(SAC, oracle_env(), use_sde=True).learn(10, callback=DynaCallback())


def test_contradictory_arguments_are_refused() -> None:
    env = oracle_env()
    with pytest.raises(ValueError, match="default model"):
        DynaCallback(oracle_model(env), reward_fn=lambda obs, action, next_obs: obs[:, 0])
    with pytest.raises(ValueError, match="another model"):
        DynaCallback(oracle_model(env), trainer=small_callback(env).trainer)
    for kwargs in (
        {"model_train_freq": 0},
        {"model_train_freq": 250.5},
        {"rollouts_per_step": 0},
        {"rollout_length": 0},
        {"rollout_length": 2.0},
        {"first_fit_gradient_steps": -5},
        {"policy_noise_std": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            DynaConfig(**kwargs)  # type: ignore[arg-type]
