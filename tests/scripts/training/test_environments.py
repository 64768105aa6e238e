"""Environment ids: known, unknown, and registered by a module that is imported first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from scripts import enjoy
from scripts.runs.reading import read_run
from scripts.train import main
from scripts.training.environments import check_env_id

MODULE = """
import gymnasium
gymnasium.register("planted/Swing-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=20)
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module ``planted_envs`` that registers ``planted/Swing-v0``."""
    (tmp_path / "planted_envs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    gymnasium.registry.pop("planted/Swing-v0", None)
    sys.modules.pop("planted_envs", None)


def test_a_run_in_an_environment_of_a_module(planted: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yml").write_text("planted/Swing-v0: {n_timesteps: 30, learning_starts: 20, batch_size: 8}")
    argv = ["--env", "planted_envs:planted/Swing-v0", "--conf-file", str(tmp_path / "own.yml"), "--no-model"]
    assert (
        main([*argv, "--eval-episodes", "1", "-f", str(tmp_path), "--hyperparams", "policy_kwargs.net_arch:[8]"]) == 0
    )
    folder = tmp_path / "sac" / "planted-Swing-v0_1"
    run = read_run(folder)
    assert run.task == "planted_envs:planted/Swing-v0"  # so that whoever reads it imports the module, too
    assert run.summary["real_steps"] == 30  # the entry goes by the registered id
    assert enjoy.main([str(folder), "--n-episodes", "1"]) == 0
    assert "20 steps, time limit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Hoper-v5", "no environment 'Hoper-v5'. Did you mean 'Hopper-v5'?"),
        ("planted_envs:planted/Swnig-v0", "'planted/Swnig-v0', and importing planted_envs registers none. Did you"),
        ("no_such_module:Swing-v0", "no module 'no_such_module' to import .* PYTHONPATH"),
        ("no_such_package.inner:Swing-v0", "no module 'no_such_package.inner' to import"),
    ],
)
def test_an_unknown_id_gets_a_sentence(planted: None, env_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_env_id(env_id)


def test_a_module_that_lacks_something_itself_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_planted.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        check_env_id("half_planted:Swing-v0")
