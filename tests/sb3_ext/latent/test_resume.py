"""Runs of agents on beliefs that are killed and resumed end bit for bit as those that were not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.latent import BeliefObservation
from mbrl_wrappers.storage.state_file import read_state, write_state
from mbrl_wrappers.tasks import NoisyObservation
from sb3_ext.latent import BeliefVecEnv
from sb3_ext.vec_env_state import why_vec_not_exportable
from tests.ordered import by_key
from tests.sb3_ext.latent.belief_agents import masked, small_agent, small_callback, small_model
from tests.sb3_ext.resumed_runs import Built, differences, run

pytestmark = pytest.mark.filterwarnings("ignore:The posterior has collapsed")


def noisy() -> Any:
    return NoisyObservation(masked(13)(), 0.1, seed=0)


def built(form: Any, n_envs: int, single: bool, **options: Any) -> Callable[[], Built]:
    """A run whose episodes end between fits and saves, evaluated in a copy."""

    def build() -> Built:
        sensors = [noisy] * n_envs
        model = small_model(form, env=noisy(), **options)
        if single:
            env: Any = DummyVecEnv([lambda: BeliefObservation(noisy(), model, seed=1)] * n_envs)
            apart: Any = DummyVecEnv([lambda: BeliefObservation(noisy(), model, seed=7)])
        else:
            env = BeliefVecEnv(DummyVecEnv(sensors), model, seed=1)
            apart = env.for_evaluation(DummyVecEnv([noisy] * 2), seed=7)
        apart.seed(11)
        agent = small_agent(model, env=env)
        evaluation = EvalCallback(apart, eval_freq=15, n_eval_episodes=2, warn=False, verbose=0)
        return Built(agent, [small_callback(model), evaluation])

    return build


CASES = {
    "belief": built("belief", 1, single=False),
    "belief, two environments": built("belief", 2, single=False, posterior="filter"),
    "wrapper": built("belief", 1, single=True),
    "window": built("state", 1, single=False, posterior="smoother", context=8),
}


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(build, id=name, marks=() if name == "belief, two environments" else pytest.mark.slow)
        for name, build in CASES.items()
    ],
)
def test_a_run_that_was_killed_twice_ends_as_one_that_was_not(build: Callable[[], Built], tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", build, 90, every=15)
    killed = run(tmp_path / "killed", build, 90, kills=(38, 71), every=15)
    assert len(killed.restored_to) == 3
    assert 30 <= killed.restored_to[1] <= 38
    assert 60 <= killed.restored_to[2] <= 71
    assert list(differences(whole.state, killed.state)) == []
    assert [row for row in whole.rows if "eval/mean_reward" in row[1]] == [
        row for row in killed.rows if "eval/mean_reward" in row[1]
    ]


@pytest.mark.parametrize("single", [True, False], ids=["wrapper", "vector"])
def test_beliefs_go_on_from_a_file(single: bool, tmp_path: Path) -> None:
    model = small_model("state", posterior="filter", env=noisy())

    def make() -> Any:
        if single:
            return DummyVecEnv([lambda: BeliefObservation(noisy(), model, seed=1)])
        return BeliefVecEnv(DummyVecEnv([noisy] * 2), model, seed=1)

    one, other = make(), make()
    assert why_vec_not_exportable(one) == ""
    holder = [each.envs[0] if single else each for each in (one, other)]
    fresh = holder[0].state_dict()
    write_state(tmp_path / "fresh", fresh)
    assert comparable(by_key(read_state(tmp_path / "fresh")[0])) == comparable(by_key(fresh))
    one.seed(3)
    one.reset()
    for _ in range(4):
        one.step(np.zeros((one.num_envs, 1), np.float32))
    write_state(tmp_path / "state", holder[0].state_dict())
    holder[1].load_state_dict(read_state(tmp_path / "state")[0])
    np.testing.assert_array_equal(holder[0].current(), holder[1].current())
    with th.no_grad():  # what was read since the episode began has come along
        next(model.parameters()).add_(0.1)
    np.testing.assert_array_equal(holder[0].current(), holder[1].current())
    with pytest.raises(ValueError, match="no state of"):
        holder[0].load_state_dict({})


def test_beliefs_of_another_number_of_episodes_are_refused() -> None:
    model = small_model()
    two, one = (BeliefVecEnv(DummyVecEnv([masked()] * rows), model) for rows in (2, 1))
    with pytest.raises(ValueError, match="of 2 beliefs, and here are 1"):
        one.load_state_dict(two.state_dict())
