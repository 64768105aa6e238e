"""``MujocoModel`` of environments that differ, that are changed later, and of classes with ideas of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch as th
from gymnasium.envs.mujoco import half_cheetah_v5
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from mbrl_wrappers import MujocoModel
from mbrl_wrappers.models.live_envs import match_rows
from tests.models.simulators import FAST, actions, assert_same, generator, rows


def assert_follows(model: MujocoModel, envs: list[Any], horizon: int = 3, seed: int = 0) -> None:
    """Rollouts and steps from the present of all environments equal the environments' own steps, which are taken."""
    shown = [env.reset(seed=number)[0] for number, env in enumerate(envs)]
    state = model.reset(rows(*shown), generator=generator())
    plan = actions(model, len(envs), horizon, seed=seed)
    whole, alive = model.rollout(state, plan, generator=generator()), [True] * len(envs)
    for t in range(horizon):
        state, one = model.step(state, plan[:, t], generator=generator())
        for number, env in enumerate(envs):
            if alive[number]:
                truth = env.step(model.codec.to_env(plan[number : number + 1, t])[0])
                assert_same(whole, truth, (number, t))
                assert_same(one, truth, number)
                alive[number] = not truth[2]


@pytest.mark.parametrize("name", [*FAST, "Reacher-v5"])
def test_environments_of_different_frame_skips_keep_their_own(name):
    envs = [gymnasium.make(name, frame_skip=skip) for skip in (2, 4)]
    assert_follows(MujocoModel(envs), envs)


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "HalfCheetah-v5", "Ant-v5"])
def test_environments_of_different_timesteps_keep_their_own(name):
    envs = [gymnasium.make(name) for _ in range(2)]
    envs[1].unwrapped.model.opt.timestep /= 2
    assert_follows(MujocoModel(envs), envs)


def test_environments_of_different_masses_go_the_fast_way():
    envs = [gymnasium.make("Hopper-v5") for _ in range(3)]
    envs[1].unwrapped.model.body_mass[1:] *= 2
    envs[2].unwrapped.model.opt.gravity[2] = -3
    model = MujocoModel(envs)
    assert model.backend == "rollout"
    assert_follows(model, envs)


def test_robots_of_different_sizes_keep_their_own(tmp_path: Path):
    assets = Path(str(half_cheetah_v5.__file__)).parent / "assets"
    text = (assets / "half_cheetah.xml").read_text()
    wheel = '<geom name="wheel" pos="0 0 0.5" size="0.1" type="sphere"/><site name="mark" pos="0 0 1"/>'
    assert "<geom axisangle" in text
    (tmp_path / "other.xml").write_text(text.replace("<geom axisangle", wheel + "<geom axisangle", 1))
    envs = [gymnasium.make("HalfCheetah-v5"), gymnasium.make("HalfCheetah-v5", xml_file=str(tmp_path / "other.xml"))]
    for order in (envs, envs[::-1]):
        model = MujocoModel(order)
        assert model.backend == "env"
        assert_follows(model, order)


@pytest.mark.parametrize(
    "part",
    [
        '<equality><joint joint1="bthigh" joint2="fthigh"/></equality>',
        '<worldbody><body name="ball" mocap="true" pos="0.4 0 0.6"><geom size="0.1" contype="1"/></body></worldbody>',
    ],
)
def test_what_a_rollout_would_reset_goes_the_slow_way(tmp_path: Path, part):
    assets = Path(str(half_cheetah_v5.__file__)).parent / "assets"
    text = (assets / "half_cheetah.xml").read_text()
    (tmp_path / "other.xml").write_text(text.replace("</mujoco>", part + "</mujoco>"))
    env = gymnasium.make("HalfCheetah-v5", xml_file=str(tmp_path / "other.xml"))
    model = MujocoModel(env)
    assert model.backend == "env"
    env.unwrapped.data.eq_active[:] = 0
    env.unwrapped.data.mocap_pos[:] += 0.1
    assert_follows(model, [env])


def test_activations_of_actuators_belong_to_the_state(tmp_path: Path):
    assets = Path(str(half_cheetah_v5.__file__)).parent / "assets"
    text = (assets / "half_cheetah.xml").read_text().replace("<motor gear", '<general dyntype="filter" gear', 1)
    (tmp_path / "slow.xml").write_text(text)
    env = gymnasium.make("HalfCheetah-v5", xml_file=str(tmp_path / "slow.xml"))
    assert env.unwrapped.model.na == 1
    model = MujocoModel(env)
    assert_follows(model, [env])
    data = env.unwrapped.data
    state = model.reset(rows(env.unwrapped._get_obs()), generator=generator())
    vector = model.state_vector(state)
    assert vector[0].tolist() == [*data.qpos, *data.qvel, *data.act]
    assert data.act[0] != 0
    moved = vector.clone()
    moved[0, -1] = 0.25
    data.act[0] = 0.25
    _, one = model.step(model.with_state_vector(state, moved), th.zeros(1, 6), generator=generator())
    assert_same(one, env.step(np.zeros(6, np.float32)), 0)


@pytest.mark.parametrize("second", [False, True])
def test_a_method_replaced_in_one_environment_alone_is_noticed(second):
    envs = [gymnasium.make("HalfCheetah-v5") for _ in range(2)]
    envs[second].unwrapped.control_cost = lambda action: 7.0
    model = MujocoModel(envs)
    assert model.backend == "env"
    assert_follows(model, envs)


def _timestep(env: Any) -> None:
    env.model.opt.timestep /= 2


def _frame_skip(env: Any) -> None:
    env.frame_skip = 3


def _range_in_a_list(env: Any) -> None:
    env._healthy_z_range = [1.24, 2.0]
    env._healthy_z_range[0] = 1.26


def _range_changed_inside(env: Any) -> None:
    env._healthy_z_range[0] = 1.26


def _weight_as_numpy(env: Any) -> None:
    env._forward_reward_weight = np.float64(3.5)


def _weight_in_an_array(env: Any) -> None:
    env._healthy_reward = np.array(2.5)


def _reset_noise(env: Any) -> None:
    env._reset_noise_scale = 0.02


def _gravity(env: Any) -> None:
    env.model.opt.gravity[2] = -2.0


def _integrator(env: Any) -> None:
    env.model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST


def _mass(env: Any) -> None:
    env.model.body_mass[1:] *= 3


def _gear(env: Any) -> None:
    env.model.actuator_gear[:, 0] *= 2


def _ctrl_range(env: Any) -> None:
    env.model.actuator_ctrlrange[:] *= 0.5


def _method(env: Any) -> None:
    env.control_cost = lambda action: 7.0


def _another_model(env: Any) -> None:
    env.model, env.data = mujoco.MjModel.from_xml_path(env.fullpath), None
    env.model.body_mass[1:] *= 2
    env.data = mujoco.MjData(env.model)


CHANGES = (
    *(_timestep, _frame_skip, _range_in_a_list, _range_changed_inside, _weight_as_numpy, _weight_in_an_array),
    *(_reset_noise, _gravity, _integrator, _mass, _gear, _ctrl_range, _method, _another_model),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["Hopper-v5", "Ant-v5"])
def test_what_changes_in_a_live_environment_is_followed_from_the_next_reset_on(name, change):
    if name == "Ant-v5" and change in (_range_in_a_list, _range_changed_inside):
        env = gymnasium.make(name, healthy_z_range=[0.74, 1.0])
    else:
        env = gymnasium.make(name, healthy_z_range=[0.7, 2.0])
    model = MujocoModel(env)
    assert_follows(model, [env])
    change(env.unwrapped)
    assert_follows(model, [env], seed=1)


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Ant-v5"])
def test_an_action_space_that_changes_is_an_error(name):
    env = gymnasium.make(name)
    obs, _ = env.reset(seed=0)
    model = MujocoModel(env)
    env.unwrapped.action_space = gymnasium.spaces.Box(-2, 2, env.action_space.shape, np.float32)
    with pytest.raises(ValueError, match="spaces of .* have changed"):
        model.reset(rows(obs), generator=generator())


class Own(HopperEnv):
    """A class that is not known."""


class Truncating(Own):
    """Ends by a truncation after three steps and cannot be stepped any further."""

    def reset_model(self):
        self.count = 0
        return super().reset_model()

    def step(self, action):
        self.count += 1
        assert self.count <= 3, "stepped past its end"
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, self.count == 3, info


def test_an_environment_that_truncates_itself_is_not_stepped_past_its_end():
    env = gymnasium.wrappers.TimeLimit(Truncating(), 2)
    obs, _ = env.reset(seed=0)
    model = MujocoModel(env)
    state, plan = model.reset(rows(obs, obs), generator=generator()), actions(model, 2, 5)
    whole = model.rollout(state, plan, generator=generator())
    assert not whole.terminated.any()
    assert (whole.reward[:, :3] != 0).all()
    assert (whole.reward[:, 3:] == 0).all()
    assert (whole.next_obs[:, 3:] == whole.next_obs[:, 2:3]).all()
    assert (whole.next_obs[:, 2] != whole.next_obs[:, 1]).any()
    for t in range(5):
        state, one = model.step(state, plan[:, t], generator=generator())
        assert th.equal(one.next_obs, whole.next_obs[:, t])
        assert th.equal(one.reward, whole.reward[:, t])
        assert state.truncated.tolist() == [t >= 2] * 2
    for t in range(3):
        assert_same(whole, env.step(model.codec.to_env(plan[:1, t])[0]), (0, t))


class OwnStream(Own):
    """Noise from a stream of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)
        super().__init__()

    def step(self, action):
        return super().step(action + 0.1 * self.draw())

    def draw(self) -> float:
        return self.rng.random()


class GlobalStream(OwnStream):
    def draw(self) -> float:
        return np.random.random()  # noqa: NPY002


class Gymnasiums(OwnStream):
    def draw(self) -> float:
        return self.np_random.random()


@pytest.mark.parametrize("kind", [OwnStream, GlobalStream, Gymnasiums])
def test_noise_is_drawn_anew_for_each_row_and_the_live_streams_stay(kind):
    np.random.seed(1)  # noqa: NPY002
    env = kind()
    obs, _ = env.reset(seed=0)
    before = str((env.rng.bit_generator.state, env.np_random.bit_generator.state, np.random.get_state()))  # noqa: NPY002
    model = MujocoModel(env)
    state = model.reset(rows(*[obs] * 5), generator=generator())
    plan = actions(model, 1, 2).expand(5, -1, -1)
    one, again = (model.rollout(state, plan, generator=generator()).next_obs for _ in range(2))
    other = model.rollout(state, plan, generator=th.Generator().manual_seed(1)).next_obs
    _, single = model.step(state, plan[:, 0], generator=generator())
    assert th.equal(one, again)
    assert not th.equal(one, other)
    for shown in (one[:, 0], single.next_obs):
        assert len(shown.unique(dim=0)) == 5
    assert str((env.rng.bit_generator.state, env.np_random.bit_generator.state, np.random.get_state())) == before  # noqa: NPY002
    real = th.as_tensor(env.step(model.codec.to_env(plan[:1, 0])[0])[0])
    assert not (one[:, 0] == real).all(1).any()


class HeavierEachStep(Own):
    def step(self, action):
        self.model.body_mass[1:] *= 1.1
        return super().step(action)


class PaysForContacts(Own):
    def step(self, action):
        before = self.data.ncon
        obs, reward, *rest = super().step(action)
        return obs, reward + 10 * before, *rest

    def reset_model(self):
        super().reset_model()
        self.set_state(self.init_qpos - np.eye(self.model.nq)[1] * 0.02, self.init_qvel)
        return self._get_obs()


@pytest.mark.parametrize("kind", [HeavierEachStep, PaysForContacts])
def test_what_snapshots_do_not_hold_is_refused(kind):
    env = kind()
    env.reset(seed=0)
    before = env.model.body_mass.copy()
    with pytest.raises(TypeError, match=r"does not follow .*env.model.*ClonedEnvModel"):
        MujocoModel(env)
    with pytest.raises(TypeError, match="does not follow"):
        MujocoModel([Own(), env])
    assert (env.model.body_mass == before).all()


class Adding(Own):
    """Steps add an attribute and look whether it is there."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        reward += 5.0 if hasattr(self, "late") else 0.0
        self.late = True
        return obs, reward, *rest

    def reset_model(self):
        vars(self).pop("late", None)
        return super().reset_model()


def test_an_attribute_that_a_step_adds_belongs_to_the_row():
    env = Adding()
    assert_follows(MujocoModel(env), [env])
    obs, _ = env.reset(seed=0)
    model = MujocoModel(env)
    state, plan = model.reset(rows(obs, obs), generator=generator()), actions(model, 1, 3).expand(2, -1, -1)
    whole = model.rollout(state, plan, generator=generator())
    assert whole.reward[0].tolist() == whole.reward[1].tolist()
    assert whole.reward[0, 1] - whole.reward[0, 0] > 4


class Counted(Own):
    steps = 0

    def step(self, action):
        type(self).steps += 1
        obs, reward, *rest = super().step(action)
        return obs, reward + self.steps, *rest


def test_what_copies_share_is_refused():
    env = Counted()
    env.reset(seed=0)
    with pytest.raises(TypeError, match="class attribute Counted.steps"):
        MujocoModel(env)
    assert Counted.steps == 0


class Closing(Own):
    """Pays by a function that closes over it, and changes its action in place."""

    def __init__(self) -> None:
        self.extra = lambda: self.data.qpos[0] + self.paid
        self.paid = 0
        super().__init__()

    def step(self, action):
        obs, reward, *rest = super().step(action)
        action *= 0
        self.paid += 1
        return obs, reward + self.extra(), *rest


def test_closures_belong_to_the_copy_and_actions_stay():
    env = Closing()
    obs, _ = env.reset(seed=0)
    model = MujocoModel(env)
    state = model.reset(rows(obs), generator=generator())
    plan = actions(model, 1, 3, dtype=th.float64)
    kept = plan.clone()
    whole = model.rollout(state, plan, generator=generator())
    later = state
    for t in range(3):
        later, one = model.step(later, plan[:, t], generator=generator())
        assert th.equal(one.reward, whole.reward[:, t])
    assert th.equal(plan, kept)
    assert env.paid == 0
    for t in range(3):
        assert_same(whole, env.step(plan[0, t].numpy().copy()), (0, t))


FAR = 5.5e6


def test_rows_of_float64_are_told_apart_in_all_digits():
    live = np.array([[FAR, 1.0], [FAR + 0.01, 1.0]])
    assert np.float32(live[0, 0]) == np.float32(live[1, 0])
    order = [1, 0, 1]
    assert match_rows(th.as_tensor(live[order]), live).tolist() == order
    assert match_rows(th.as_tensor(live), live).tolist() == [0, 1]
    assert match_rows(th.as_tensor(live).float(), live).tolist() == [0, 1]  # by blocks
    with pytest.raises(ValueError, match=r"Row 0 fits environments 0 and 1, which .* float64"):
        match_rows(th.as_tensor(live[order]).float(), live)
    with pytest.raises(ValueError, match="current observation of none"):
        match_rows(th.as_tensor(live + 0.001), live)
    failed = np.array([[0.5, np.nan], [np.nan, 1.0]])
    assert match_rows(th.as_tensor(failed[[1, 0, 0]]), failed).tolist() == [1, 0, 0]
    near = np.array([[0.1, 1.0]])
    assert match_rows(th.as_tensor(near).float().double(), near).tolist() == [0]
    assert match_rows(th.as_tensor(near), near.astype(np.float32)).tolist() == [0]


def test_a_start_in_float32_begins_at_the_digits_of_the_environment():
    env = gymnasium.make("HalfCheetah-v5", exclude_current_positions_from_observation=False)
    env.reset(seed=0)
    model = MujocoModel(env)
    env.unwrapped.data.qpos[0] = FAR + 0.3
    obs = env.unwrapped._get_obs()
    for given in (rows(obs), th.as_tensor(obs)[None]):
        state = model.reset(given, generator=generator())
        assert state.obs[0].tolist() == obs.tolist()
