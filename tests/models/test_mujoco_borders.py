"""``MujocoModel`` where simulations fail, in derivatives, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import SubprocVecEnv

from mbrl_wrappers import MujocoModel, save
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.types import SequenceModel, VectorStateModel
from tests.models.simulators import actions, assert_same, generator, rows, start


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_divergence_is_nan_from_there_on_and_nothing_else(name, tmp_path: Path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = gymnasium.make(name)
    model = MujocoModel(env, threads=2)
    obs, _ = env.reset(seed=0)
    capfd.readouterr()
    (tmp_path / "MUJOCO_LOG.TXT").unlink(missing_ok=True)
    state = model.reset(rows(obs).repeat(3, 1), generator=generator())
    vector = model.state_vector(state).clone()
    vector[1, -3:] = 1e12
    state = model.with_state_vector(state, vector)
    plan = actions(model, 3, 4)
    plan[2, 2] = th.nan
    whole = model.rollout(state, plan, generator=generator())
    failed = th.tensor([[False] * 4, [True] * 4, [False, False, True, True]])
    assert th.equal(whole.next_obs.isnan().all(-1), failed)
    assert th.equal(whole.next_obs.isnan().any(-1), failed)
    assert th.equal(whole.reward.isnan(), failed)
    for t in range(4):
        state, one = model.step(state, plan[:, t], generator=generator())
        assert th.equal(one.reward.isnan(), failed[:, t])
        assert th.equal(one.next_obs.isnan().any(-1), failed[:, t])
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


@pytest.mark.parametrize("frame_skip", [1, 5])
def test_an_action_that_is_no_number_fails_its_own_step(frame_skip):
    env = gymnasium.make("HalfCheetah-v5", frame_skip=frame_skip)
    model = MujocoModel(env)
    assert model.backend == "rollout"
    plan = actions(model, 1, 2)
    plan[0, 1, 3] = th.nan
    whole = model.rollout(start(env, model), plan, generator=generator())
    assert whole.reward.isnan().tolist() == [[False, True]]
    assert whole.next_obs.isnan().any(-1).tolist() == [[False, True]]


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "InvertedPendulum-v5", "Ant-v5", "Reacher-v5"])
def test_the_state_is_a_vector_to_take_derivatives_in(name):
    env = gymnasium.make(name)
    model = MujocoModel(env)
    state = start(env, model)
    data = env.unwrapped.data
    vector = model.state_vector(state)
    assert (vector[0].numpy() == np.concatenate([data.qpos, data.qvel, data.act])).all()
    same = model.with_state_vector(state, vector)
    assert all(th.equal(a, b) for a, b in zip(same[:4], state[:4], strict=True))
    moved = vector.clone()
    moved[0, env.unwrapped.model.nq] += 0.125
    env.unwrapped.set_state(*np.split(moved[0].numpy(), [env.unwrapped.model.nq]))
    shown = model.with_state_vector(state, moved)
    assert th.allclose(shown.obs[0], th.as_tensor(env.unwrapped._get_obs()), rtol=0, atol=1e-12)
    assert (model.state_vector(shown)[0] == moved[0]).all()
    assert (model.state_vector(state)[0] == vector[0]).all()


def test_what_is_observed_of_another_position_is_computed_anew():
    env = gymnasium.make("Reacher-v5")
    model = MujocoModel(env)
    state = start(env, model)
    vector = model.state_vector(state).clone()
    vector[0, 0] += 0.5  # the first joint: the fingertip moves with it
    shown = model.with_state_vector(state, vector)
    env.unwrapped.set_state(*np.split(vector[0].numpy(), [env.unwrapped.model.nq]))
    assert (shown.obs[0].numpy() == env.unwrapped._get_obs()).all()
    assert (shown.obs[0, 8:] - state.obs[0, 8:]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["Reacher-v5", "Ant-v5"])
def test_rows_that_do_not_move_keep_the_observation_that_a_step_led_to(name):
    env = gymnasium.make(name)
    model = MujocoModel(env)
    env.reset(seed=0)
    for _ in range(3):
        obs, *_ = env.step(np.ones(env.action_space.shape, np.float32))
    state = model.reset(rows(obs, obs), generator=generator())
    vector = model.state_vector(state).clone()
    vector[1, 0] += 0.1
    shown = model.with_state_vector(state, vector).obs.numpy()
    assert (shown[0] == obs).all()  # the simulator computed parts of it before it moved on
    assert (shown[1] != obs).any()


def test_finite_differences_are_derivatives():
    env = gymnasium.make("InvertedPendulum-v5")
    model = MujocoModel(env)
    state, step = start(env, model), 1e-6
    action = th.zeros(3, 1, dtype=th.float64)
    action[1:, 0] = th.tensor([step, -step])
    _, predicted = model.step(take_rows(state, th.zeros(3, dtype=th.int64)), action, generator=generator())
    slope = (predicted.next_obs[1] - predicted.next_obs[2]) / (2 * step)
    coarse = action * 1e4
    _, wide = model.step(take_rows(state, th.zeros(3, dtype=th.int64)), coarse, generator=generator())
    wide_slope = (wide.next_obs[1] - wide.next_obs[2]) / (2 * step * 1e4)
    assert slope.abs().min() > 1e-3
    assert th.allclose(slope, wide_slope, rtol=1e-3)


def test_actions_in_double_precision_are_not_rounded():
    env = gymnasium.make("HalfCheetah-v5")
    model = MujocoModel(env)
    state, plan = start(env, model), actions(model, 1, 3, dtype=th.float64)
    whole = model.rollout(state, plan, generator=generator())
    for t in range(3):
        assert_same(whole, env.unwrapped.step(plan[0, t].numpy()), (0, t))


def test_a_time_limit_ends_nothing():
    env = gymnasium.make("HalfCheetah-v5", max_episode_steps=2)
    model = MujocoModel(env)
    whole = model.rollout(start(env, model), actions(model, 1, 5), generator=generator())
    assert not whole.terminated.any()
    assert whole.next_obs.isfinite().all()


@pytest.mark.parametrize("stale", ["stepped", "normalised", "other"])
def test_an_observation_that_no_environment_shows_is_refused(stale):
    env, other = gymnasium.make("Hopper-v5"), gymnasium.make("Hopper-v5")
    model = MujocoModel(env)
    obs, _ = env.reset(seed=0)
    if stale == "stepped":
        env.step(env.action_space.sample())
    elif stale == "normalised":
        obs = (obs - 0.1) / 2
    else:
        obs, _ = other.reset(seed=1)
    with pytest.raises(ValueError, match=r"current observation of none .* VecNormalize"):
        model.reset(rows(obs), generator=generator())
    with pytest.raises(ValueError, match=r"\(B, 11\)"):
        model.reset(th.zeros(2, 4), generator=generator())


def test_other_environments_are_pointed_elsewhere():
    with pytest.raises(TypeError, match="ClonedEnvModel"):
        MujocoModel(gymnasium.make("Pendulum-v1"))
    with pytest.raises(TypeError, match=r"ClipReward.*ClonedEnvModel"):
        MujocoModel(gymnasium.wrappers.ClipReward(gymnasium.make("Hopper-v5"), -1, 1))
    with pytest.raises(TypeError, match="SubprocVecEnv"):
        MujocoModel(object())
    with pytest.raises(TypeError, match="SubprocVecEnv"):
        MujocoModel([])
    with pytest.raises(ValueError, match="same spaces"):
        MujocoModel([gymnasium.make("Hopper-v5"), gymnasium.make("Ant-v5")])
    with pytest.raises(ValueError, match="threads"):
        MujocoModel(gymnasium.make("Hopper-v5"), threads=0)


def test_environments_in_other_processes_are_refused():
    vec = SubprocVecEnv([lambda: gymnasium.make("Pendulum-v1")], start_method="fork")
    try:
        with pytest.raises(TypeError, match="other processes"):
            MujocoModel(vec)
    finally:
        vec.close()


def test_it_satisfies_the_protocols_and_says_why_it_cannot_be_saved(tmp_path: Path):
    model = MujocoModel(gymnasium.make("Hopper-v5"))
    assert isinstance(model, SequenceModel)
    assert isinstance(model, VectorStateModel)
    assert model.exact
    assert model.threads == len(os.sched_getaffinity(0))
    with pytest.raises(TypeError, match="MujocoModel cannot be saved: it is bound to live environments"):
        save(model, tmp_path / "model")  # type: ignore[arg-type]
