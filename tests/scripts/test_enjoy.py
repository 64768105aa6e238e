"""Watching an agent: what cannot be found or drawn is said in a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from scripts import enjoy, plan, plot, table, train
from scripts.check_docs import ROOT

UNDRAWN = """
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

class Undrawn(PendulumEnv):
    metadata = {"render_modes": []}
    def __init__(self):
        super().__init__()

class Silent(PendulumEnv):
    metadata = {"render_modes": ["rgb_array"], "render_fps": None}
    def render(self):
        return None

gymnasium.register("Undrawn-v0", Undrawn, max_episode_steps=5)
gymnasium.register("Silent-v0", Silent, max_episode_steps=5)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module ``undrawn`` in it that is found nowhere else."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "undrawn.py").write_text(UNDRAWN)
    yield tmp_path
    for name in ("Undrawn-v0", "Silent-v0"):
        gymnasium.registry.pop(name, None)
    sys.modules.pop("undrawn", None)


def trained(env_id: str) -> Path:
    small = ["--hyperparams", "learning_starts:5", "policy_kwargs.net_arch:[4]", "batch_size:4", "n_timesteps:10"]
    assert train.main(["--env", env_id, "--no-model", "--eval-episodes", "1", *small]) == 0
    return Path("logs/sac") / f"{env_id.rpartition(':')[2]}_1"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (enjoy, ["nowhere"]),
        (enjoy, ["nowhere/agent.zip"]),
        (plot, ["model", "nowhere"]),
        (plot, ["returns", "nowhere"]),
        (table, ["nowhere"]),
        (plan, ["--env", "Pendulum-v1", "--steps", "1", "--no-progress", "--terminal-value", "nowhere"]),
        (plan, ["--env", "Pendulum-v1", "--steps", "1", "--no-progress", "--model", "nowhere"]),
    ],
)
def test_what_does_not_exist_is_named(
    folder: Path, command: object, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words) == 2  # type: ignore[attr-defined]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: There is no {next(word for word in words if word.startswith('nowhere'))}")


@pytest.mark.filterwarnings("ignore:.*render:UserWarning")
@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        ("undrawn:Undrawn-v0", "undrawn:Undrawn-v0 draws no pictures: its constructor takes no render_mode."),
        ("undrawn:Silent-v0", "draws no pictures."),
    ],
)
def test_a_film_of_what_draws_no_pictures_is_refused(
    folder: Path, env_id: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(env_id)
    for command in (
        lambda: enjoy.main([str(run), "--n-episodes", "1", "--video", "film.mp4"]),
        lambda: plan.main(["--env", env_id, "--planner", "cem", "--no-progress", "--video", "films"]),
    ):
        capsys.readouterr()
        assert command() == 2
        assert reason in capsys.readouterr().err
    assert not (folder / "film.mp4").exists()
    assert enjoy.main([str(run), "--n-episodes", "1"]) == 0


def test_a_module_in_the_current_folder_is_found(folder: Path) -> None:
    """In a process of its own: the path of this one has the checkout and, under pytest, more."""
    words = ["scripts/plan.py", "--env", "undrawn:Undrawn-v0", "--steps", "1", "--no-progress", "--planner", "random"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / words[0]), *words[1:], "--hyperparams", "population:2"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 steps" in done.stdout
