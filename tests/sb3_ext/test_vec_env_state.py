"""The state of a VecEnv: one that was built anew goes on to the last bit, with statistics and counters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.storage.state_file import read_state, write_state
from sb3_ext.vec_env_state import load_vec_env_state, vec_env_state, why_vec_not_exportable

MADE: dict[str, Any] = {
    "dummy": lambda: make_vec_env("CartPole-v1", 3, seed=1),
    "mujoco": lambda: make_vec_env("Hopper-v5", 2, seed=1),
    "normalised": lambda: VecNormalize(make_vec_env("Hopper-v5", 2, seed=1)),
    "monitored": lambda: VecMonitor(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 2)),
    "stacked": lambda: VecFrameStack(make_vec_env("Pendulum-v1", 2, seed=1), 3),
    "checked": lambda: VecCheckNan(VecNormalize(make_vec_env("InvertedPendulum-v5", 2, seed=1))),
}


def stepped(vec_env: VecEnv, steps: int) -> Any:
    """The answers to actions that are drawn from the space's own stream, wall times left out."""
    seen = []
    for _ in range(steps):
        actions = np.array([vec_env.action_space.sample() for _ in range(vec_env.num_envs)])
        *answer, infos = vec_env.step(actions)
        for info in infos:
            info.get("episode", {}).pop("t", None)
        seen.append([*answer, [(info.get("episode"), info.get("terminal_observation")) for info in infos]])
    return comparable(seen)


def saved(vec_env: VecEnv, folder: Path) -> Any:
    state = vec_env_state(vec_env)
    assert state is not None, why_vec_not_exportable(vec_env)
    write_state(folder / "vec.safetensors", state)
    return read_state(folder / "vec.safetensors")[0]


@pytest.mark.parametrize("name", MADE)
def test_a_vec_env_goes_on_to_the_last_bit(name: str, tmp_path: Path) -> None:
    vec_env = MADE[name]()
    vec_env.action_space.seed(3)
    vec_env.reset()
    stepped(vec_env, 30)
    state = saved(vec_env, tmp_path)
    fresh = MADE[name]()
    load_vec_env_state(fresh, state)
    assert stepped(fresh, 40) == stepped(vec_env, 40)
    if isinstance(vec_env, VecNormalize):
        assert fresh.get_original_obs() == pytest.approx(vec_env.get_original_obs(), abs=0)


def test_a_seed_that_waits_for_the_next_reset_is_kept(tmp_path: Path) -> None:
    vec_env = make_vec_env("Pendulum-v1", 2, seed=1)
    vec_env.reset()
    vec_env.seed(9)
    state = saved(vec_env, tmp_path)
    fresh = make_vec_env("Pendulum-v1", 2, seed=2)
    load_vec_env_state(fresh, state)
    assert np.array_equal(fresh.reset(), vec_env.reset())


def test_environments_in_other_processes_are_out_of_reach() -> None:
    vec_env = SubprocVecEnv([lambda: gymnasium.make("Pendulum-v1")], "fork")
    try:
        assert vec_env_state(VecNormalize(vec_env)) is None
        assert "SubprocVecEnv" in why_vec_not_exportable(vec_env)
    finally:
        vec_env.close()


def test_an_environment_that_hides_its_state_is_named_by_its_number() -> None:
    vec_env = DummyVecEnv([lambda: gymnasium.make("Pendulum-v1"), lambda: gymnasium.make("Pendulum-v1")])
    raw: Any = vec_env.envs[1].unwrapped
    raw.file = (number for number in range(3))
    assert vec_env_state(vec_env) is None
    assert why_vec_not_exportable(vec_env).startswith("Environment 1:")


def test_states_of_another_vec_env_are_refused() -> None:
    two, three = (make_vec_env("Pendulum-v1", number) for number in (2, 3))
    for each in (two, three):
        each.reset()
    state: Any = vec_env_state(two)
    with pytest.raises(ValueError, match="2 environments.*3"):
        load_vec_env_state(three, state)
    with pytest.raises(ValueError, match="VecNormalize"):
        load_vec_env_state(VecNormalize(make_vec_env("Pendulum-v1", 2)), state)
