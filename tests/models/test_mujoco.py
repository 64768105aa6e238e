"""``MujocoModel`` against the environments' own steps: equal to the last bit, and the environments left alone."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers import MujocoModel
from mbrl_wrappers.rows import num_rows, take_rows
from tests.models.simulators import FAST, TASKS, actions, assert_same, generator, rows, start


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
