"""The continuous cart-pole against Gymnasium's own."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import mbrl_wrappers  # noqa: F401  (registers the environment)
from mbrl_wrappers.envs import ContinuousCartPole
from mbrl_wrappers.tasks import check_agreement, task_functions

NAME = "mbrl_wrappers/ContinuousCartPole-v0"


def test_full_forces_are_the_two_actions_of_gymnasium() -> None:
    ours, theirs = gymnasium.make(NAME), gymnasium.make("CartPole-v1")
    rng = np.random.default_rng(0)
    ends = 0
    for seed in range(5):
        first, _ = ours.reset(seed=seed)
        assert np.array_equal(first, theirs.reset(seed=seed)[0])
        over = False
        while not over:
            push = int(rng.integers(2))
            one = ours.step(np.array([2.0 * push - 1.0], np.float32))
            other = theirs.step(push)
            assert np.array_equal(one[0], other[0])
            assert one[1:4] == (1.0, *other[2:4])
            over = one[2]
        ends += 1
    assert ends == 5


def test_the_force_grows_with_the_action_and_is_clipped() -> None:
    env = ContinuousCartPole()

    def speed(action: float) -> float:
        env.reset(seed=0)
        env.state = np.zeros(4)
        return float(env.step(np.array([action]))[0][1])

    full = speed(1.0)
    # 10 N on 1.1 kg for 0.02 s, with the pole's share: F / m - ml * spin_change / m at rest.
    spin_change = -(10 / 1.1) / (0.5 * (4 / 3 - 0.1 / 1.1))
    assert full == pytest.approx(0.02 * (10 / 1.1 - 0.05 * spin_change / 1.1), rel=1e-6)
    assert speed(0.25) == pytest.approx(0.25 * full, rel=1e-6)
    assert speed(-7.0) == pytest.approx(-full, rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*A Box observation space (min|max)imum value is:UserWarning")  # as of CartPole-v1
def test_the_checker_of_gymnasium_passes_and_the_limit_is_200() -> None:
    env = gymnasium.make(NAME)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 200


def test_reward_and_termination_are_known_exactly() -> None:
    env = gymnasium.make(NAME)
    assert task_functions(env).exact == {"reward", "termination"}
    report = check_agreement(env, steps=400)
    assert report.passed(0.0), report
    assert report.terminations is not None
    assert report.terminations.true_positives >= 5


@pytest.mark.parametrize("force", [0.0, -1.0, float("inf"), float("nan")])
def test_a_force_that_makes_no_sense_is_refused(force: float) -> None:
    with pytest.raises(ValueError, match="force_mag"):
        ContinuousCartPole(force)
