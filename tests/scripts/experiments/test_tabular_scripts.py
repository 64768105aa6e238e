"""The scripts of the tabular results: what they count, and that they run from end to end in small."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scripts.benchmarks import tabular
from scripts.experiments import dyna_q_mazes, toy_text


def test_settled_is_the_first_episode_whose_mean_is_low() -> None:
    assert dyna_q_mazes.settled(np.array([[90, 30, 26, 20], [10, 30, 24, 28]])) == 3
    assert dyna_q_mazes.settled(np.array([[90, 90]])) == 3  # not yet


def test_what_is_counted_in_the_mazes() -> None:
    lengths = dyna_q_mazes.episode_lengths("n = 50", 0)
    assert len(lengths) == dyna_q_mazes.EPISODES
    assert 14 <= np.mean(lengths[40:]) < 25
    rewards = dyna_q_mazes.cumulated_rewards("Dyna-Q", "blocking", 0)
    assert len(rewards) == 30
    assert rewards == sorted(rewards)


def test_the_picture_is_drawn_from_the_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    dyna_q_mazes.record(tmp_path, "dyna-maze", {"n = 5": [[100, 20, 20]]}, episodes=3)
    for maze in dyna_q_mazes.CHANGES:
        dyna_q_mazes.record(tmp_path, f"{maze}-maze", {"Dyna-Q": [list(range(30))]}, change_step=1000)
    dyna_q_mazes.main([str(tmp_path), "--picture", str(tmp_path / "picture.png"), "--only-draw"])
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_steps_to_the_optimum_of_the_cliff() -> None:
    result = toy_text.steps_to_optimum("CliffWalking-v1", "Dyna-Q, n = 50", 0)
    assert result["optimum"] == result["played"] == -13.0
    assert result["steps"] <= 1000
    assert result["curve"][-1][1] == -13.0


def test_rates_are_of_updates() -> None:
    rate = tabular.measure("nothing", lambda: None, 10, 0.0)
    assert 0 < rate.low <= rate.median <= rate.high


def test_committed_figures_hold_what_the_book_says() -> None:
    folder = Path(__file__).parents[3] / "docs" / "results" / "dyna-q"
    arms = json.loads((folder / "dyna-maze.json").read_text())["arms"]
    settled = [dyna_q_mazes.settled(np.array(arms[arm])) for arm in dyna_q_mazes.LEARNING_CURVES[:3]]
    assert settled == pytest.approx([26, 5, 3], abs=2)
    rewards = {
        arm: np.array(rows)[:, -1] - np.array(rows)[:, -11]
        for arm, rows in json.loads((folder / "shortcut-maze.json").read_text())["arms"].items()
    }
    assert rewards["Dyna-Q"].max() < rewards["Dyna-Q+"].min()


@pytest.mark.parametrize("script", [dyna_q_mazes, toy_text])
@pytest.mark.parametrize("flag", ["--seeds", "--workers"])
@pytest.mark.parametrize("word", ["0", "-1", "1.5"])
def test_counts_are_whole_numbers_from_one(
    script: ModuleType, flag: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.main([str(tmp_path), f"{flag}={word}"])
    assert "must be a whole number from 1" in capsys.readouterr().err
