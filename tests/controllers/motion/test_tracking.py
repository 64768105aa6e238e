"""Following a path: gains, fits, and a point that stays near its reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from controllers import LinearDynamics, Pace, PathTracker
from controllers.motion.tracking import lqr_gain

SECONDS = 0.05
DYNAMICS = LinearDynamics.double_integrator(2, SECONDS, strength=2.0)
BOX = spaces.Box(-1, 1, (2,), np.float32)
REFERENCE = Pace(1.0, 1.0, 0.05).reference([[0, 0], [1, 0], [1, 1.5], [0, 2]], SECONDS)


def driven(tracker: PathTracker, start: Any, steps: int, push: Any = None) -> Any:
    """Where the point is after each step; ``push`` is added to its state after step 20."""
    here, clock, states = np.asarray(start, float), None, []
    for number in range(steps):
        action, clock = tracker.predict(here, clock)
        assert BOX.contains(action)
        here = DYNAMICS.a @ here + DYNAMICS.b @ action
        if number == 20 and push is not None:
            here = here + push
        states.append(here)
    return np.array(states)


def off_the_path(states: Any) -> Any:
    return np.array([np.linalg.norm(REFERENCE.places - state[:2], axis=1).min() for state in states])


def test_the_gain_is_that_of_the_known_example() -> None:
    # Double integrator, step 0.1, Q = I, R = 0.1.
    gain = lqr_gain(LinearDynamics.double_integrator(1, 0.1), [1, 1], [0.1])
    np.testing.assert_allclose(gain, [[2.58570, 3.44344]], atol=5e-6)


def test_the_double_integrator_is_exact_for_held_actions() -> None:
    state = np.array([1.0, 2, 3, 4])
    after = DYNAMICS.a @ state + DYNAMICS.b @ [0.5, -0.5]
    np.testing.assert_allclose(after, [1 + 0.15 + 0.05**2 / 2, 2 + 0.2 - 0.05**2 / 2, 3.05, 3.95])


def test_the_fit_recovers_linear_dynamics() -> None:
    rng = np.random.default_rng(0)
    states, actions = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    after = states @ DYNAMICS.a.T + actions @ DYNAMICS.b.T
    fitted = LinearDynamics.fitted(states, actions, after)
    np.testing.assert_allclose(fitted.a, DYNAMICS.a, atol=1e-12)
    np.testing.assert_allclose(fitted.b, DYNAMICS.b, atol=1e-12)
    with pytest.raises(ValueError, match="50 steps of rank 4 do not determine 6 columns: take more, and varied"):
        LinearDynamics.fitted(states, np.zeros((50, 2)), after)


def test_the_point_follows_the_path_to_its_end() -> None:
    states = driven(PathTracker(REFERENCE, DYNAMICS, BOX), np.zeros(4), 200)
    assert off_the_path(states).max() < 0.05
    np.testing.assert_allclose(states[-1], [0, 2, 0, 0], atol=1e-6)


def test_a_push_is_made_good() -> None:
    states = driven(PathTracker(REFERENCE, DYNAMICS, BOX), np.zeros(4), 250, push=np.array([0, 0.2, 0.0, 0.5]))
    assert off_the_path(states[20:25]).max() > 0.15
    assert off_the_path(states[60:]).max() < 0.05
    np.testing.assert_allclose(states[-1], [0, 2, 0, 0], atol=1e-6)


def test_the_reference_waits_for_a_point_that_is_held() -> None:
    tracker, clock = PathTracker(REFERENCE, DYNAMICS, BOX), None
    held = np.array([0.3, 0, 0, 0])
    for _ in range(100):
        action, clock = tracker.predict(held, clock)
    assert clock < len(tracker) / 2
    assert action[0] > 0


def test_predict_is_a_function_of_its_arguments() -> None:
    tracker = PathTracker(REFERENCE, DYNAMICS, BOX)
    first, clock = tracker.predict(np.zeros(4))
    again, _ = tracker.predict(np.zeros(4), 57, episode_start=np.array([True]))
    np.testing.assert_array_equal(first, again)
    assert clock == 0
    assert first.dtype == np.float32


def test_observations_may_be_dictionaries_or_anything_with_a_function() -> None:
    here = np.array([0.1, 0.0, 0.2, 0.0])
    tracker = PathTracker(REFERENCE, DYNAMICS, BOX)
    plain, _ = tracker.predict(here)
    np.testing.assert_array_equal(tracker.predict({"observation": here, "desired_goal": here[:2]})[0], plain)
    np.testing.assert_array_equal(tracker.predict(np.append(here, 9.0))[0], plain)
    other = PathTracker(REFERENCE, DYNAMICS, BOX, observe=lambda obs: obs[::-1])
    np.testing.assert_array_equal(other.predict(here[::-1])[0], plain)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"A path of 2 coordinates needs dynamics of 4 states"):
        PathTracker(REFERENCE, LinearDynamics.double_integrator(3, SECONDS), BOX)
    tracker = PathTracker(REFERENCE, DYNAMICS, BOX)
    for observation in (np.zeros(3), np.array([0, np.nan, 0, 0])):
        with pytest.raises(ValueError, match=r"needs place and speed, \(4,\) finite numbers"):
            tracker.predict(observation)
