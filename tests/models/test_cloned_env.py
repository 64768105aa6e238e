"""``ClonedEnvModel`` against the environments themselves: equal steps, no peeking at their noise, nothing moved."""

from __future__ import annotations

import copy
import random
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from controllers import PlanningProblem
from mbrl_wrappers import ClonedEnvModel, save
from mbrl_wrappers.copies.env_copies import copy_env
from mbrl_wrappers.rows import put_rows, take_rows
from mbrl_wrappers.types import SequenceModel, SharedNoiseModel
from tests.oracle import OracleEnv

TASKS = (
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "Taxi-v4",
    "HalfCheetah-v5",
    "Ant-v5",
)


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def slippery() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("FrozenLake-v1", is_slippery=True)


def plans(model: ClonedEnvModel, *shape: int, seed: int = 0) -> th.Tensor:
    if isinstance(model.action_space, spaces.Discrete):
        picked = np.random.default_rng(seed).integers(model.codec.size, size=shape)
        return th.nn.functional.one_hot(th.as_tensor(picked), model.codec.size).float()
    return th.as_tensor(np.random.default_rng(seed).uniform(-1, 1, (*shape, model.codec.size)), dtype=th.float32)


def take(env, model, action: th.Tensor):
    taken = model.codec.to_env(action[None])[0]
    return env.step(taken if taken.ndim else int(taken))


@pytest.mark.parametrize("name", TASKS)
def test_steps_are_the_environments_own_from_the_middle_of_an_episode(name):
    env = gymnasium.make(name)
    model = ClonedEnvModel(env, reseed=False)
    assert model.checks_observations
    obs, _ = env.reset(seed=1)
    before = plans(model, 2, seed=9)
    for action in before:
        obs, *_ = take(env, model, action)
    state = model.reset(model.encode(np.asarray(obs)[None]), generator=generator())
    plan = plans(model, 1, 20)
    whole = model.rollout(state, plan, generator=generator())
    for t in range(20):
        state, one = model.step(state, plan[:, t], generator=generator())
        obs, reward, terminated, *_ = take(env, model, plan[0, t])
        shown = model.encode(np.asarray(obs)[None])[0]
        for got in (one.next_obs[0], whole.next_obs[0, t], state.obs[0]):
            assert th.equal(got, shown)
        assert one.reward[0].item() == whole.reward[0, t].item() == reward
        assert bool(one.terminated[0]) == bool(whole.terminated[0, t]) == terminated
        if terminated:
            break


def foreseen(reseed: bool) -> float:
    """How often a cloned slippery lake predicts where the real one is going to slip."""
    env, right = slippery(), []
    model = ClonedEnvModel(env, reseed=reseed)
    draws = generator()
    for seed in range(60):
        obs, _ = env.reset(seed=seed)
        state = model.reset(model.encode([obs]), generator=draws)
        action = plans(model, 1, seed=seed)
        _, predicted = model.step(state, action, generator=draws)
        whole = model.rollout(state, action[:, None], generator=draws)
        obs, *_ = take(env, model, action[0])
        right += [bool(predicted.next_obs[0, obs] == 1), bool(whole.next_obs[0, 0, obs] == 1)]
    return float(np.mean(right))


def test_only_without_reseeding_does_a_clone_know_what_the_environment_will_draw():
    assert foreseen(reseed=False) == 1.0
    assert foreseen(reseed=True) < 0.85


def test_clones_of_one_snapshot_see_different_noise_and_the_same_seed_repeats_it():
    env = slippery()
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    state = model.reset(model.encode([obs] * 40), generator=generator())
    plan = plans(model, 1, 6).expand(40, -1, -1)
    one, again, other = (model.rollout(state, plan, generator=generator(seed)).next_obs for seed in (0, 0, 1))
    assert len(one.flatten(1).unique(dim=0)) > 10
    assert th.equal(one, again)
    assert not th.equal(one, other)


def test_groups_share_their_draws_and_rows_of_a_group_do_not():
    env = slippery()
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    state = model.reset(model.encode([obs] * 60), generator=generator())
    action = plans(model, 1).expand(60, -1)
    _, predicted = model.step_shared(state, action, generator=generator(), groups=3)
    first, second, third = predicted.next_obs.chunk(3)
    assert th.equal(first, second)
    assert th.equal(first, third)
    assert len(first.unique(dim=0)) > 1
    with pytest.raises(ValueError, match="equal blocks"):
        model.step_shared(state, action, generator=generator(), groups=7)
    plan = plans(model, 1, 6).expand(60, -1, -1)
    first, second, third = model.rollout(state, plan, generator=generator(), groups=3).next_obs.chunk(3)
    assert th.equal(first, second)
    assert th.equal(first, third)
    assert len(first.flatten(1).unique(dim=0)) > 1
    with pytest.raises(ValueError, match="equal blocks"):
        model.rollout(state, plan, generator=generator(), groups=7)


def test_equal_candidates_of_a_noisy_simulator_score_equally():
    env = slippery()
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    problem = PlanningProblem(model, model.encode([obs]), 40, particles=5)
    plan = plans(model, 1, 40)[:, None].expand(1, 6, -1, -1)
    scores = problem.score(plan, generator=generator())
    assert (scores == scores[:, :1]).all()


class Hidden(gymnasium.Env[Any, Any]):
    """Draws from streams in all sorts of places; the observation cannot be read from it."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (6,), np.float64)
        self.action_space = spaces.Discrete(2)
        self.streams = {"numpy": [np.random.default_rng(1)], "old": np.random.RandomState(2)}
        self.plain = random.Random(3)
        self.other = spaces.Tuple([spaces.Box(0, 1, (), np.float64)])
        self.other.seed(4)
        self.single = spaces.Box(0, 1, (), np.float64, seed=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(6), {}

    def step(self, action):
        drawn = [self.np_random.random(), self.streams["numpy"][0].random(), self.streams["old"].random_sample()]
        sampled = [self.other.sample()[0], self.single.sample()]
        return np.array([*drawn, self.plain.random(), *sampled]), 0.0, False, False, {}


@pytest.mark.parametrize("reseed", [True, False])
def test_every_stream_in_the_environment_is_reseeded_or_none(reseed):
    env = Hidden()
    env.reset(seed=0)
    model = ClonedEnvModel(env, reseed=reseed)
    assert not model.checks_observations
    state = model.reset(th.zeros(2, 6), generator=generator())
    _, predicted = model.step(state, plans(model, 2), generator=generator())
    truth = th.as_tensor(env.step(0)[0])
    assert ((predicted.next_obs == truth).all() if not reseed else (predicted.next_obs != truth).all()).item()
    assert (predicted.next_obs[0] != predicted.next_obs[1]).all().item() == reseed
    with pytest.raises(ValueError, match="shape"):
        model.reset(th.zeros(2, 4), generator=generator())


def test_the_live_environment_is_left_alone():
    env = slippery()
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)

    def everything():
        base = env.unwrapped
        streams = base.np_random.bit_generator.state, base.action_space.np_random.bit_generator.state
        return repr((streams, base.s, base.lastaction, env.get_wrapper_attr("_elapsed_steps")))

    before = everything()
    model = ClonedEnvModel(env)
    state = model.reset(model.encode([obs] * 3), generator=generator())
    model.step(state, plans(model, 3), generator=generator())
    model.rollout(state, plans(model, 3, 5), generator=generator())
    assert everything() == before


def test_states_are_never_changed():
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    state = model.reset(th.as_tensor(obs).repeat(4, 1), generator=generator())
    plan = plans(model, 4, 3)
    first, again = (model.rollout(state, plan, generator=generator()) for _ in range(2))
    assert all(th.equal(a, b) for a, b in zip(first, again, strict=True))
    later, one = model.step(state, plan[:, 0], generator=generator())
    mixed = put_rows(state, th.tensor([1]), take_rows(later, th.tensor([2])))
    _, two = model.step(mixed, plan[[0, 2, 2, 3], 1], generator=generator())
    _, wanted = model.step(take_rows(later, th.tensor([2])), plan[2:3, 1], generator=generator())
    assert th.equal(two.next_obs[1], wanted.next_obs[0])
    assert th.equal(one.next_obs, first.next_obs[:, 0])


def test_several_environments_are_told_apart_and_stale_observations_refused():
    vec = DummyVecEnv([lambda: Monitor(gymnasium.make("CartPole-v1"))] * 3)
    vec.seed(0)
    shown = th.as_tensor(vec.reset())
    model = ClonedEnvModel(vec)
    order = [2, 0, 0, 1]
    state = model.reset(shown[order], generator=generator())
    _, predicted = model.step(state, plans(model, 1).expand(4, -1), generator=generator())
    truth, *_ = vec.step(np.full(3, int(plans(model, 1).argmax())))
    assert (predicted.next_obs.numpy() == truth[order]).all()
    with pytest.raises(ValueError, match="current observation of none"):
        model.reset(shown, generator=generator())
    with pytest.raises(ValueError, match="reset"):
        ClonedEnvModel(gymnasium.make("CartPole-v1")).reset(shown, generator=generator())


def test_nothing_is_stepped_after_its_end():
    class Ending(OracleEnv):
        steps = 0

        def step(self, action):
            self.steps += 1
            assert self.steps <= 2
            obs, _, _, truncated, info = super().step(action)
            return obs, 1.0, self.steps == 2, truncated, info

    env = Ending()
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    state = model.reset(th.as_tensor(obs)[None], generator=generator())
    plan = plans(model, 1, 5)
    whole = model.rollout(state, plan, generator=generator())
    assert whole.reward.tolist() == [[1, 1, 0, 0, 0]]
    assert whole.terminated.tolist() == [[False, True, True, True, True]]
    assert th.equal(whole.next_obs[0, 4], whole.next_obs[0, 1])
    for t in range(5):
        state, one = model.step(state, plan[:, t], generator=generator())
        assert th.equal(one.next_obs, whole.next_obs[:, t])
        assert (one.reward.item(), one.terminated.item()) == (whole.reward[0, t].item(), t >= 1)
        assert (state.terminated.item(), state.truncated.item()) == (t >= 1, False)


def test_wrappers_are_copied_and_a_time_limit_ends_nothing():
    env = gymnasium.make("MountainCarContinuous-v0", max_episode_steps=2)
    env = gymnasium.wrappers.TransformReward(gymnasium.wrappers.FlattenObservation(env), lambda reward: reward + 10)
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    assert model.checks_observations
    state = model.reset(th.as_tensor(obs)[None], generator=generator())
    whole = model.rollout(state, plans(model, 1, 6), generator=generator())
    assert not whole.terminated.any()
    assert (whole.reward > 9).all()
    assert env.step(model.codec.to_env(plans(model, 1, 6)[:, 0])[0])[1] == whole.reward[0, 0]


def test_what_cannot_be_copied_is_named():
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.guard = threading.Lock()
    with pytest.raises(TypeError, match=r"CartPole.*attribute 'guard', a _thread.lock"):
        ClonedEnvModel(env)


def test_displays_and_recorders_are_left_out(tmp_path: Path):
    class Window:
        def __deepcopy__(self, memo):
            raise AssertionError("a window was copied")

    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    env.unwrapped.screen = Window()
    filed = Monitor(env, str(tmp_path / "log"))
    copied = copy_env(filed)
    assert filed.results_writer is not None
    filed.results_writer.close()
    assert copied.unwrapped.screen is None
    assert copied.render_mode is None
    assert not isinstance(copied, Monitor)
    assert env.unwrapped.screen is not None


def test_a_copy_of_a_simulator_goes_on_where_it_was():
    env = gymnasium.make("HalfCheetah-v5")
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.ones(6, np.float32))
    ours, deep = copy_env(env), copy.deepcopy(env)
    assert (ours.unwrapped.data.qpos == env.unwrapped.data.qpos).all()
    assert (deep.unwrapped.data.qpos != env.unwrapped.data.qpos).any()  # Gymnasium issue 779: why copy_env exists
    wanted = env.step(np.ones(6, np.float32))[0]
    assert (ours.step(np.ones(6, np.float32))[0] == wanted).all()


def test_references_inside_an_environment_stay_inside_its_copy():
    class Remembering(gymnasium.Wrapper[Any, Any, Any, Any]):
        def __init__(self, env) -> None:
            super().__init__(env)
            self.base, self.move = env.unwrapped, env.unwrapped.step

    env = Remembering(gymnasium.make("CartPole-v1"))
    env.reset(seed=0)
    copied = copy_env(env)
    assert copied.base is copied.unwrapped is not env.unwrapped
    assert copied.move.__self__ is copied.unwrapped


def test_numbers_of_states_become_one_hot_rows():
    model = ClonedEnvModel(slippery())
    assert model.observation_space == spaces.Box(0.0, 1.0, (16,), np.float32)
    wanted = th.eye(16)[[3, 0]]
    assert th.equal(model.encode([3, 0]), wanted)
    assert th.equal(model.encode(np.array([[3], [0]])), wanted)
    assert th.equal(model.encode(wanted), wanted)


class Numbered(gymnasium.Env[Any, Any]):
    """States 3, 4, 5 in a circle; an action goes to the next."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Discrete(3, start=3), spaces.Discrete(2, start=1)
        self.s = 3

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.s = 4
        return self.s, {}

    def step(self, action):
        assert action in (1, 2)
        self.s = 3 + (self.s - 3 + int(action) - 1) % 3
        return self.s, float(action), False, False, {}


def test_numbers_that_do_not_begin_at_zero_are_counted_from_their_first():
    env = Numbered()
    shown, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    assert model.checks_observations
    state = model.reset(model.encode([shown]), generator=generator())
    assert state.obs.tolist() == [[0, 1, 0]]
    whole = model.rollout(state, th.tensor([[[0.0, 1], [0, 1], [1, 0]]]), generator=generator())
    assert whole.next_obs.tolist() == [[[0, 0, 1], [1, 0, 0], [1, 0, 0]]]
    assert whole.reward.tolist() == [[2, 2, 1]]


def test_observation_wrappers_are_read_from_the_inside_out():
    env: gymnasium.Env[Any, Any] = gymnasium.make("Pendulum-v1")
    env = gymnasium.wrappers.TransformObservation(env, lambda obs: obs + 1, env.observation_space)
    env = gymnasium.wrappers.TransformObservation(env, lambda obs: obs * 2, env.observation_space)
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    assert model.checks_observations
    assert model.reset(th.as_tensor(obs)[None], generator=generator()).obs[0].tolist() == obs.tolist()
    with pytest.raises(ValueError, match="current observation of none"):
        model.reset(th.as_tensor(obs)[None] + 0.5, generator=generator())


def test_a_model_of_some_of_the_environments_is_bound_to_these():
    envs = [gymnasium.make("CartPole-v1") for _ in range(3)]
    shown = [env.reset(seed=seed)[0] for seed, env in enumerate(envs)]
    part = ClonedEnvModel(envs).of_envs(th.tensor([2, 0]))
    assert part.num_envs == 2
    rows = th.as_tensor(np.stack([shown[0], shown[2]]))
    assert th.equal(part.reset(rows, generator=generator()).obs, rows)
    with pytest.raises(ValueError, match="none of the 2 environments"):
        part.reset(th.as_tensor(shown[1])[None], generator=generator())


def test_spaces_that_are_not_supported_are_refused():
    with pytest.raises(TypeError, match="FlattenObservation"):
        ClonedEnvModel(gymnasium.make("Blackjack-v1"))
    with pytest.raises(TypeError, match="SubprocVecEnv"):
        ClonedEnvModel("CartPole-v1")


def test_it_satisfies_the_protocols_and_says_why_it_cannot_be_saved(tmp_path: Path):
    model = ClonedEnvModel(gymnasium.make("CartPole-v1"))
    assert isinstance(model, SequenceModel)
    assert isinstance(model, SharedNoiseModel)
    assert model.exact
    with pytest.raises(TypeError, match="ClonedEnvModel cannot be saved: it is bound to live environments"):
        save(model, tmp_path / "model")  # type: ignore[arg-type]
