"""The exact models of the experiment, and what its numbers have to say at a small size."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch as th

from mbrl_wrappers.seeding import torch_generator
from scripts.experiments.gradients_by_horizon import (
    STOP_ANGLE,
    TASKS,
    growth_of_the_damped_mass,
    linear_step,
    main,
    pendulum_step,
    read,
    stops_step,
)


def test_the_pendulum_is_gymnasiums() -> None:
    env = gymnasium.make("Pendulum-v1")
    obs, _ = env.reset(seed=3)
    draws = np.random.default_rng(0)
    for _ in range(40):
        action = draws.uniform(-1.2, 1.2)  # beyond the bounds, where both clip
        following, reward, _ = pendulum_step(th.tensor(obs[None], dtype=th.float64), th.tensor([[action]]).double())
        obs, paid, *_ = env.step(np.array([2 * action], np.float32))
        np.testing.assert_allclose(following[0].numpy(), obs, atol=2e-6)
        assert float(reward) == pytest.approx(float(paid), abs=1e-5)


def test_growth_at_the_top_and_of_the_damped_mass_are_those_of_the_jacobians() -> None:
    def jacobian(step, obs: list[float]) -> np.ndarray:  # type: ignore[no-untyped-def]
        def following(x: th.Tensor) -> th.Tensor:
            return step(x[None], th.zeros(1, 1, dtype=th.float64))[0][0]  # type: ignore[no-any-return]

        return th.autograd.functional.jacobian(following, th.tensor(obs, dtype=th.float64)).numpy()  # type: ignore[no-untyped-call,no-any-return]

    at_top = np.abs(np.linalg.eigvals(jacobian(pendulum_step, [1.0, 0.0, 0.0]))).max()
    assert math.log(at_top) == pytest.approx(TASKS[1].rate, rel=1e-9)
    damped = np.abs(np.linalg.eigvals(jacobian(linear_step, [0.3, 0.1])))
    assert np.log(damped).tolist() == pytest.approx([growth_of_the_damped_mass()] * 2)
    # In substeps the same continuous growth, sqrt(15) per second.
    between = np.abs(np.linalg.eigvals(jacobian(stops_step, [0.0, 0.0]))).max()
    assert math.log(between) == pytest.approx(math.sqrt(15) * 0.05, rel=1e-3)


def test_the_stops_hold_and_keep_the_energy() -> None:
    obs = th.tensor([[0.0, 1.0], [0.2, -0.5]], dtype=th.float64)

    def energy(state: th.Tensor) -> th.Tensor:
        return state[:, 1] ** 2 / 2 + 15 * th.cos(state[:, 0])

    before = energy(obs)
    turned = th.zeros(2, dtype=th.bool)
    for _ in range(60):
        obs, _, _ = stops_step(obs, th.zeros(2, 1, dtype=th.float64))
        assert (obs[:, 0].abs() < STOP_ANGLE + 0.05).all()
        turned |= obs[:, 0].abs() > STOP_ANGLE - 0.05
        free = obs[:, 0].abs() < STOP_ANGLE  # outside, some of it is in the spring
        assert ((energy(obs) - before).abs()[free] < 0.25).all()
    assert turned.all()


def test_pathwise_is_better_at_short_horizons_and_only_the_stops_reverse_it(tmp_path: Path) -> None:
    words = ["--seeds", "0", "--rows", "64", "--groups", "2", "--horizons", "2", "40", "-o", str(tmp_path / "p.png")]
    pytest.importorskip("matplotlib")
    main([str(tmp_path), "--tasks", "damped-mass", "stiff-stops", *words])
    damped, stops = (each.health for each in read(tmp_path))
    for health in (damped, stops):
        assert health.horizons == (2, 40)
        assert health.pathwise_variance[0] < 0.1 * health.likelihood_ratio_variance[0]
    assert damped.pathwise_variance[1] < 0.1 * damped.likelihood_ratio_variance[1]
    assert stops.pathwise_variance[1] > 10 * stops.likelihood_ratio_variance[1]
    assert damped.log_growth[1] < 0 < stops.log_growth[1]
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_starts_lie_in_their_box() -> None:
    for task in TASKS:
        starts = task.starts(200, torch_generator(1))
        assert starts.shape == (200, task.size)
        speed = starts[:, -1].abs()
        assert task.widest[1] * 0.9 < float(speed.max()) <= task.widest[1]
