"""The callback on real agents: every agent, what it writes, and what works beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import FlattenObservation, TimeLimit
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_wrappers import FunctionModel
from sb3_ext import AgentPolicy, DynaCallback, MixedReplayBuffer
from tests.oracle import OracleEnv, oracle_model
from tests.sb3_ext.dyna_agents import CONTINUOUS, DISCRETE, SMALL, make_agent, oracle_env, small_callback, weights


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
    with pytest.warns(UserWarning, match="neither the dynamics model nor the imagined rows"):
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
