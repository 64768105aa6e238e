"""A system whose best controller is known: what an agent can earn in either form of its exact latent model."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env

from mbrl_wrappers.envs import ModelEnv, ModelVectorEnv
from mbrl_wrappers.latent import BeliefObservation, LinearGaussianModel
from mbrl_wrappers.latent.model import Form
from mbrl_wrappers.linear_system import NOISY_POSITION, LinearSystem
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.tasks.lqg import NAME, LinearSystemEnv

GAINS = NOISY_POSITION.control_gains()


def model(form: Form) -> LinearGaussianModel:
    return LinearGaussianModel(NOISY_POSITION, LinearSystemEnv().action_space, form=form)  # type: ignore[arg-type]


def starts(form: Form, count: int) -> np.ndarray[Any, Any]:
    """Features of first states, or of the beliefs after a first reading."""
    exact, generator = model(form), torch_generator(5)
    state = th.randn(count, 2, generator=generator)
    if form == "state":
        return state.numpy()
    reading = state[:, :1] + 0.2 * th.randn(count, 1, generator=generator)
    nothing, first = th.zeros(count, 1), th.ones(count, dtype=th.bool)
    belief = exact.observe(exact.initial(count), nothing, reading, first, generator=generator)
    return exact.features(belief).numpy()


def imagined_returns(form: Form, count: int) -> np.ndarray[Any, Any]:
    """Returns of the best controller in the latent model as an environment."""
    rows = starts(form, count)
    env = ModelVectorEnv(model(form), rows, count, horizon=NOISY_POSITION.steps)
    env.reset(seed=0, options={"obs": rows})
    obs, total = rows, np.zeros(count)
    for gain in GAINS:
        obs, reward, _, truncated, _ = env.step(np.clip(-obs[:, :2] @ gain.T, -10, 10).astype(np.float32))
        total += reward
    assert truncated.all()
    return total


def test_the_formulas_give_the_known_returns_and_gains() -> None:
    assert NOISY_POSITION.expected_return(observed=True) == pytest.approx(-13.24, abs=0.005)
    assert NOISY_POSITION.expected_return(observed=False) == pytest.approx(-18.78, abs=0.005)
    np.testing.assert_allclose(GAINS[0], [[2.8211, 2.2212]], atol=1e-4)
    covariance = NOISY_POSITION.filter_covariances()[-1]
    before = NOISY_POSITION.drift @ covariance @ NOISY_POSITION.drift.T + NOISY_POSITION.process_noise
    np.testing.assert_allclose(before[:, 0] / (before[0, 0] + 0.04), [0.1927, 0.1887], atol=1e-4)


@pytest.mark.parametrize(("form", "expected"), [("belief", -18.78), ("state", -13.24)])
def test_imagined_returns_of_the_best_controller_in_both_forms(form: Form, expected: float) -> None:
    assert imagined_returns(form, 20_000).mean() == pytest.approx(expected, abs=0.3)


def test_the_filter_s_errors_are_as_large_as_its_covariance_says() -> None:
    env = BeliefObservation(gym.make(NAME), model("belief"), seed=0)
    errors = []
    for episode in range(40):
        obs, info = env.reset(seed=episode)
        for _ in range(15):
            obs, _, _, _, info = env.step(np.array([np.sin(episode)], np.float32))
        errors.append(obs[:2] - info["state"])
    covariance = NOISY_POSITION.filter_covariances()[15]
    np.testing.assert_allclose(obs[2:].reshape(2, 2), covariance, rtol=1e-3)
    np.testing.assert_allclose(np.std(errors, axis=0), np.sqrt(np.diag(covariance)), rtol=0.35)


@pytest.mark.filterwarnings("ignore:.*WARN")  # of sensors and controls without bounds
@pytest.mark.parametrize("form", ["state", "belief"])
def test_both_forms_are_environments_with_the_spaces_of_the_filtered_one(form: Form) -> None:
    env = ModelEnv(model(form), starts(form, 8), 5)
    check_env(env, skip_render_check=True)
    real = BeliefObservation(gym.make(NAME), model(form))
    assert (env.observation_space, env.action_space) == (real.observation_space, real.action_space)


@pytest.mark.filterwarnings("ignore:.*WARN")
def test_the_environment_pays_for_the_state_before_the_step() -> None:
    env = LinearSystemEnv()
    env.reset(seed=0, options={"state": np.array([2.0, 1.0])})
    _, reward, _, _, info = env.step(np.array([3.0], np.float32))
    assert reward == pytest.approx(-(4 + 0.1 + 0.9))
    np.testing.assert_allclose(info["state"], [2.1, 1.25], atol=0.3)
    check_env(env, skip_render_check=True)


def test_matrices_that_do_not_go_together_are_refused() -> None:
    system = NOISY_POSITION
    with pytest.raises(ValueError, match=r"sensor_noise must have shape \(1, 1\)"):
        LinearSystem(
            system.drift,
            system.control,
            system.sensor,
            system.process_noise,
            np.eye(2),
            system.first,
            system.state_cost,
            system.control_cost,
        )
