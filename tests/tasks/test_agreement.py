"""The check against the live environment, on an environment whose every number is known."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.tasks import Confusion, TaskFunctions, check_agreement, never_terminates, task_functions


class Counter(gymnasium.Env[Any, Any]):
    """Counts its steps; pays the count plus the action, and ends at four. Writes into the array it returns."""

    observation_space = spaces.Box(-100, 100, (1,), np.float64)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self.count = np.zeros(1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.np_random.random()
        self.count[0] = 0
        return self.count, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.count, float(self.count[0] + action), bool(self.count[0] >= 4), False, {}


def pay(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return obs[:, 0] + 1 + action


def test_a_true_function_passes() -> None:
    right = TaskFunctions(pay, lambda obs, action, next_obs: next_obs[:, 0] >= 4)
    report = check_agreement(Counter(), right, steps=10)
    assert report.terminations == Confusion(2, 0, 8, 0)
    assert (report.reward_mean_error, report.reward_max_error, report.steps) == (0, 0, 10)
    assert report.passed(0)


def test_errors_are_counted() -> None:
    # Off by the count when it is 3 or 4, and ended at 3 instead of at 4.
    wrong = TaskFunctions(
        lambda obs, action, next_obs: pay(obs, action, next_obs) + next_obs[:, 0] * (next_obs[:, 0] >= 3),
        lambda obs, action, next_obs: next_obs[:, 0] == 3,
    )
    report = check_agreement(Counter(), wrong, steps=8, policy=lambda obs: 0)
    assert report.terminations == Confusion(true_positives=0, false_positives=2, true_negatives=4, false_negatives=2)
    assert report.reward_max_error == 4
    assert report.reward_mean_error == 2 * 7 / 8
    assert report.reward_scale == 2 * 10 / 8
    assert not report.passed(100)
    assert str(report).splitlines() == [
        "Counter: 8 steps",
        "  reward       error 1.8 mean, 4 max; mean |reward| 2.5",
        "  termination  4 steps wrong (2 false ends, 2 of 2 true ends missed)",
    ]


def test_what_is_not_given_is_not_judged() -> None:
    report = check_agreement(Counter(), TaskFunctions(reward_fn=pay), steps=5)
    assert report.passed()
    assert "termination  no function" in str(report)
    only_end = check_agreement(Counter(), TaskFunctions(termination_fn=never_terminates), steps=5)
    assert not only_end.passed()
    assert "reward       no function" in str(only_end)


def test_nothing_to_compare_is_no_pass() -> None:
    report = check_agreement(Counter(), steps=5)
    assert not report.passed(math.inf)
    assert "not known" in report.notes[0]
    assert report.notes[0] in str(report)


def test_a_nan_error_never_passes() -> None:
    nowhere = TaskFunctions(reward_fn=lambda obs, action, next_obs: th.full_like(obs[:, 0], math.nan))
    assert not check_agreement(Counter(), nowhere, steps=5).passed(math.inf)


def test_the_environment_is_left_as_it_was() -> None:
    checked, other = gymnasium.make("Pendulum-v1"), gymnasium.make("Pendulum-v1")
    for env in (checked, other):
        env.reset(seed=7)
        env.action_space.seed(7)
    check_agreement(checked, steps=30)
    other.reset()  # the check begins a new episode at the end
    action = checked.action_space.sample()
    np.testing.assert_array_equal(action, other.action_space.sample())
    np.testing.assert_array_equal(checked.step(action)[0], other.step(action)[0])


def test_the_check_repeats_itself() -> None:
    env = gymnasium.make("Hopper-v5")
    functions = task_functions(env, approximate=True)
    assert check_agreement(env, functions, steps=50, seed=3) == check_agreement(env, functions, steps=50, seed=3)
    assert check_agreement(env, functions, steps=50, seed=3) != check_agreement(env, functions, steps=50, seed=4)


def test_no_steps_compare_nothing() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        check_agreement(Counter(), steps=0)


def test_observations_must_be_rows() -> None:
    env = gymnasium.wrappers.FrameStackObservation(gymnasium.make("Pendulum-v1"), 2)
    with pytest.raises(TypeError, match="FlattenObservation"):
        check_agreement(env)
