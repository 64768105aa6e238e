"""Observations far from zero: what a model learns, predicts and plans there is what it does near zero."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from controllers import CEM, MPCPolicy
from mbrl_wrappers import EnsembleDynamics, FitConfig, ModelEnv, Trainer, TransitionStore, branched_rollout, load, save
from mbrl_wrappers.models import WithReward
from mbrl_wrappers.precision import model_dtype, observation_dtype
from mbrl_wrappers.tasks import never_terminates

OBS = spaces.Box(-np.inf, np.inf, (1,), np.float64)
ACTION = spaces.Box(-1.0, 1.0, (1,))
FAR = 5.5e6
"""Float32 numbers are half apart here: an easting in metres."""


@cache
def fitted(offset: float) -> EnsembleDynamics:
    """A model of ``x' = x + 0.1 a`` around ``offset``."""
    rng = np.random.default_rng(0)
    store = TransitionStore(1000, OBS, ACTION)
    for _ in range(30):
        action = rng.uniform(-1, 1, (20, 1))
        path = offset + np.append(rng.uniform(-0.5, 0.5), 0.1 * action).cumsum()[:, None]
        store.extend(path, action, -((path[1:, 0] - offset) ** 2), None, np.zeros(20, bool))
    model = EnsembleDynamics(
        OBS,
        ACTION,
        num_members=1,
        num_elites=1,
        hidden=(16,),
        propagation="mean",
        termination_fn=never_terminates,
        device="cpu",
    )
    Trainer(model, FitConfig(max_gradient_steps=200, learning_rate=1e-2), seed=0).fit(store.transitions())
    return model


def predicted(model: Any, start: float, steps: int = 5) -> np.ndarray:
    rollout = branched_rollout(
        model,
        lambda obs, generator: th.full((len(obs), 1), 0.5),
        th.tensor([[start]], dtype=th.float64),
        steps,
        generator=th.Generator(),
    )
    path: np.ndarray = rollout.transitions.next_obs[:, 0].numpy()
    return path


def test_a_model_far_from_zero_predicts_what_one_near_zero_does() -> None:
    near, far = predicted(fitted(0.0), 0.2), predicted(fitted(FAR), FAR + 0.2)
    assert (near.dtype, far.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(far - FAR, near, atol=2e-3)
    np.testing.assert_allclose(near, 0.2 + 0.05 * np.arange(1, 6), atol=0.01)


def test_a_file_and_another_reward_keep_the_precision(tmp_path: Any) -> None:
    model = fitted(FAR)
    expected = predicted(model, FAR + 0.2)
    np.testing.assert_array_equal(predicted(load(save(model, tmp_path / "model"), device="cpu"), FAR + 0.2), expected)
    rewarded = WithReward(model, lambda obs, action, next_obs: next_obs[:, 0])
    assert model_dtype(rewarded) == th.float64
    np.testing.assert_array_equal(predicted(rewarded, FAR + 0.2), expected)


def test_a_model_environment_shows_the_small_steps() -> None:
    env = ModelEnv(fitted(FAR), np.array([[FAR + 0.2]]), horizon=5)
    env.reset(seed=0)
    shown = [env.step(np.array([0.5], np.float32))[0] for _ in range(5)]
    np.testing.assert_array_equal(np.array(shown)[:, 0], predicted(fitted(FAR), FAR + 0.2))


@pytest.mark.parametrize("offset", [0.0, FAR])
def test_a_planner_knows_on_which_side_of_the_goal_it_is(offset: float) -> None:
    """The reward is best at the offset; float32 would see all of [-0.25, 0.25] as the offset."""
    policy: MPCPolicy[Any] = MPCPolicy(fitted(offset), CEM(population=100, iterations=3), horizon=2, seed=0)
    for start in (-0.2, 0.2):
        action, _ = policy.predict(np.array([offset + start]))
        assert np.sign(action[0]) == -np.sign(start)


@pytest.mark.parametrize(
    ("offset", "step", "dtype"),
    [
        (0.0, 1e-9, np.float32),  # small, and near zero
        (1.0, 0.01, np.float32),
        (FAR, 0.1, np.float64),
        (FAR, 1000.0, np.float32),  # half a metre does not matter
        (1.0, 1e-6, np.float64),
        (1.0, 0.0, np.float32),  # never changes
        (1.0, 1e-15, np.float32),  # rounding errors of float64
    ],
)
def test_the_dtype_follows_from_magnitude_and_change(offset: float, step: float, dtype: Any) -> None:
    obs = offset + step * np.random.default_rng(0).normal(size=(100, 1))
    assert observation_dtype(obs, obs + step) is dtype
    assert observation_dtype(obs.astype(np.float32), (obs + step).astype(np.float32)) is np.float32
    both = np.hstack([np.zeros((100, 1)), obs])  # one dimension decides
    assert observation_dtype(both, both + np.array([0.0, step])) is dtype


def test_models_take_float32_unless_they_say_otherwise() -> None:
    assert model_dtype(object()) == th.float32
    assert (model_dtype(fitted(0.0)), model_dtype(fitted(FAR))) == (th.float32, th.float64)
