"""Every known task against its live environment: rewards to rounding, terminations without a miss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th

from mbrl_wrappers.tasks import ForwardVelocityObservation, check_agreement, task_functions

BOTH = frozenset({"reward", "termination"})
RUNNERS = ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Swimmer-v5", "Ant-v5", "Humanoid-v5"]
OTHERS = [
    "HumanoidStandup-v5",
    "InvertedPendulum-v5",
    "Reacher-v5",
    "Pusher-v5",
    "Pendulum-v1",
    "CartPole-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Acrobot-v1",
    "mbrl_wrappers/ContinuousCartPole-v0",
]
SHOWN: dict[str, Any] = {"exclude_current_positions_from_observation": False}

EXACT = [
    *[(task, {}, False) for task in OTHERS],
    *[(task, {}, True) for task in RUNNERS],
    *[(task, SHOWN, True) for task in RUNNERS],
    *[(task, SHOWN, False) for task in RUNNERS[:4]],
    ("HumanoidStandup-v5", SHOWN, False),
    # Constants that are not the default, read from the instance.
    (
        "Hopper-v5",
        {"frame_skip": 3, "forward_reward_weight": 2.5, "ctrl_cost_weight": 0.7, "healthy_reward": 3.0},
        True,
    ),
    ("Hopper-v5", {"healthy_z_range": (1.1, 1.3), "healthy_angle_range": (-0.05, 0.1)}, True),
    ("Hopper-v5", {"terminate_when_unhealthy": False, **SHOWN}, False),
    ("Hopper-v5", {"healthy_state_range": (-2.0, 3.0)}, True),
    ("Walker2d-v5", {"frame_skip": 2, "healthy_z_range": (1.1, 1.4), "healthy_reward": 0.25, **SHOWN}, False),
    ("HalfCheetah-v5", {"frame_skip": 2, "ctrl_cost_weight": 2.0, "forward_reward_weight": 0.5}, True),
    ("Swimmer-v5", {"ctrl_cost_weight": 1.0, "frame_skip": 7, **SHOWN}, False),
    ("Ant-v5", {"contact_force_range": (-0.3, 0.2), "contact_cost_weight": 2.0, "healthy_z_range": (0.4, 0.8)}, True),
    ("Ant-v5", {"contact_cost_weight": 0.0, "include_cfrc_ext_in_observation": False, "main_body": 2}, True),
    ("Humanoid-v5", {"contact_cost_range": (0.05, 0.2), "ctrl_cost_weight": 3.0, "healthy_z_range": (1.2, 1.5)}, True),
    ("Humanoid-v5", {"include_cinert_in_observation": False, "include_qfrc_actuator_in_observation": False}, True),
    ("HumanoidStandup-v5", {"ctrl_cost_weight": 1.0, "impact_cost_range": (0.1, 0.3), "frame_skip": 2}, False),
    ("Reacher-v5", {"reward_dist_weight": 3.0, "reward_control_weight": 0.5}, False),
    ("Pusher-v5", {"reward_near_weight": 2.0, "reward_dist_weight": 3.0, "reward_control_weight": 1.5}, False),
    ("CartPole-v1", {"sutton_barto_reward": True}, False),
    ("MountainCarContinuous-v0", {"goal_velocity": 0.5}, False),
]


def make(task: str, kwargs: dict[str, Any], velocity: bool = False) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make(task, **kwargs)
    return ForwardVelocityObservation(env) if velocity else env


def float64_actions(env: gymnasium.Env[Any, Any]) -> Callable[[Any], Any] | None:
    """Random actions of double precision: for sampled float32 actions the environments round their own costs."""
    box, rng = env.action_space, np.random.default_rng(0)
    return (lambda obs: rng.uniform(box.low, box.high)) if isinstance(box, gymnasium.spaces.Box) else None


@pytest.mark.parametrize(("task", "kwargs", "velocity"), EXACT)
def test_exact_functions_repeat_the_environment(task: str, kwargs: dict[str, Any], velocity: bool) -> None:
    env = make(task, kwargs, velocity)
    assert task_functions(env).exact == BOTH
    double = check_agreement(env, steps=150, policy=float64_actions(env))
    # Pendulum observes in float32, all others are exact to the last digits.
    assert double.passed(2e-6 if task == "Pendulum-v1" else 1e-11), double
    single = check_agreement(env, steps=150, dtype=th.float32)
    assert single.passed(5e-6 * max(1, single.reward_scale)), single


@pytest.mark.parametrize(
    "task", ["Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "InvertedPendulum-v5", "CartPole-v1"]
)
def test_falls_are_among_the_steps_compared(task: str) -> None:
    ends = check_agreement(gymnasium.make(task), steps=300).terminations
    assert ends is not None
    assert ends.true_positives >= 1
    assert ends.mismatches == 0


@pytest.mark.parametrize("task", ["MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1"])
def test_goals_are_recognised(task: str) -> None:
    def pump(obs: Any) -> Any:
        if task == "Acrobot-v1":
            return 2 if obs[5] > 0 else 0  # torque along the driven joint adds energy
        return np.sign(obs[1:]).astype(np.float32) if "Continuous" in task else (2 if obs[1] > 0 else 0)

    report = check_agreement(gymnasium.make(task), steps=600, policy=pump)
    assert report.terminations is not None
    assert report.terminations.true_positives >= 1
    assert report.passed(1e-6), report


@pytest.mark.parametrize(
    ("task", "kwargs", "mean_error"),
    [
        ("Hopper-v5", {}, 0.01),
        ("Walker2d-v5", {}, 0.03),
        ("HalfCheetah-v5", {}, 0.3),
        ("Swimmer-v5", {}, 0.03),
        ("Ant-v5", {}, 0.2),
        ("Ant-v5", SHOWN, 0.02),
        ("Humanoid-v5", {}, 0.02),
        ("Humanoid-v5", {**SHOWN, "include_cvel_in_observation": False}, 0.6),
        ("HumanoidStandup-v5", {"include_cfrc_ext_in_observation": False}, 11.0),
    ],
)
def test_a_hidden_reward_is_given_only_as_an_approximation(
    task: str, kwargs: dict[str, Any], mean_error: float
) -> None:
    env = gymnasium.make(task, **kwargs)
    known = task_functions(env)
    assert known.reward_fn is None
    assert known.exact == {"termination"}
    assert known.notes
    rough = task_functions(env, approximate=True)
    assert rough.exact == {"termination"}
    report = check_agreement(env, rough, steps=200)
    assert report.reward_mean_error is not None
    assert 1e-6 < report.reward_mean_error < mean_error
    assert report.terminations is not None
    assert report.terminations.mismatches == 0


def test_the_note_names_the_wrapper_that_makes_the_reward_exact() -> None:
    (note,) = task_functions(gymnasium.make("Hopper-v5")).notes
    assert note == (
        "Hopper pays for the displacement over the step, which this observation does not show: learn the reward, or "
        "wrap the environment in mbrl_wrappers.tasks.ForwardVelocityObservation to compute it exactly."
    )


def test_ant_without_contact_forces_needs_them_too() -> None:
    env = ForwardVelocityObservation(gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=False))
    known = task_functions(env)
    assert known.reward_fn is None
    assert "include_cfrc_ext_in_observation=True" in known.notes[0]


def test_double_pendulum_is_close_and_says_so() -> None:
    env = gymnasium.make("InvertedDoublePendulum-v5")
    known = task_functions(env)
    assert known.exact == {"termination"}
    assert "closely, not exactly" in known.notes[0]
    report = check_agreement(env, steps=300)
    assert report.reward_mean_error is not None
    assert report.reward_mean_error < 1e-3
    assert report.terminations is not None
    assert report.terminations.mismatches == 0
    assert report.terminations.true_positives > 10


def test_hopper_knows_which_velocity_limits_its_observation_hides() -> None:
    hidden = task_functions(ForwardVelocityObservation(gymnasium.make("Hopper-v5", healthy_state_range=(-20, 20))))
    assert hidden.exact == frozenset()
    assert "velocities of 20" in hidden.notes[-1]
    assert hidden.reward_fn is not None


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("task", [*RUNNERS, *OTHERS, "InvertedDoublePendulum-v5"])
def test_shape_and_dtype_are_kept(task: str, dtype: th.dtype) -> None:
    env = gymnasium.make(task)
    known = task_functions(env, approximate=True)
    assert known.reward_fn is not None
    assert known.termination_fn is not None
    assert env.observation_space.shape is not None
    obs = th.randn(5, env.observation_space.shape[0], dtype=dtype)
    action = th.as_tensor(np.stack([env.action_space.sample() for _ in range(5)]))
    reward, end = known.reward_fn(obs, action, obs + 0.01), known.termination_fn(obs, action, obs + 0.01)
    assert (reward.shape, reward.dtype) == ((5,), dtype)
    assert (end.shape, end.dtype) == ((5,), th.bool)


@pytest.mark.parametrize(
    ("task", "velocity"),
    [("Hopper-v5", True), ("Ant-v5", True), ("Reacher-v5", False), ("Pusher-v5", False), ("Pendulum-v1", False)],
)
def test_gradients_agree_with_finite_differences(task: str, velocity: bool) -> None:
    env = make(task, {}, velocity)
    reward_fn = task_functions(env).reward_fn
    assert reward_fn is not None
    assert env.observation_space.shape is not None
    assert env.action_space.shape is not None
    generator = th.Generator().manual_seed(0)
    size, actions = env.observation_space.shape[0], env.action_space.shape[0]
    obs, next_obs = (th.randn(3, size, dtype=th.float64, generator=generator).requires_grad_() for _ in range(2))
    action = th.rand(3, actions, dtype=th.float64, generator=generator).requires_grad_()
    assert th.autograd.gradcheck(reward_fn, (obs, action, next_obs))


def test_pendulum_charges_for_the_torque_that_its_motor_gives() -> None:
    env = gymnasium.make("Pendulum-v1")
    env.unwrapped.max_torque = 1.5  # type: ignore[attr-defined]
    reward_fn = task_functions(env).reward_fn
    assert reward_fn is not None
    hanging = th.tensor([[-1.0, 0.0, 2.0]], dtype=th.float64)
    np.testing.assert_allclose(reward_fn(hanging, th.tensor([[-9.0]]), hanging), -(np.pi**2 + 0.4 + 0.001 * 1.5**2))


def test_centre_of_mass_velocity_by_hand() -> None:
    from mbrl_wrappers.tasks.locomotion import CenterOfMassVelocity

    velocity = CenterOfMassVelocity(cinert=0, cvel=20, bodies=2)
    row = th.zeros(1, 32, dtype=th.float64)
    row[0, 6:10] = th.tensor([0.0, 2.0, 0.0, 1.0])  # mass 1, first moment (0, 2, 0)
    row[0, 16:20] = th.tensor([0.0, -2.0, 0.0, 3.0])  # mass 3
    row[0, 20:26] = th.tensor([0.0, 0.0, 5.0, 7.0, 0.0, 0.0])  # turns about z at 5, moves along x at 7
    row[0, 26:32] = th.tensor([0.0, 0.0, 0.0, -1.0, 0.0, 0.0])
    # (0, 0, 5) x (0, 2, 0) = (-10, 0, 0), so (1 * 7 - 10 + 3 * -1) / 4
    assert velocity(row, row).tolist() == [-1.5]


def test_double_pendulum_s_reward_by_hand() -> None:
    reward_fn = task_functions(gymnasium.make("InvertedDoublePendulum-v5")).reward_fn
    assert reward_fn is not None
    quarter = np.pi / 6  # both poles to the right: the upper one by 90 degrees
    row = [0.5, np.sin(quarter), np.sin(2 * quarter), np.cos(quarter), np.cos(2 * quarter), 7.0, 3.0, -2.0, 9.0]
    rows = th.tensor([row, [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]], dtype=th.float64)
    x, y = 0.5 + 0.6 * 0.5 + 0.6 * 1.0, 0.6 * np.cos(quarter)
    fallen = -0.01 * x**2 - (y - 2) ** 2 - 1e-3 * 3.0**2 - 5e-3 * 2.0**2
    upright = 10 - (1.2 - 2) ** 2
    assert reward_fn(rows, th.zeros(2, 1), rows).tolist() == pytest.approx([fallen, upright], abs=1e-12)


def test_pusher_s_reward_by_hand() -> None:
    reward_fn = task_functions(
        gymnasium.make("Pusher-v5", reward_near_weight=2.0, reward_dist_weight=3.0, reward_control_weight=0.5)
    ).reward_fn
    assert reward_fn is not None
    row = th.zeros(1, 23, dtype=th.float64)
    row[0, 14:17], row[0, 17:20] = th.tensor([1.0, 2.0, 2.0]), th.tensor([1.0, 2.0, 0.0])
    row[0, 20:23] = th.tensor([1.0, 5.0, 4.0])
    assert reward_fn(row, th.full((1, 7), 2.0), row).tolist() == [-(2.0 * 2.0 + 3.0 * 5.0 + 0.5 * 28.0)]
