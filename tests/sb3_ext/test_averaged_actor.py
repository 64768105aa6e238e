"""The average of an actor: its values, its transparency, its files, and whom it refuses."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ext import AveragedActor
from tests.sb3_ext.averaged_agents import (
    TRAINED,
    UNTRAINED,
    Recorder,
    Script,
    acting_arrays,
    assert_all_equal,
    averaged_arrays,
    build,
    env_of,
    everything,
    fill,
    is_jax,
)


@pytest.mark.parametrize(
    ("n_envs", "average_steps", "values", "expected"),
    [
        (1, 4, [8.0, 4.0], 2.5),  # 2, and a quarter of the way from there to 4
        # Two environments: a call is two steps, so its weight is 1 - (1 - 1/2)^2 = 3/4.
        (2, 2, [4.0, 7.0], 6.0),  # 3, and three quarters of the way from there to 7
        (1, 1, [5.0, 3.0], 3.0),  # the actor itself
    ],
)
@pytest.mark.parametrize("name", ["SAC", "CrossQ"])
def test_hand_computed_averages(
    name: str, n_envs: int, average_steps: int, values: list[float], expected: float
) -> None:
    agent, averaged = build(name, n_envs=n_envs, learning_starts=1000), AveragedActor(average_steps)
    fill(agent, 0.0)
    agent.learn(n_envs * len(values), callback=[Script(values), averaged])
    assert_all_equal(averaged, expected, counter=values[-1])


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_hand_computed_average_of_each_agent_is_resumed(name: str, tmp_path: Path) -> None:
    agent, averaged = build(name, learning_starts=1000), AveragedActor(2)
    fill(agent, 0.0)
    agent.learn(2, callback=[Script([1.0, 1.0]), averaged])
    assert_all_equal(averaged, 0.75, counter=1.0)  # half of the way to 1, half of the rest
    np.savez(tmp_path / "average.npz", **averaged.state_dict())
    resumed = AveragedActor(2)
    with np.load(tmp_path / "average.npz", allow_pickle=False) as file:
        resumed.load_state_dict(file)
    agent.learn(1, callback=[Script([4.0]), averaged, resumed], reset_num_timesteps=False)
    for each in (averaged, resumed):
        assert_all_equal(each, 2.375, counter=4.0)  # half of the way from 0.75 to 4


class Busy(BaseCallback):
    """Uses the average in every way, in the middle of training."""

    def __init__(self, averaged: AveragedActor) -> None:
        super().__init__()
        self.averaged = averaged

    def _on_step(self) -> bool:
        obs = self.locals["new_obs"]
        self.averaged.predict(obs)
        self.averaged.predict(obs, deterministic=True)
        if self.n_calls % 10 == 0:
            with self.averaged.applied():
                self.model.predict(obs, deterministic=True)
            self.averaged.save(io.BytesIO())
            self.averaged.state_dict()
        return True


class Trained(NamedTuple):
    """One agent trained without the average and one with it."""

    stock: list[np.ndarray]
    beside: list[np.ndarray]
    start: dict[str, np.ndarray]
    agent: Any
    averaged: AveragedActor
    recorder: Recorder


@cache
def trained(name: str) -> Trained:
    alone = build(name)
    compiled = dict(vars(alone.policy)), {key: vars(alone)[key] for key in vars(alone) if key.startswith("ent_coef")}
    alone.learn(40)
    stock = everything(alone)
    agent, averaged, recorder = build(name), AveragedActor(5), Recorder()
    if is_jax(agent.policy):  # begin with the very same immutable states, so that nothing is compiled twice
        vars(agent.policy).update(compiled[0])
        vars(agent).update(compiled[1])
    start = acting_arrays(agent)
    agent.learn(40, callback=[recorder, averaged, Busy(averaged)])
    return Trained(stock, everything(agent), start, agent, averaged, recorder)


@pytest.mark.parametrize("name", TRAINED)
def test_the_agent_ends_bit_equal_to_one_without(name: str) -> None:
    for one, other in zip(trained(name).stock, trained(name).beside, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", TRAINED)
def test_the_average_of_a_training_run(name: str) -> None:
    start, actors = trained(name).start, trained(name).recorder.actors
    expected = {key: value.astype(np.float64) for key, value in start.items()}
    for actor in actors:
        for key, value in actor.items():
            floating = np.issubdtype(value.dtype, np.floating)
            expected[key] = expected[key] + (value - expected[key]) / 5 if floating else value
    assert len(actors) == 40
    assert any((start[key] != value).any() for key, value in actors[-1].items()), "it learned"
    for value, right in zip(averaged_arrays(trained(name).averaged), expected.values(), strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("n_envs", "train_freq"), [(1, 4), (2, 3), (1, (2, "episode")), (3, 1)], ids=lambda value: str(value)
)
def test_real_steps_count_whatever_the_rhythm_of_training(n_envs: int, train_freq: Any) -> None:
    agent = build("SAC", n_envs=n_envs, train_freq=train_freq, gradient_steps=2)
    recorder, averaged = Recorder(), AveragedActor(7)
    expected = acting_arrays(agent)
    agent.learn(60, callback=[recorder, averaged])
    weight = 1 - (6 / 7) ** n_envs
    for actor in recorder.actors:
        expected = {key: value + weight * (actor[key] - value) for key, value in expected.items()}
    assert recorder.steps[-1] == n_envs * len(recorder.steps)
    for value, right in zip(averaged_arrays(averaged), expected.values(), strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-6)


def test_updates_may_be_counted_in_place_of_real_steps() -> None:
    agent = build("SAC", gradient_steps=3)
    recorder, averaged = Recorder(), AveragedActor(7, unit="updates")
    expected = acting_arrays(agent)
    agent.learn(40, callback=[recorder, averaged])
    weight = 1 - (6 / 7) ** 3
    # learning_starts=20: the first training follows step 21, the first new actor acts in step 22.
    for step, actor in zip(recorder.steps, recorder.actors, strict=True):
        if step >= 22:
            expected = {key: value + weight * (actor[key] - value) for key, value in expected.items()}
    assert agent._n_updates == 60
    for value, right in zip(averaged_arrays(averaged), expected.values(), strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-6)


def test_the_average_is_a_copy_until_start_steps() -> None:
    agent = build("SAC", learning_starts=1000)
    averaged = AveragedActor(2, start_steps=3)
    agent.learn(4, callback=[Script([1.0, 9.0, 5.0, 6.0]), averaged])
    for array in averaged_arrays(averaged):
        np.testing.assert_array_equal(array, 5.5)  # a copy at 5, then half of the way to 6


@pytest.mark.parametrize("name", TRAINED)
def test_the_zip_is_an_ordinary_one_that_acts_like_the_average(name: str, tmp_path: Path) -> None:
    agent, averaged = trained(name).agent, trained(name).averaged
    before = acting_arrays(agent)
    averaged.save(tmp_path / "averaged_model.zip")
    for key, value in acting_arrays(agent).items():
        np.testing.assert_array_equal(value, before[key])
    obs = np.random.default_rng(0).uniform(-1, 1, (64, *agent.observation_space.shape)).astype(np.float32)
    loaded = type(agent).load(tmp_path / "averaged_model.zip", device="cpu")
    own = averaged.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], own)
    np.testing.assert_array_equal(averaged.policy.predict(obs, deterministic=True)[0], own)
    with averaged.applied():
        np.testing.assert_array_equal(agent.predict(obs, deterministic=True)[0], own)
    if "DQN" not in name:
        assert (agent.predict(obs, deterministic=True)[0] != own).any()
    assert (loaded.num_timesteps, loaded._n_updates) == (40, 20)


@pytest.mark.parametrize("unit", ["real_steps", "updates"])
def test_an_interrupted_run_ends_with_the_average_of_an_uninterrupted_one(unit: Any, tmp_path: Path) -> None:
    straight = AveragedActor(6, unit=unit)
    agent = build("SAC", gradient_steps=2)
    agent.learn(30, callback=[Script([float(step) for step in range(30)]), straight])
    agent.save(tmp_path / "agent.zip")
    agent.save_replay_buffer(tmp_path / "buffer.pkl")
    state = straight.state_dict()

    def go_on(agent: Any, averaged: AveragedActor) -> list[np.ndarray]:
        second = Script([float(step * step) for step in range(20)])
        agent.learn(20, callback=[second, averaged], reset_num_timesteps=False)
        return averaged_arrays(averaged)

    uninterrupted = go_on(agent, straight)
    loaded = SAC.load(tmp_path / "agent.zip", env=DummyVecEnv([env_of("SAC")]), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    resumed = AveragedActor(6, unit=unit)
    resumed.load_state_dict(state)
    for one, other in zip(uninterrupted, go_on(loaded, resumed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_on_policy_agents_are_refused(cls: type[BaseAlgorithm]) -> None:
    agent = cls("MlpPolicy", env_of("SAC")(), device="cpu")
    with pytest.raises(TypeError, match=f"off-policy agents .*; {cls.__name__} is none"):
        agent.learn(10, callback=AveragedActor())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"average_steps": 0}, "average_steps"),
        ({"average_steps": float("nan")}, "average_steps"),
        ({"unit": "steps"}, "unit must be 'real_steps' or 'updates'"),
        ({"start_steps": -1}, "start_steps"),
    ],
)
def test_settings_that_cannot_work(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AveragedActor(**kwargs)


@pytest.mark.parametrize("name", ["SAC", "sbx.SAC"])
def test_a_saved_average_of_another_network_is_refused(name: str) -> None:
    small, large = AveragedActor(), AveragedActor()
    build(name).learn(2, callback=small)
    build(name, policy_kwargs={"net_arch": [9, 8]}).learn(2, callback=large)
    with pytest.raises(ValueError, match="The saved average is of another network"):
        large.load_state_dict(small.state_dict())
    with pytest.raises(ValueError, match="no state of an AveragedActor: it lacks counted"):
        large.load_state_dict({})


def test_no_training_while_the_average_is_in_the_agents_place() -> None:
    agent, averaged = build("SAC"), AveragedActor()
    agent.learn(2, callback=averaged)
    with averaged.applied(), averaged.applied(), pytest.raises(ValueError, match="before learn"):
        agent.learn(2, callback=averaged)


def test_another_agent_starts_another_average_and_the_same_one_goes_on() -> None:
    averaged = AveragedActor(2)
    first, second = (build("SAC", learning_starts=1000) for _ in range(2))
    fill(first, 0.0)
    fill(second, 10.0)
    first.learn(1, callback=[Script([4.0]), averaged])  # 2
    first.learn(1, callback=[Script([4.0]), averaged])  # 3, though SB3 counts from 0 again
    np.testing.assert_array_equal(averaged_arrays(averaged)[0], 3.0)
    second.learn(1, callback=[Script([11.0]), averaged])
    np.testing.assert_array_equal(averaged_arrays(averaged)[0], 10.5)


def test_gsde_draws_a_new_matrix_for_the_average() -> None:
    agent, averaged = build("SAC", use_sde=True), AveragedActor(5)
    agent.learn(30, callback=averaged)
    obs = np.zeros((2, *agent.observation_space.shape), np.float32)
    assert (averaged.predict(obs)[0] != averaged.predict(obs)[0]).any()


def test_a_reset_of_the_networks_restarts_the_average() -> None:
    class Reset(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 3:  # as at the start of SBX's train()
                fill(self.model, 50.0)
                self.model._maybe_reset_params()
            return True

    agent, averaged, recorder = build("sbx.SAC", learning_starts=100, param_resets=[3]), AveragedActor(4), Recorder()
    fill(agent, 20.0)
    agent.learn(3, callback=[Reset(), recorder, averaged])
    assert agent.reset_idx == 1
    assert abs(recorder.actors[-1]["['params']['params']['Dense_0']['kernel']"]).max() < 20
    for value, right in zip(averaged_arrays(averaged), recorder.actors[-1].values(), strict=True):
        np.testing.assert_array_equal(value, right)
