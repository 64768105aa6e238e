from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_util import make_vec_env

from mbrl_wrappers.envs import ModelEnv, ModelVectorEnv, register_envs
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.function import FunctionModel
from mbrl_wrappers.storage import checkpoint
from tests.oracle import OracleEnv

NAME = "mbrl_wrappers/Model-v0"
STARTS = np.array([[0.0, 0.5, 1.0], [0.25, 0.0, -1.0]], np.float32)


@checkpoint.register_model("drift-for-the-registration-tests")
class Drift(FunctionModel):
    """Adds a stored vector to the observation."""

    def __init__(self, drift: th.Tensor) -> None:
        env = OracleEnv()
        self.drift = drift
        super().__init__(
            env.observation_space,
            env.action_space,
            lambda obs, action: (obs + drift, action[:, 0], obs[:, 0] > 100),
        )

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
        return {}, {"drift": self.drift}

    @classmethod
    def from_checkpoint(cls, config: Any, tensors: dict[str, th.Tensor], *, device: th.device) -> Drift:
        return cls(tensors["drift"])


@pytest.fixture
def path(tmp_path) -> str:
    register_envs()
    return str(checkpoint.save(Drift(th.tensor([1.0, 2.0, 3.0])), tmp_path / "drift", starts=STARTS))


def test_make_gives_the_saved_model_from_its_saved_starts(path) -> None:
    env = gymnasium.make(NAME, path=path, horizon=2)
    assert isinstance(env.unwrapped, ModelEnv)
    obs, _ = env.reset(seed=0)
    assert any((obs == start).all() for start in STARTS)
    following, reward, *ends, _ = env.step(np.array([0.4, 0.0], np.float32))
    np.testing.assert_array_equal(following, obs + np.array([1, 2, 3]))
    assert reward == pytest.approx(0.4)
    assert ends == [False, False]
    assert env.step(np.array([0.4, 0.0], np.float32))[3]


def test_make_vec_takes_the_batched_door(path) -> None:
    env = gymnasium.make_vec(NAME, num_envs=4, vectorization_mode="vector_entry_point", path=path, horizon=3)
    assert isinstance(env, ModelVectorEnv)
    assert (env.num_envs, env.metadata["autoreset_mode"]) == (4, AutoresetMode.SAME_STEP)
    obs, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.step(env.action_space.sample())[0], obs + np.array([1, 2, 3]))
    other = gymnasium.make_vec(NAME, num_envs=2, path=path, horizon=3, autoreset_mode="NextStep")
    assert other.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_the_horizon_may_be_left_out(path) -> None:
    env = gymnasium.make(NAME, path=path)
    assert env.unwrapped.horizon == 100
    assert gymnasium.make_vec(NAME, num_envs=2, path=path).horizon == 100


def test_a_fresh_process_finds_it_by_its_long_name(tmp_path) -> None:
    env = OracleEnv()
    model = EnsembleDynamics(env.observation_space, env.action_space, hidden=(4,), device="cpu")
    path = checkpoint.save(model, tmp_path / "small", starts=STARTS)
    code = (
        "import sys, gymnasium\n"
        "env = gymnasium.make('mbrl_wrappers:mbrl_wrappers/Model-v0', path=sys.argv[1], device='cpu')\n"
        "env.reset(seed=0)\n"
        "print(*env.step(env.action_space.sample())[0].shape, env.unwrapped.horizon)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.returncode) == ("3 100", 0), ran.stderr


def test_the_spec_survives_json(path) -> None:
    spec = gymnasium.make(NAME, path=path, horizon=2, starts=[[9.0, 9.0, 9.0]]).spec
    env = gymnasium.make(EnvSpec.from_json(spec.to_json()))
    np.testing.assert_array_equal(env.reset()[0], [9, 9, 9])


def test_starts_from_a_file_and_none_at_all(path, tmp_path) -> None:
    rows = tmp_path / "starts.npy"
    np.save(rows, np.full((3, 3), 4.0))
    np.testing.assert_array_equal(gymnasium.make(NAME, path=path, horizon=2, starts=str(rows)).reset()[0], [4, 4, 4])
    bare = str(checkpoint.save(Drift(th.zeros(3)), tmp_path / "bare"))
    with pytest.raises(ValueError, match="save the model with starts="):
        gymnasium.make(NAME, path=bare, horizon=2)


def test_a_pickle_in_place_of_starts_is_not_executed(path, tmp_path) -> None:
    rows = tmp_path / "starts.npy"
    np.save(rows, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        gymnasium.make(NAME, path=path, horizon=2, starts=str(rows))


def test_registering_twice_changes_nothing() -> None:
    register_envs()
    spec = gymnasium.spec(NAME)
    register_envs()
    assert gymnasium.spec(NAME) is spec


def test_stable_baselines_makes_it_by_name_though_it_asks_for_pictures(path) -> None:
    kwargs = {"path": path, "horizon": 3}
    env = make_vec_env(f"mbrl_wrappers:{NAME}", n_envs=2, seed=0, env_kwargs=kwargs)
    obs = env.reset()
    assert obs.shape == (2, 3)
    assert all(any((row == start).all() for start in STARTS) for row in obs)
    env.close()


def test_a_picture_that_is_asked_for_is_refused_with_the_reason(path) -> None:
    for mode in ("rgb_array", "human"):
        with pytest.raises(TypeError, match="A model cannot be rendered: render_mode must be None"):
            gymnasium.make(NAME, path=path, render_mode=mode)
    assert gymnasium.make(NAME, path=path, render_mode=None).render_mode is None
