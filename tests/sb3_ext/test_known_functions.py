"""What is taken for known must hold for every environment, also for those in other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RescaleAction, TransformReward
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from mbrl_wrappers import EnsembleDynamics
from mbrl_wrappers.tasks import TaskFunctions
from mbrl_wrappers.tasks.functions import task_functions
from sb3_ext import DynaCallback
from sb3_ext.known_functions import known_functions
from tests.sb3_ext.dyna_agents import make_agent

GymEnv = gymnasium.Env[Any, Any]


def pendulum() -> GymEnv:
    return Monitor(gymnasium.make("Pendulum-v1"))


def scaled_pendulum() -> GymEnv:
    return TransformReward(gymnasium.make("Pendulum-v1"), lambda reward: reward / 10)


def narrow_pendulum() -> GymEnv:
    return RescaleAction(gymnasium.make("Pendulum-v1"), -np.ones(1, np.float32), np.ones(1, np.float32))


def car() -> GymEnv:
    return gymnasium.make("MountainCarContinuous-v0")


def car_with_a_near_goal() -> GymEnv:
    env = car()
    env.unwrapped.goal_position = 0.2  # type: ignore[attr-defined]
    return env


def hopper(**kwargs: Any) -> GymEnv:
    return gymnasium.make("Hopper-v5", **kwargs)


def low_hopper() -> GymEnv:
    return hopper(healthy_z_range=(0.5, 2.0))


def low_hopper_later() -> GymEnv:
    env = hopper()
    env.unwrapped._healthy_z_range = (0.5, 2.0)  # type: ignore[attr-defined]
    return env


@contextmanager
def in_processes(*makers: Callable[[], GymEnv]) -> Iterator[VecEnv]:
    env = SubprocVecEnv(list(makers), start_method="fork")
    try:
        yield env
        env.reset()  # the processes live
    finally:
        env.close()


def known(*makers: Callable[[], GymEnv], processes: bool) -> TaskFunctions:
    if not processes:
        return known_functions(DummyVecEnv(list(makers)))
    with in_processes(*makers) as env:
        return known_functions(env)


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("make", [pendulum, car, hopper, low_hopper, narrow_pendulum])
def test_environments_that_are_alike_are_known_as_one_is(make: Callable[[], GymEnv], processes: bool) -> None:
    assert known(make, make, processes=processes) == task_functions(make())


@pytest.mark.parametrize("order", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_reward_that_differs_in_one_environment_is_learned(order: tuple[int, ...]) -> None:
    """One tenth of the reward in one environment of three, wherever it stands."""
    found = known(*((scaled_pendulum, pendulum)[place] for place in order), processes=False)
    assert found.reward_fn is None
    assert found.termination_fn == task_functions(pendulum()).termination_fn
    assert found.exact == {"termination"}
    assert any("differ in their reward" in note for note in found.notes)


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("pair", [(hopper, low_hopper), (low_hopper, hopper)])
def test_a_termination_that_differs_in_one_environment_is_learned(
    pair: tuple[Callable[[], GymEnv], ...], processes: bool
) -> None:
    found = known(*pair, processes=processes)
    assert found.termination_fn is None
    assert any("differ in their termination" in note for note in found.notes)


@pytest.mark.parametrize(
    ("makers", "name"),
    [
        ((car_with_a_near_goal,), "goal_position of environment 0 was changed after it was made (0.2, not 0.45)"),
        ((car, car_with_a_near_goal), "goal_position of environment 1"),
        ((low_hopper_later,), "_healthy_z_range of environment 0"),
    ],
)
def test_an_environment_changed_after_it_was_made_is_not_taken_for_one_made_anew(
    makers: tuple[Callable[[], GymEnv], ...], name: str
) -> None:
    found = known(*makers, processes=True)
    assert (found.reward_fn, found.termination_fn, found.exact) == (None, None, frozenset())
    assert any(name in note for note in found.notes)


def test_a_wrapper_that_cannot_be_sent_does_not_kill_its_process() -> None:
    found = known(pendulum, scaled_pendulum, processes=True)
    assert (found.reward_fn, found.termination_fn) == (None, None)
    assert "TransformReward" in found.notes[0]
    with in_processes(scaled_pendulum) as env:
        callback = DynaCallback()
        callback.init_callback(make_agent(SAC, env))
        assert isinstance(callback.dynamics, EnsembleDynamics)
        assert callback.dynamics.reward_fn is None
