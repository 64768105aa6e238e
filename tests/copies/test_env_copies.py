"""Copies of environments keep what they share inside, and share nothing with the original."""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import ClonedEnvModel
from mbrl_wrappers.copies.env_copies import copy_env
from tests.copies.hiding import GLOBAL_DRAWS, MOVING, OTHER_DRAWS, Line
from tests.models.simulators import generator

PUSHES = th.tensor([1.0, -0.5, 0.25, 1.0])


def rolled(model: ClonedEnvModel, obs: Any) -> list[list[float]]:
    """Observations and rewards that the model predicts for the pushes, in one rollout and step by step."""
    state = model.reset(th.as_tensor(obs)[None], generator=generator())
    whole = model.rollout(state, PUSHES[None, :, None], generator=generator())
    for t, push in enumerate(PUSHES):
        state, one = model.step(state, push.reshape(1, 1), generator=generator())
        assert th.equal(one.next_obs, whole.next_obs[:, t])
        assert th.equal(one.reward, whole.reward[:, t])
    return [[*obs.tolist(), reward] for obs, reward in zip(whole.next_obs[0], whole.reward[0].tolist(), strict=True)]


def lived(env: gymnasium.Env[Any, Any]) -> list[list[float]]:
    steps = [env.step(np.array([push], np.float32)) for push in PUSHES.tolist()]
    return [[*obs.tolist(), reward] for obs, reward, *_ in steps]


def by_hand() -> list[list[float]]:
    x, v, steps = 0.5, 0.25, []
    for push in PUSHES.tolist():
        v += push / 10
        x += v / 10
        steps.append([x, v, -(x**2)])
    return steps


@pytest.mark.parametrize("kind", MOVING, ids=lambda kind: kind.__name__)
def test_a_copy_goes_on_as_the_environment_does_and_leaves_it_where_it_is(kind):
    env = kind()
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    assert env._get_obs().tolist() == obs.tolist() == [0.5, 0.25]
    predicted = rolled(model, obs)
    assert env._get_obs().tolist() == [0.5, 0.25]
    assert predicted == lived(env)
    if kind.move is Line.move:
        assert np.allclose(predicted, by_hand(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", MOVING, ids=lambda kind: kind.__name__)
def test_a_copy_of_a_copy_goes_on_too_after_steps(kind):
    env = kind()
    env.reset(seed=0)
    env.step(np.array([0.5], np.float32))
    second = copy_env(copy_env(env))
    second.step(np.array([0.75], np.float32))
    third = copy_env(second)
    env.step(np.array([0.75], np.float32))
    assert third._get_obs().tolist() == env._get_obs().tolist()  # type: ignore[attr-defined]
    assert lived(third) == lived(second) == lived(env)


def test_a_lambda_in_a_wrapper_reads_the_copy():
    env: Any = Line()
    env = gymnasium.wrappers.TransformReward(env, lambda reward: reward + 100 * env.unwrapped.x)
    env = gymnasium.wrappers.TransformAction(env, lambda action: action + env.unwrapped.v, env.action_space)
    obs, _ = env.reset(seed=0)
    predicted = rolled(ClonedEnvModel(env), obs)
    assert predicted == lived(env)
    assert len({reward for *_, reward in predicted}) == len(PUSHES)


def test_arrays_without_gaps_and_with_them_are_copied_element_by_element():
    class Holder(Line):
        def build(self) -> None:
            base = np.arange(24.0).reshape(2, 3, 4)
            self.kept = [
                base,
                base[:, ::2, 1:],
                base.transpose(2, 0, 1)[::-1],
                base[..., None],
                base[:0],
                base[1, 1, 1:2],
            ]
            self.broadcast = np.broadcast_to(base[0, 0], (3, 4))

    env = Holder()
    env.reset()
    twin: Any = copy_env(env)
    for ours, theirs in zip([*twin.kept, twin.broadcast], [*env.kept, env.broadcast], strict=True):
        assert (ours == theirs).all()
        assert ours.shape == theirs.shape
        assert ours.flags.writeable == theirs.flags.writeable
        assert not np.shares_memory(ours, theirs)
    twin.kept[0][:] = np.arange(24.0).reshape(2, 3, 4) * 10
    for ours, theirs in zip([*twin.kept, twin.broadcast], [*env.kept, env.broadcast], strict=True):
        assert (ours == 10 * theirs).all()
    assert (env.kept[0] == np.arange(24.0).reshape(2, 3, 4)).all()


def test_arrays_that_cannot_be_written_and_functions_that_hold_nothing_are_shared():
    class Constant(Line):
        def build(self) -> None:
            self.table = np.arange(5.0)
            self.table.flags.writeable = False
            self.rule = np.clip
            self.other = spaces.Box(0, 1, (2,))
            self.small = (1, "a", (2.0, None))

    env = Constant()
    env.reset()
    twin: Any = copy_env(env)
    assert twin.table is env.table
    assert twin.rule is env.rule
    assert twin.small is env.small
    assert twin.other is not env.other
    assert twin.other == env.other


@pytest.mark.parametrize("kind", GLOBAL_DRAWS + OTHER_DRAWS, ids=lambda kind: kind.__name__)
def test_noise_from_any_stream_is_drawn_anew_and_leaves_the_streams_of_the_live_environment_alone(kind):
    def first_steps() -> list[list[float]]:
        np.random.seed(7)  # noqa: NPY002
        th.manual_seed(7)
        random.seed(7)
        env = kind()
        obs, _ = env.reset(seed=0)
        if not planned:
            return lived(env)
        model = ClonedEnvModel(env)
        state = model.reset(th.as_tensor(obs).repeat(6, 1), generator=generator())
        plan = PUSHES[None, :, None].expand(6, -1, -1)
        one, again, other = (
            model.rollout(state, plan, generator=th.Generator().manual_seed(seed)).next_obs for seed in (0, 0, 1)
        )
        assert th.equal(one, again)
        assert not (one == other).any()
        assert len(one[:, 0].unique(dim=0)) == 6
        shared = model.rollout(state, plan, generator=generator(), groups=2).next_obs
        assert th.equal(shared[:3], shared[3:])
        assert len(shared[:3, 0].unique(dim=0)) == 3
        _, single = model.step(state, plan[:, 0], generator=generator())
        assert len(single.next_obs.unique(dim=0)) == 6
        real = lived(env)
        assert (one[:, 0] - th.tensor(real[0][:2])).abs().max() > 1e-6
        return real

    planned = False
    alone = first_steps()
    planned = True
    assert first_steps() == alone


@pytest.mark.parametrize("kind", GLOBAL_DRAWS + OTHER_DRAWS, ids=lambda kind: kind.__name__)
def test_without_reseeding_the_noise_of_any_stream_is_foreseen(kind):
    env = kind()
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env, reseed=False)
    state = model.reset(th.as_tensor(obs).repeat(2, 1), generator=generator())
    whole = model.rollout(state, PUSHES[None, :, None].expand(2, -1, -1), generator=generator())
    assert whole.next_obs[0].tolist() == whole.next_obs[1].tolist() == [step[:2] for step in lived(env)]


def test_a_stream_shared_by_environment_and_wrapper_is_shared_in_the_copy():
    class Noisy(Line):
        def move(self, push: float) -> None:
            super().move(push + self.np_random.random())

    class Outer(gymnasium.Wrapper[Any, Any, Any, Any]):
        def reset(self, **given):
            obs, info = self.env.reset(**given)
            self.rng = self.unwrapped.np_random
            return obs, info

        def step(self, action):
            obs, reward, *rest = self.env.step(action)
            return obs, reward + self.rng.random(), *rest

    env = Outer(Noisy())
    obs, _ = env.reset(seed=0)
    twin: Any = copy_env(env)
    assert twin.rng is twin.unwrapped.np_random is not env.rng
    twin = copy_env(env, 1)
    assert twin.rng is twin.unwrapped.np_random is not env.rng
    assert rolled(ClonedEnvModel(env, reseed=False), obs) == lived(env)


def test_a_time_limit_in_a_copy_counts_and_never_truncates_and_shows_its_limit():
    class Own(gymnasium.wrappers.TimeLimit):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward + 1.0, terminated, truncated, info

    env: Any = Own(Line(), 3)
    env.reset(seed=0)
    twin: Any = copy_env(copy_env(env))
    ends = [twin.step(np.ones(1, np.float32))[3] for _ in range(5)]
    assert ends == [False] * 5
    assert (twin._elapsed_steps, twin._max_episode_steps) == (5, 3)
    assert twin.step(np.zeros(1, np.float32))[1] == -(twin.unwrapped.x**2) + 1.0
    assert [env.step(np.ones(1, np.float32))[3] for _ in range(3)] == [False, False, True]


class Ending(Line):
    """Truncates itself after four steps and cannot be stepped any further."""

    def begin(self) -> None:
        super().begin()
        self.t = 0

    def step(self, action):
        self.t += 1
        assert self.t <= 4, "stepped past its end"
        obs, reward, *_ = super().step(action)
        return obs, reward, False, self.t >= 4, {}


@pytest.mark.parametrize("limit", [None, 4, 2])
def test_an_environment_that_truncates_itself_is_not_stepped_past_its_end(limit):
    env: Any = Ending() if limit is None else gymnasium.wrappers.TimeLimit(Ending(), limit)
    obs, _ = env.reset(seed=0)
    model = ClonedEnvModel(env)
    assert model.checks_observations
    env.step(np.ones(1, np.float32))
    obs = env.unwrapped._get_obs()
    state = model.reset(th.as_tensor(obs).repeat(2, 1), generator=generator())
    plan = th.ones(2, 6, 1)
    whole = model.rollout(state, plan, generator=generator())
    assert (whole.reward[:, 3:] == 0).all()
    assert (whole.reward[:, :3] < 0).all()
    assert not whole.terminated.any()
    assert (whole.next_obs[:, 3:] == whole.next_obs[:, 2:3]).all()
    assert (whole.next_obs[:, 2] != whole.next_obs[:, 1]).all()
    for t in range(6):
        state, one = model.step(state, plan[:, t], generator=generator())
        assert th.equal(one.next_obs, whole.next_obs[:, t])
        assert th.equal(one.reward, whole.reward[:, t])
        assert not one.terminated.any()
        assert state.truncated.tolist() == [t >= 2] * 2
        assert not state.terminated.any()


def test_an_action_that_the_environment_changes_in_place_stays_in_the_plan():
    class Greedy(Line):
        def step(self, action):
            answer = super().step(action)
            action *= 100.0
            return answer

    env = Greedy()
    obs, _ = env.reset(seed=0)
    plan = PUSHES[None, :, None].clone()
    model = ClonedEnvModel(env)
    state = model.reset(th.as_tensor(obs)[None], generator=generator())
    whole = model.rollout(state, plan, generator=generator())
    assert plan.flatten().tolist() == PUSHES.tolist()
    assert np.allclose(whole.next_obs[0].numpy(), [row[:2] for row in by_hand()], rtol=0, atol=1e-15)


def test_a_closure_over_arrays_is_copied() -> None:
    env = gymnasium.wrappers.RescaleAction(gymnasium.make("Hopper-v5"), np.float32(-0.5), np.float32(0.5))
    env.reset(seed=0)
    twin = copy_env(env)
    action = np.array([0.1, -0.2, 0.3], np.float32)
    assert np.array_equal(env.step(action)[0], twin.step(action)[0])
