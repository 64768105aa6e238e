"""What is said of observations that models cannot predict, and that doing as it says helps."""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import DtypeObservation, FlattenObservation
from stable_baselines3 import DQN

from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer
from mbrl_wrappers.spaces import check_observation_space
from sb3_ext import DynaCallback, DynaConfig, MixedReplayBuffer


class Showing(gymnasium.Env[Any, Any]):
    """Shows samples of a space, and nothing else."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}


def advised(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment wrapped as the refusal of its observations says, word for word."""
    with pytest.raises(TypeError, match=r"from gymnasium\.wrappers") as refusal:
        check_observation_space(env.observation_space)
    (code,) = re.findall(r"(DtypeObservation\(.*\)),? (?:both )?from", str(refusal.value))
    names = {"DtypeObservation": DtypeObservation, "FlattenObservation": FlattenObservation, "np": np, "env": env}
    return eval(code, names)


@pytest.mark.filterwarnings("ignore:.*precision lowered")  # Gymnasium of float64 bounds, rightly
@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Discrete(16), 16),
        (spaces.Discrete(3, start=5), 3),
        (spaces.MultiDiscrete([2, 3]), 5),
        (spaces.MultiBinary(4), 4),
        (spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,)))), 5),
        (spaces.Dict({"place": spaces.Box(-np.inf, np.inf, (2, 2), np.float64), "on": spaces.MultiBinary(1)}), 5),
        (spaces.Box(0, 9, (3,), np.int64), 3),
        (spaces.Box(-1, 1, (2, 3)), 6),
    ],
)
def test_the_advice_makes_the_observation_a_row_of_floats(space: spaces.Space[Any], size: int) -> None:
    env = advised(Showing(space))
    assert check_observation_space(env.observation_space).shape == (size,)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space


@pytest.mark.filterwarnings("ignore:.*predictions of the model were dropped")  # so few rows make no good model
def test_an_agent_learns_on_the_frozen_lake_as_advised() -> None:
    env = advised(gymnasium.make("FrozenLake-v1"))
    dynamics = EnsembleDynamics(env.observation_space, env.action_space, num_members=2, num_elites=1, hidden=(8,))
    agent = DQN(
        "MlpPolicy",
        env,
        learning_starts=40,
        replay_buffer_class=MixedReplayBuffer,
        policy_kwargs={"net_arch": [8]},
        seed=0,
    )
    config = DynaConfig(rollouts_per_step=20, rollout_freq=40, model_train_freq=40, min_real_rows=40)
    dyna = DynaCallback(dynamics, config, trainer=Trainer(dynamics, FitConfig(max_epochs=3)))
    agent.learn(80, callback=dyna)
    assert dyna.report is not None
    assert len(agent.replay_buffer.synthetic) > 0
