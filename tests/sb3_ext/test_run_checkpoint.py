"""A run that is killed and resumed ends bit for bit as one that was not."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from mbrl_wrappers.branch_gate import GateConfig
from mbrl_wrappers.seeding import global_stream_states
from mbrl_wrappers.storage import ring_shards
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from sb3_ext import (
    ActWithAverage,
    AveragedActor,
    DynaCallback,
    DynaConfig,
    MixedReplayBuffer,
    RunCheckpoint,
    WithAveragedActor,
)
from tests.sb3_ext.resumed_runs import RARE, Built, Kill, KillAt, differences, run

STEPS = 190
KILLS = (67, 141)
RESTORED = [0, 50, 100]
SMALL = {"learning_starts": 45, "batch_size": 16, "buffer_size": 200, "seed": 0, "device": "cpu"}


def dyna(env: VecEnv, config: DynaConfig = RARE) -> DynaCallback:
    model = EnsembleDynamics(
        env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(8,), device="cpu"
    )
    return DynaCallback(model, config, trainer=Trainer(model, FitConfig(max_gradient_steps=8)))


def agent_on(cls: type[BaseAlgorithm], env: VecEnv, **kwargs: Any) -> BaseAlgorithm:
    kwargs = {**SMALL, "policy_kwargs": {"net_arch": [8]}, **kwargs}
    return cls("MlpPolicy", env, **kwargs)


def sac_with_average(n_envs: int = 1, task: str = "Pendulum-v1") -> Built:
    env = make_vec_env(task, n_envs=n_envs, seed=0)
    averaged = AveragedActor(20)
    agent = agent_on(SAC, env, replay_buffer_class=MixedReplayBuffer)
    return Built(agent, [averaged, WithAveragedActor(averaged, dyna(env)), ActWithAverage(averaged)])


def dqn() -> Built:
    env = make_vec_env("CartPole-v1", seed=0)
    agent = agent_on(DQN, env, replay_buffer_class=MixedReplayBuffer, target_update_interval=70, train_freq=2)
    evaluation = EvalCallback(make_vec_env("CartPole-v1", seed=7), n_eval_episodes=1, eval_freq=60, verbose=0)
    gated = replace(RARE, gate=GateConfig(quantile=0.8, of="first_steps"))
    return Built(agent, [dyna(env, gated), evaluation])


def td3_with_coloured_noise() -> Built:
    env = make_vec_env("Pendulum-v1", seed=0)
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))
    agent = agent_on(TD3, env, replay_buffer_class=MixedReplayBuffer, action_noise=noise)
    return Built(agent, [dyna(env)])


def crossq_normalized() -> Built:
    env = VecNormalize(make_vec_env("Pendulum-v1", seed=0))
    return Built(agent_on(CrossQ, env, replay_buffer_class=MixedReplayBuffer), [dyna(env)])


def tqc_with_gsde_and_no_model() -> Built:
    env = make_vec_env("Pendulum-v1", seed=0)
    return Built(agent_on(TQC, env, use_sde=True, sde_sample_freq=7, train_freq=5), [])


def ppo_with_gsde() -> Built:
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    kwargs = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "n_steps": 16, "batch_size": 16, "n_epochs": 2}
    return Built(PPO("MlpPolicy", env, use_sde=True, **kwargs), [])


def sbx(name: str, **kwargs: Any) -> Built:
    module = pytest.importorskip("sbx")
    env = make_vec_env("Pendulum-v1", seed=0)
    averaged = AveragedActor(20)
    agent = agent_on(getattr(module, name), env, replay_buffer_class=MixedReplayBuffer, **kwargs)
    return Built(agent, [averaged, dyna(env)])


@pytest.mark.parametrize(
    "build",
    [
        lambda: sac_with_average(2),
        dqn,
        pytest.param(sac_with_average, marks=pytest.mark.slow),
        pytest.param(lambda: sac_with_average(task="InvertedPendulum-v5"), marks=pytest.mark.slow),
        pytest.param(td3_with_coloured_noise, marks=pytest.mark.slow),
        pytest.param(crossq_normalized, marks=pytest.mark.slow),
        pytest.param(tqc_with_gsde_and_no_model, marks=pytest.mark.slow),
    ],
    ids=["SAC, 2 environments", "DQN", "SAC", "SAC, MuJoCo", "TD3", "CrossQ", "TQC"],
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path: Path, build: Callable[[], Built]) -> None:
    whole = run(tmp_path / "whole", build, STEPS)
    killed = run(tmp_path / "killed", build, STEPS, KILLS)
    assert killed.restored_to == RESTORED
    assert list(differences(whole.state, killed.state)) == []
    assert [step for step, _ in whole.rows] == [step for step, _ in killed.rows]
    assert list(differences([row for _, row in whole.rows], [row for _, row in killed.rows])) == []


def test_a_run_of_one_step_less_differs(tmp_path: Path) -> None:
    """So that the comparison of this file is one that can fail."""
    whole, shorter = (run(tmp_path / str(steps), dqn, steps).state for steps in (62, 60))
    places = list(differences(shorter, whole))
    for part in ("/agent/networks/policy/", "/replay/real/observations", "/replay/rows_stream", "/env/", "/streams/"):
        assert any(place.startswith(part) for place in places), part


def test_an_on_policy_run_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", ppo_with_gsde, 320, every=64)
    killed = run(tmp_path / "killed", ppo_with_gsde, 320, (100, 301), every=64)
    assert killed.restored_to == [0, 64, 256]
    assert list(differences(whole.state, killed.state)) == []
    names = [{key for key in row if key != "time/iterations"} for _, row in whole.rows]
    for name, (_, one), (_, other) in zip(names, whole.rows, killed.rows, strict=True):
        assert list(differences({key: one[key] for key in name}, {key: other[key] for key in name})) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["CrossQ", "SAC", "TQC", "TD3"])
def test_an_agent_in_jax_that_was_killed_ends_as_one_that_was_not(tmp_path: Path, name: str) -> None:
    whole = run(tmp_path / "whole", lambda: sbx(name, gradient_steps=2), STEPS)
    killed = run(tmp_path / "killed", lambda: sbx(name, gradient_steps=2), STEPS, KILLS)
    assert killed.restored_to == RESTORED
    assert list(differences(whole.state, killed.state)) == []
    assert list(differences([row for _, row in whole.rows], [row for _, row in killed.rows])) == []


def test_saving_changes_nothing(tmp_path: Path) -> None:
    agent, callbacks = sac_with_average()
    agent.learn(80, callback=callbacks)
    streams = global_stream_states()
    saved, callbacks = sac_with_average()
    saved.learn(80, callback=[*callbacks, RunCheckpoint(tmp_path, every=10)])
    assert global_stream_states() == streams
    for one, other in zip(agent.policy.parameters(), saved.policy.parameters(), strict=True):
        assert one.equal(other)


class Hidden(gymnasium.Wrapper):
    """Keeps part of its state where nobody finds it."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        count = iter(range(10**6))
        self.number = lambda: next(count)

    def step(self, action: Any) -> Any:
        self.number()
        return super().step(action)


def test_an_environment_that_cannot_be_exported_begins_a_new_episode(tmp_path: Path) -> None:
    def build() -> Built:
        env = make_vec_env(lambda: Hidden(gymnasium.make("Pendulum-v1")), seed=0)
        return Built(agent_on(SAC, env, replay_buffer_class=MixedReplayBuffer), [dyna(env)])

    agent, callbacks = build()
    checkpoint = RunCheckpoint(tmp_path, every=50)
    with (
        pytest.warns(UserWarning, match="cannot be exported .* so a run that is resumed begins a new episode"),
        pytest.raises(Kill),
    ):
        agent.learn(200, callback=[*callbacks, checkpoint, KillAt(130)])
    checkpoint.release()
    resumed, callbacks = build()
    checkpoint = RunCheckpoint(tmp_path, every=50)
    assert checkpoint.restore(resumed, callbacks) == 100
    with pytest.warns(UserWarning, match="cannot be exported"):
        resumed.learn(60, callback=[*callbacks, checkpoint], reset_num_timesteps=False)
    first = resumed.replay_buffer.observations[:, 0]
    assert resumed.replay_buffer.num_real == 160
    assert not np.array_equal(first[100], resumed.replay_buffer.next_observations[99, 0])
    assert not np.array_equal(first[100], first[0])  # not the run's first start once more


def trained(folder: Path) -> None:
    agent, callbacks = sac_with_average()
    agent.learn(110, callback=[*callbacks, RunCheckpoint(folder, every=50)])


def test_a_folder_with_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    trained(tmp_path)
    agent, callbacks = sac_with_average()
    with pytest.raises(ValueError, match=r"has checkpoints of a run at steps \[50, 100\]: call restore"):
        agent.learn(10, callback=[*callbacks, RunCheckpoint(tmp_path)])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    checkpoint = RunCheckpoint(tmp_path)
    agent, callbacks = sac_with_average()
    with pytest.raises(ValueError, match="saved with the callbacks .* give the same ones, each built as it was"):
        checkpoint.restore(agent, callbacks[:1])
    with pytest.raises(ValueError, match="its env is 'Pendulum-v1', and this one's 'InvertedPendulum-v5'"):
        checkpoint.restore(*sac_with_average(task="InvertedPendulum-v5"))
    with pytest.raises(ValueError, match="its agent is 'SAC', and this one's 'TD3'"):
        checkpoint.restore(*td3_with_coloured_noise())
    other = agent_on(SAC, make_vec_env("Pendulum-v1", seed=0), replay_buffer_class=MixedReplayBuffer, buffer_size=100)
    with pytest.raises(ValueError, match="keeps 200 steps and this one 100"):
        checkpoint.restore(other, sac_with_average().callbacks)
    with pytest.raises(ValueError, match=r"learn\(\) begins at 0: pass reset_num_timesteps=False"):
        agent.learn(10, callback=[*callbacks, restored(checkpoint, agent, callbacks)])


def restored(checkpoint: RunCheckpoint, agent: BaseAlgorithm, callbacks: list[Any]) -> RunCheckpoint:
    assert checkpoint.restore(agent, callbacks) == 100
    return checkpoint


def test_a_child_of_another_callback_is_refused(tmp_path: Path) -> None:
    agent, _ = tqc_with_gsde_and_no_model()
    with pytest.raises(ValueError, match="never forwards the start of a rollout"):
        agent.learn(10, callback=EveryNTimesteps(5, RunCheckpoint(tmp_path)))


def test_a_full_disk_is_said_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, callbacks = tqc_with_gsde_and_no_model()
    checkpoint = RunCheckpoint(tmp_path, every=20)
    whole = checkpoint.checkpoints.save

    def save(step: int, *args: Any, **kwargs: Any) -> Path:
        if 40 <= step < 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(step, *args, **kwargs)

    monkeypatch.setattr(checkpoint.checkpoints, "save", save)
    with pytest.warns(UserWarning, match="No space left on device. The run goes on without") as said:
        agent.learn(70, callback=[*callbacks, checkpoint])
    assert len([each for each in said if "No space" in str(each.message)]) == 1
    assert (checkpoint.checkpoints.steps(), agent.num_timesteps) == ([20, 60], 70)


def test_a_second_learn_and_a_buffer_from_elsewhere_are_kept_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only shards with new slots are written, and a buffer that was loaded has nothing but new ones."""
    monkeypatch.setattr(ring_shards, "MAX_ROWS", 16)
    agent, _ = tqc_with_gsde_and_no_model()
    checkpoint = RunCheckpoint(tmp_path, every=1000)

    def rows_when_saved() -> np.ndarray:
        checkpoint.save()
        found = RunCheckpoints(tmp_path).load()
        assert found is not None
        ring = found.state["run"]["replay"]["real"]
        assert ring.written % ring.capacity == agent.replay_buffer.pos
        return np.asarray(ring.columns["observations"])

    for steps in (330, 5, 70, 5):  # a buffer of 200
        agent.learn(steps, callback=checkpoint, reset_num_timesteps=False)
        np.testing.assert_array_equal(rows_when_saved(), agent.replay_buffer.observations)
    agent.save_replay_buffer(tmp_path / "rows")
    agent.load_replay_buffer(tmp_path / "rows")
    agent.replay_buffer.observations[99] += 1  # not all rows of a shard are compared
    for _ in range(3):
        agent.learn(5, callback=checkpoint, reset_num_timesteps=False)
        np.testing.assert_array_equal(rows_when_saved(), agent.replay_buffer.observations)
