"""What ``task_functions`` makes of wrappers, of tasks it does not know, and of wrong shapes; saving by name."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import wrappers
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.storage.stored_functions import describe_function, restore_function
from mbrl_wrappers.tasks import (
    AngleObservation,
    ForwardVelocityObservation,
    TaskFunctions,
    check_agreement,
    task_functions,
)

# Gymnasium's own wrappers round the bounds they are given.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")

BOTH = frozenset({"reward", "termination"})
Env = gymnasium.Env[Any, Any]
Wrap = Callable[[Env], Env]


def shown(task: str, **kwargs: Any) -> Env:
    return ForwardVelocityObservation(gymnasium.make(task, **kwargs))


def rescaled(env: Env) -> Env:
    assert env.action_space.shape is not None
    return wrappers.RescaleAction(
        env, np.float32(-3), np.linspace(1.0, 2.0, env.action_space.shape[0], dtype=np.float32)
    )


COMPOSED: list[tuple[str, Wrap]] = [
    ("Pendulum-v1", Monitor),
    ("Pendulum-v1", wrappers.RecordEpisodeStatistics),
    ("Pendulum-v1", wrappers.ClipAction),
    ("Pendulum-v1", rescaled),
    ("Pendulum-v1", lambda env: rescaled(wrappers.RescaleAction(env, np.float32(-1), np.float32(1)))),
    ("Reacher-v5", wrappers.ClipAction),
    ("Reacher-v5", rescaled),
    ("Reacher-v5", lambda env: wrappers.ClipAction(rescaled(env))),
    ("Pusher-v5", lambda env: wrappers.DtypeObservation(env, np.float32)),
    ("Pusher-v5", wrappers.FlattenObservation),
    ("Hopper-v5", lambda env: AngleObservation(ForwardVelocityObservation(env), [1, 2, 3, 4])),
    ("Hopper-v5", lambda env: AngleObservation(AngleObservation(ForwardVelocityObservation(env), [2]), [1])),
    ("Walker2d-v5", lambda env: ForwardVelocityObservation(rescaled(env))),
    ("Swimmer-v5", lambda env: Monitor(wrappers.ClipAction(AngleObservation(ForwardVelocityObservation(env), [0])))),
    ("CartPole-v1", lambda env: AngleObservation(env, [2])),
    ("InvertedPendulum-v5", lambda env: AngleObservation(env, [1])),
]


@pytest.mark.parametrize(("task", "wrap"), COMPOSED)
def test_functions_compose_with_wrappers(task: str, wrap: Wrap) -> None:
    env = wrap(gymnasium.make(task))
    functions = task_functions(env)
    assert functions.exact == BOTH
    report = check_agreement(env, functions, steps=150)
    assert report.passed(2e-6), report


def test_clipping_reaches_the_control_cost() -> None:
    reward_fn = task_functions(wrappers.ClipAction(gymnasium.make("Reacher-v5"))).reward_fn
    assert reward_fn is not None
    rows = th.zeros(1, 10, dtype=th.float64)
    assert reward_fn(rows, th.tensor([[5.0, -0.5]]), rows).tolist() == [-1.25]


def test_rescaling_reaches_the_control_cost() -> None:
    reward_fn = task_functions(
        wrappers.RescaleAction(gymnasium.make("Reacher-v5"), np.float32(0), np.float32(10))
    ).reward_fn
    assert reward_fn is not None
    rows = th.zeros(1, 10, dtype=th.float64)
    cost = reward_fn(rows, th.tensor([[10.0, 2.5]], dtype=th.float64), rows)
    np.testing.assert_allclose(cost.numpy(), [-1.25], rtol=1e-6)  # inside: 1 and -0.5


UNKNOWN: list[tuple[str, Wrap, frozenset[str], str]] = [
    ("Pendulum-v1", wrappers.NormalizeObservation, frozenset(), "NormalizeObservation"),
    ("Pendulum-v1", lambda env: wrappers.FrameStackObservation(env, 2), frozenset(), "FrameStackObservation"),
    ("Pendulum-v1", lambda env: wrappers.DtypeObservation(env, np.float16), frozenset(), "DtypeObservation"),
    ("Pendulum-v1", wrappers.NormalizeReward, frozenset({"termination"}), "NormalizeReward"),
    (
        "CartPole-v1",
        lambda env: wrappers.TransformReward(env, lambda r: 2 * float(r)),
        frozenset({"termination"}),
        "TransformReward",
    ),
    ("Pendulum-v1", lambda env: wrappers.StickyAction(env, 0.5), frozenset({"termination"}), "StickyAction"),
    ("CartPole-v1", lambda env: wrappers.StickyAction(env, 0.5), BOTH, ""),
]


@pytest.mark.parametrize(("task", "wrap", "exact", "named"), UNKNOWN)
def test_what_a_wrapper_may_change_is_unknown(task: str, wrap: Wrap, exact: frozenset[str], named: str) -> None:
    functions = task_functions(wrap(gymnasium.make(task)), approximate=True)
    assert functions.exact == exact
    assert (functions.reward_fn is not None) == ("reward" in exact)
    assert (functions.termination_fn is not None) == ("termination" in exact)
    assert named in "".join(functions.notes)


def test_an_angle_outside_an_unknown_observation_is_no_surprise() -> None:
    env = AngleObservation(
        wrappers.FlattenObservation(wrappers.FrameStackObservation(gymnasium.make("CartPole-v1"), 3)), [10]
    )
    assert task_functions(env).reward_fn is None


def test_an_unknown_task_is_learned() -> None:
    class Mine(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,))
        action_space = gymnasium.spaces.Discrete(2)

    functions = task_functions(Mine())
    assert functions == TaskFunctions(notes=functions.notes)
    assert "Mine are not known: learn its reward and termination" in functions.notes[0]
    assert "never_terminates only if" in functions.notes[0]


def test_a_subclass_of_a_known_task_is_another_task() -> None:
    class Backwards(HopperEnv):
        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)  # type: ignore[no-untyped-call]
            return obs, -reward, *rest

    assert task_functions(Backwards()).termination_fn is None


@pytest.mark.parametrize("task", ["Hopper", "Ant", "InvertedPendulum"])
def test_version_four_is_not_taken_for_version_five(task: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium says that the version is old
        env = gymnasium.make(f"{task}-v4")
    functions = task_functions(env, approximate=True)
    assert functions.reward_fn is None
    assert functions.termination_fn is None
    assert "version 4" in functions.notes[0]
    with pytest.raises(
        TypeError, match=f"not gymnasium.envs.mujoco.{task.lower().replace('invertedp', 'inverted_p')}_v4"
    ):
        ForwardVelocityObservation(env)


def test_a_robot_of_your_own_is_pointed_at_the_check(tmp_path: Path) -> None:
    env: Any = gymnasium.make("Reacher-v5").unwrapped
    copy = tmp_path / "longer.xml"
    copy.write_text(Path(env.fullpath).read_text())
    functions = task_functions(gymnasium.make("Reacher-v5", xml_file=str(copy)))
    assert functions.exact == BOTH
    assert "longer.xml" in functions.notes[0]
    assert "check_agreement" in functions.notes[0]


def test_a_vectorised_environment_is_refused() -> None:
    with pytest.raises(TypeError, match=r"not DummyVecEnv.*venv.envs\[0\]"):
        task_functions(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not SyncVectorEnv"):
        task_functions(gymnasium.make_vec("Pendulum-v1", 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("obs", "action", "next_obs", "what"),
    [
        ((4, 11), (4, 3), (4, 11), "observations"),
        ((4, 12), (4, 3), (12,), "observations"),
        ((4, 12), (4, 2), (4, 12), "actions"),
        ((4, 12), (4,), (4, 12), "actions"),
    ],
)
def test_wrong_shapes_are_explained(
    obs: tuple[int, ...], action: tuple[int, ...], next_obs: tuple[int, ...], what: str
) -> None:
    reward_fn = task_functions(shown("Hopper-v5")).reward_fn
    assert reward_fn is not None
    with pytest.raises(
        ValueError, match=rf"LocomotionReward takes {what} of shape \(B, \d+\) but got .*task_functions\(env\)"
    ):
        reward_fn(th.zeros(obs), th.zeros(action), th.zeros(next_obs))


def test_a_wrong_shape_is_explained_by_terminations_too() -> None:
    termination_fn = task_functions(gymnasium.make("Hopper-v5")).termination_fn
    assert termination_fn is not None
    rows = th.zeros(2, 12)
    with pytest.raises(ValueError, match=r"Unhealthy takes observations of shape \(B, 11\) but got \(2, 12\)"):
        termination_fn(rows, rows, rows)


STORED = [
    *["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Swimmer-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5"],
    *["InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5", "Pendulum-v1", "CartPole-v1"],
    *["MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"],
]


def assert_round_trip(functions: TaskFunctions) -> None:
    for function in (functions.reward_fn, functions.termination_fn):
        described = json.loads(json.dumps(describe_function(function), allow_nan=False))
        assert restore_function(described) == function
        assert function is not None
        json.dumps(dataclasses.asdict(function))  # type: ignore[call-overload]


@pytest.mark.parametrize("task", STORED)
def test_functions_are_stored_by_name_and_constants(task: str) -> None:
    assert_round_trip(task_functions(gymnasium.make(task), approximate=True))


@pytest.mark.parametrize(("task", "wrap"), COMPOSED)
def test_composed_functions_are_stored_too(task: str, wrap: Wrap) -> None:
    assert_round_trip(task_functions(wrap(gymnasium.make(task))))
