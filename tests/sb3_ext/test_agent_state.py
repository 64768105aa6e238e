"""What the state of an agent must hold, and which agents are refused since theirs would lack something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

from controllers import CEM, MPCPolicy
from mbrl_wrappers import FunctionModel
from mbrl_wrappers.storage.state_file import read_state, write_state
from sb3_ext import DynaCallback, DynaConfig
from sb3_ext.agent_state import agent_state, load_agent_state
from sb3_ext.agents import MVESAC, NAF
from sb3_ext.agents.naf_explorer import ExploringController
from sb3_ext.plain_values import plain, revived
from sb3_ext.replay_ring import check_can_be_kept
from tests.sb3_ext.resumed_runs import Built, differences, run

SMALL: dict[str, Any] = {"learning_starts": 5, "batch_size": 8, "buffer_size": 200, "seed": 0, "device": "cpu"}


def small(cls: Any, n_envs: int = 1, **kwargs: Any) -> Any:
    env = make_vec_env("Pendulum-v1", n_envs=n_envs, seed=0)
    return cls("MlpPolicy", env, **{**SMALL, "policy_kwargs": {"net_arch": [8]}, **kwargs})


def test_the_noise_of_several_environments_goes_on() -> None:
    def agent() -> TD3:
        noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))
        return small(TD3, 2, action_noise=noise)  # type: ignore[no-any-return]

    saved, resumed = agent(), agent()
    saved.learn(20)
    load_agent_state(resumed, agent_state(saved))
    one, other = ([noise.noise_prev for noise in each.action_noise.noises] for each in (saved, resumed))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one[0], one[1])


def test_means_of_float32_numbers_are_rounded_as_they_would_have_been(tmp_path: Path) -> None:
    rewards = list(np.random.default_rng(0).normal(size=7).astype(np.float32) * 1000)
    write_state(tmp_path / "state", {"episodes": plain([{"r": reward, "l": 3} for reward in rewards])})
    found = revived(read_state(tmp_path / "state")[0]["episodes"])
    assert {type(episode["r"]) for episode in found} == {np.float32}
    assert np.mean([episode["r"] for episode in found]) == np.mean(rewards)
    assert np.mean([float(reward) for reward in rewards]) != np.mean(rewards)


class OwnStream(SAC):
    """Draws from a stream of its own."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.stream = th.Generator()


class OwnModelUse(SAC):
    """Computes with a model in its update."""

    def check_model(self, dynamics: Any, starts: Any) -> None: ...

    def use_model(self, dynamics: Any) -> None: ...


@pytest.mark.parametrize(
    ("cls", "what"), [(OwnStream, "the random stream stream"), (OwnModelUse, "what it computes with the model")]
)
def test_an_agent_that_holds_more_than_it_says_is_refused(cls: type[SAC], what: str) -> None:
    with pytest.raises(TypeError, match=f"cannot keep {what} of {cls.__name__}: give it own_state"):
        agent_state(small(cls))


class Prioritized(ReplayBuffer):
    """Holds a number for each row."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.priorities = np.ones(self.buffer_size)


class Renamed(NStepReplayBuffer):
    """Holds no more than its parent."""


def test_a_buffer_that_holds_more_than_columns_is_refused() -> None:
    with pytest.raises(TypeError, match="A Prioritized holds priorities besides the columns"):
        check_can_be_kept(small(SAC, replay_buffer_class=Prioritized).replay_buffer)
    check_can_be_kept(small(SAC, replay_buffer_class=Renamed).replay_buffer)
    for more in ({}, {"n_steps": 3}):
        check_can_be_kept(small(SAC, **more).replay_buffer)


def pendulum_function(agent: Any) -> FunctionModel:
    def step(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        return obs + 0.01 * action, -obs.square().sum(-1), th.zeros(len(obs), dtype=th.bool)

    return FunctionModel(agent.observation_space, agent.action_space, step)


def test_a_function_is_handed_over_when_it_would_have_been(tmp_path: Path) -> None:
    """A checkpoint from before the first rollout is due: until then the agent learns without the model."""

    def build() -> Built:
        agent = small(MVESAC)
        config = DynaConfig(model_train_freq=250, rollout_freq=250, min_real_rows=60)
        return Built(agent, [DynaCallback(pendulum_function(agent), config)])

    whole = run(tmp_path / "whole", build, 75, every=30)
    killed = run(tmp_path / "killed", build, 75, (40,), every=30)
    assert killed.restored_to == [0, 30]
    assert list(differences(whole.state, killed.state)) == []


def test_a_controller_that_explores_goes_on_in_its_episode(tmp_path: Path) -> None:
    def build() -> Built:
        agent = small(NAF, 2)
        planner = MPCPolicy(pendulum_function(agent), CEM(population=8, iterations=1), horizon=3, execute=2)
        agent.explore_with(ExploringController(planner, 0.1, seed=3))
        return Built(agent, [])

    whole = run(tmp_path / "whole", build, 60, every=30)
    killed = run(tmp_path / "killed", build, 60, (50,), every=30)
    assert killed.restored_to == [0, 30]
    assert whole.state["agent"]["own"]["explorer"]["episodes"] == 1
    assert list(differences(whole.state, killed.state)) == []
