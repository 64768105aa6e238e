"""The exact judgement of FrozenLake's decisions against the known optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import make
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers import TabularModel
from scripts.experiments.mcts_results import exact_success


class Always:
    """Decides by a table, or at random where the table is mixed over repeats."""

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = actions

    def predict(self, states: np.ndarray) -> tuple[np.ndarray, None]:
        """Row ``i`` of the state's column of actions."""
        repeats = len(states) // 16
        return self.actions[states, np.tile(np.arange(repeats), 16)], None


def judged(actions: np.ndarray, **objective: Any) -> dict[str, float]:
    """What is said of decisions ``(16, repeats)``."""
    envs = DummyVecEnv([lambda: make("FrozenLake-v1")])
    return exact_success(envs, Always(actions), objective, actions.shape[1])  # type: ignore[arg-type]


def test_value_iteration_is_worth_what_is_known() -> None:
    solution = TabularModel.from_env(make("FrozenLake-v1")).value_iteration(0.999)
    values = th.as_tensor(solution.value).float()
    result = judged(solution.policy[:, None], discount=0.999, terminal_value=lambda obs: obs @ values)
    assert result == {
        "exact_success": pytest.approx(0.7402, abs=1e-4),
        "exact_success_without_search": pytest.approx(0.7402, abs=1e-4),
    }


def test_mixed_decisions_are_the_uniform_random_policy() -> None:
    result = judged(np.arange(4)[None].repeat(16, axis=0))
    env, wins = make("FrozenLake-v1"), 0.0
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(3000):
        terminated = truncated = False
        while not (terminated or truncated):
            _, reward, terminated, truncated, _ = env.step(int(rng.integers(4)))
            wins += float(reward)
        env.reset()
    assert set(result) == {"exact_success"}
    assert result["exact_success"] == pytest.approx(wins / 3000, abs=0.006)  # about three standard errors
