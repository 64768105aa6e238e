"""``MujocoModel`` against the environments' own steps: equal to the last bit, and the environments left alone."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from mbrl_wrappers import MujocoModel, save
from mbrl_wrappers.rows import num_rows, take_rows
from mbrl_wrappers.types import SequenceModel, VectorStateModel

FAST = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "InvertedPendulum-v5")
SHADOWED = ("Ant-v5", "Humanoid-v5", "HumanoidStandup-v5", "InvertedDoublePendulum-v5", "Pusher-v5", "Reacher-v5")
TASKS = FAST + SHADOWED


def generator() -> th.Generator:
    return th.Generator().manual_seed(0)


def rows(*obs) -> th.Tensor:
    return th.as_tensor(np.stack(obs)).float()


def start(env, model, seed=0):
    obs, _ = env.reset(seed=seed)
    return model.reset(rows(obs), generator=generator())


def actions(model, *shape, seed=0, dtype=th.float32) -> th.Tensor:
    rng = np.random.default_rng(seed)
    return th.as_tensor(rng.uniform(-1, 1, (*shape, model.codec.size)), dtype=dtype)


def assert_same(prediction, truth, at) -> None:
    obs, reward, terminated, *_ = truth
    assert prediction.next_obs[at].dtype == prediction.reward.dtype == th.float64
    assert (prediction.next_obs[at].numpy() == obs).all()
    assert prediction.reward[at].item() == reward
    assert bool(prediction.terminated[at]) == terminated


@pytest.mark.parametrize("name", TASKS)
def test_a_hundred_random_steps_are_equal_in_every_bit_both_ways(name):
    env = gymnasium.make(name)
    model = MujocoModel(env, threads=2)
    assert model.backend == ("rollout" if name in FAST else "env")
    steps = begun = 0
    while steps < 100:
        state = start(env, model, seed=begun)
        plan = actions(model, 1, 100 - steps, seed=begun)
        whole = model.rollout(state, plan, generator=generator())
        for t in range(100 - steps):
            state, one = model.step(state, plan[:, t], generator=generator())
            truth = env.step(model.codec.to_env(plan[:, t])[0])
            assert_same(one, truth, 0)
            assert_same(whole, truth, (0, t))
            assert (state.obs[0].numpy() == truth[0]).all()
            steps += 1
            if truth[2]:
                break
        begun += 1


@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"])
@pytest.mark.parametrize("before", [1, 30])
def test_it_is_exact_from_the_middle_of_an_episode(name, before):
    env = gymnasium.make(name, terminate_when_unhealthy=False)
    model = MujocoModel(env)
    env.reset(seed=3)
    taken = np.random.default_rng(1).uniform(-1, 1, (before, model.codec.size)).astype(np.float32)
    for action in taken:
        obs, *_ = env.step(action)
    state, plan = model.reset(rows(obs), generator=generator()), actions(model, 1, 10)
    whole = model.rollout(state, plan, generator=generator())
    for t in range(10):
        state, one = model.step(state, plan[:, t], generator=generator())
        truth = env.step(model.codec.to_env(plan[:, t])[0])
        assert_same(whole, truth, (0, t))
        assert_same(one, truth, 0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("HalfCheetah-v5", {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 1}),
        ("Hopper-v5", {"terminate_when_unhealthy": False, "healthy_z_range": (1.2, 1.3), "healthy_reward": 2}),
        ("Walker2d-v5", {"healthy_angle_range": (-0.05, 0.05), "forward_reward_weight": 3.0}),
        ("Swimmer-v5", {"exclude_current_positions_from_observation": False}),
    ],
)
def test_constants_of_the_live_environment_are_used(name, changes):
    env = gymnasium.make(name, **changes)
    model = MujocoModel(env)
    assert model.backend == "rollout"
    state, plan = start(env, model), actions(model, 1, 30)
    whole = model.rollout(state, plan, generator=generator())
    for t in range(30):
        truth = env.step(model.codec.to_env(plan[:, t])[0])
        assert_same(whole, truth, (0, t))
        if truth[2]:
            break


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Reacher-v5"])
def test_rows_do_not_depend_on_each_other_nor_on_threads(name):
    env = gymnasium.make(name)
    one, two = MujocoModel(env, threads=1), MujocoModel(env, threads=2)
    obs, _ = env.reset(seed=0)
    plan = actions(one, 13, 4)
    state = one.reset(rows(obs).repeat(13, 1), generator=generator())
    whole, other = (model.rollout(state, plan, generator=generator()) for model in (one, two))
    for row in (0, 5, 12):
        alone = one.rollout(take_rows(state, th.tensor([row])), plan[row : row + 1], generator=generator())
        for field, field_other, field_alone in zip(whole, other, alone, strict=True):
            assert th.equal(field, field_other)
            assert th.equal(field[row], field_alone[0])


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_several_environments_are_told_apart_by_their_observations(name):
    envs = [gymnasium.make(name) for _ in range(3)]
    shown = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
    model = MujocoModel(envs)
    order = [2, 0, 0, 1, 2]
    state = model.reset(rows(*(shown[number] for number in order)), generator=generator())
    assert state.source.tolist() == order
    plan = actions(model, 5, 2)
    whole = model.rollout(state, plan, generator=generator())
    for row in (0, 2, 3):
        for t in range(2):
            assert_same(whole, envs[order[row]].step(model.codec.to_env(plan[row : row + 1, t])[0]), (row, t))


def test_equal_observations_go_by_blocks_and_else_to_the_first():
    envs = [gymnasium.make("HalfCheetah-v5") for _ in range(2)]
    shown = [env.reset(seed=0)[0] for env in envs]
    envs[1].unwrapped.data.qpos[0] += 5.0  # where the robot stands is not observed
    model = MujocoModel(envs)
    state = model.reset(rows(*shown, *shown), generator=generator())
    assert state.source.tolist() == [0, 0, 1, 1]
    state = model.reset(rows(*shown, shown[0]), generator=generator())
    assert state.source.tolist() == [0, 0, 0]


def test_vector_environments_of_this_process_are_understood():
    vec = DummyVecEnv([lambda: Monitor(gymnasium.make("Hopper-v5"))] * 2)
    vec.seed(1)
    obs = vec.reset()
    model = MujocoModel(vec)
    state = model.reset(th.as_tensor(obs).float(), generator=generator())
    plan = actions(model, 2)
    _, predicted = model.step(state, plan, generator=generator())
    truth, *_ = vec.step(model.codec.to_env(plan))
    assert (predicted.next_obs.numpy() == truth).all()
    sync = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("Hopper-v5")] * 2)
    obs, _ = sync.reset(seed=0)
    assert num_rows(MujocoModel(sync).reset(th.as_tensor(obs).float(), generator=generator())) == 2


def everything(env) -> list[np.ndarray]:
    base = env.unwrapped
    data = base.data
    named = ("qpos", "qvel", "act", "ctrl", "qacc_warmstart", "xpos", "xipos", "cfrc_ext", "site_xpos", "qacc")
    numbers = [np.array([data.time, env.get_wrapper_attr("_elapsed_steps"), *data.warning.number])]
    stream = repr(base.np_random.bit_generator.state), repr(base.action_space.np_random.bit_generator.state)
    return [*(getattr(data, name).copy() for name in named), *numbers, base.model.body_mass.copy(), np.array(stream)]


class Counting(HopperEnv):
    """A class that is not known: it counts its steps, draws noise and pays for what it remembers."""

    def __init__(self) -> None:
        self.count, self.seen = 0, []
        super().__init__()

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.count += 1
        self.seen.append(float(obs[0]))
        return obs, reward + self.count + self.seen[0], terminated, truncated, info

    def reset_model(self):
        self.count, self.seen = 100, []
        return super().reset_model()


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5", "Counting"])
def test_the_live_environment_is_left_alone(name):
    env = gymnasium.wrappers.TimeLimit(Counting(), 50) if name == "Counting" else gymnasium.make(name)
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(3):
        obs, *_ = env.step(env.action_space.sample())
    before = everything(env)
    model = MujocoModel(env, threads=2)
    state = model.reset(rows(obs).repeat(4, 1), generator=generator())
    model.step(state, actions(model, 4), generator=generator())
    model.rollout(state, actions(model, 4, 5), generator=generator())
    model.with_state_vector(state, model.state_vector(state) + 0.01)
    assert all(np.array_equal(a, b) for a, b in zip(before, everything(env), strict=True))


def test_attributes_that_steps_change_belong_to_the_row():
    env = Counting()
    model = MujocoModel(env)
    assert model.backend == "env"
    state, plan = start(env, model), actions(model, 1, 4)
    for _ in range(2):  # a second time, for the first must not have moved the state
        whole = model.rollout(state, plan, generator=generator())
        assert whole.reward[0, 0] > 101
    later = state
    for t in range(4):
        later, one = model.step(later, plan[:, t], generator=generator())
        truth = env.step(model.codec.to_env(plan[:, t])[0])
        assert_same(whole, truth, (0, t))
        assert_same(one, truth, 0)
        assert env.count == 101 + t


def test_the_fast_way_is_dropped_when_it_is_not_the_environments_own():
    env = gymnasium.make("HalfCheetah-v5")
    env.unwrapped.control_cost = lambda action: 7.0
    model = MujocoModel(env)
    assert model.backend == "env"
    state, plan = start(env, model), actions(model, 1, 2)
    assert_same(model.rollout(state, plan, generator=generator()), env.step(model.codec.to_env(plan[:, 0])[0]), (0, 0))


def test_forces_applied_by_the_user_are_part_of_the_state():
    env = gymnasium.make("HalfCheetah-v5")
    model = MujocoModel(env)
    obs, _ = env.reset(seed=0)
    plan = actions(model, 1, 3)
    without = model.rollout(model.reset(rows(obs), generator=generator()), plan, generator=generator())
    env.unwrapped.data.xfrc_applied[1, 2] = 50.0
    whole = model.rollout(model.reset(rows(obs), generator=generator()), plan, generator=generator())
    assert not th.equal(without.next_obs, whole.next_obs)
    for t in range(3):
        assert_same(whole, env.step(model.codec.to_env(plan[:, t])[0]), (0, t))


def test_another_model_of_the_live_environment_is_followed():
    env = gymnasium.make("Reacher-v5")
    model = MujocoModel(env)
    env.unwrapped.model.body_mass[1:] *= 3.0
    state, plan = start(env, model), actions(model, 1, 1)
    assert_same(model.rollout(state, plan, generator=generator()), env.step(model.codec.to_env(plan[:, 0])[0]), (0, 0))


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_another_weight_in_the_live_environment_is_followed(name):
    env = gymnasium.make(name)
    model = MujocoModel(env)
    backend, shadow = model.backend, model._shadow
    start(env, model)
    assert model._shadow is shadow  # a reset of the environment changes no constant
    env.unwrapped._ctrl_cost_weight = 5.0
    state, plan = start(env, model), actions(model, 1, 1)
    whole = model.rollout(state, plan, generator=generator())
    assert_same(whole, env.step(model.codec.to_env(plan[:, 0])[0]), (0, 0))
    assert model.backend == backend


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
