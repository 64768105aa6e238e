"""Reading run folders and the results table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.runs.reading import find_runs, group_runs, read_run
from scripts.table import goal_table, main, results_table
from tests.scripts.runs_on_disk import write_run


def test_a_return_is_the_mean_over_episodes(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a", [[0.0, 10.0], [20.0, 40.0]]))
    np.testing.assert_array_equal(run.returns, [5.0, 30.0])
    assert run.return_at(100) == 5.0
    assert run.return_at(150) == 17.5
    assert run.return_at(99) is None
    assert run.return_at(201) is None


def test_table(tmp_path: Path) -> None:
    for seed, value in enumerate([1.0, 2.0, 6.0]):
        write_run(tmp_path / f"a{seed}", [[0.0], [value * 100]], seed=seed)
    write_run(tmp_path / "m", [[7.0], [700.0]], arm="sac+model", finished=False)
    lines = results_table(find_runs([tmp_path]), [200, 300]).splitlines()
    assert lines[0] == "| task | arm | seeds | 200 steps | 300 steps | minutes per run |"
    assert lines[2] == (
        "| Hopper-v5 | sac | 3 | **300** [100, 600] (100, 200, 600) | – | "
        "2.0 (env step 0.1, agent train 1.0, other 0.9) |"
    )
    assert lines[3].startswith("| Hopper-v5 | sac+model | 1 (1 unfinished) | **700** (700) | – |")


def test_table_at_the_last_common_evaluation(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [[1.0], [3.0], [9.0]], seed=0)
    write_run(tmp_path / "b", [[5.0], [7.0]], seed=1)
    assert "@200: **5** [3, 7] (3, 7)" in results_table(find_runs([tmp_path]), [])


def test_steps_to_a_goal(tmp_path: Path) -> None:
    for seed, returns in enumerate([[1, 9, 9, 9, 1], [9, 9, 8, 9, 9], [9, 7, 9, 9, 9]]):
        write_run(tmp_path / f"{seed}", [[float(value)] for value in returns], seed=seed)
    lines = goal_table(find_runs([tmp_path]), 9).splitlines()
    assert lines[2:] == [
        "| Hopper-v5 | sac | first | 200, 100, 100 | 100 |",
        "| Hopper-v5 | sac | 3 in a row | 400, never, 500 | 500 |",
    ]


def test_a_mark_may_be_a_stretch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", [[1.0], [3.0], [8.0]], seed=0)
    write_run(tmp_path / "b", [[5.0], [7.0]], seed=1)
    assert main([str(tmp_path), "--marks", "150-300", "200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| mean of 150 to 300 | 200 steps |" in lines[2]
    assert "| **6** (6, –) | **5** [3, 7] (3, 7) |" in lines[4]


def test_the_same_seed_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [[1.0]])
    write_run(tmp_path / "b", [[2.0]])
    with pytest.raises(ValueError, match="seed 0 twice"):
        group_runs(find_runs([tmp_path]))


def test_mixed_hyperparameters_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [[1.0]], seed=0, gradient_steps=1, n_timesteps=5)
    write_run(tmp_path / "b", [[2.0]], seed=1, gradient_steps=20, n_timesteps=6)
    with pytest.raises(ValueError, match=r"differ in gradient_steps \(.*--tag"):
        group_runs(find_runs([tmp_path]))


def test_no_run_is_an_error_with_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "No run with an evaluation" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no summary.json"):
        read_run(tmp_path)


def test_the_averaged_actor_is_an_arm_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "old", [[1.0], [2.0]], arm="old")
    write_run(tmp_path / "new", [[3.0], [4.0]], averaged=[[5.0], [6.0]])
    for policy, rows in (
        ("raw", [("old", 2), ("sac", 4)]),
        ("averaged", [("sac, averaged", 6)]),
        ("both", [("old", 2), ("sac", 4), ("sac, averaged", 6)]),
    ):
        assert main([str(tmp_path), "--policy", policy, "--goal", "4"]) == 0
        table, goal = capsys.readouterr().out.split("Real steps to")
        assert [tuple(line.split(" | ")[1:4:2]) for line in table.splitlines() if "Hopper" in line] == [
            (arm, f"@200: **{value}** ({value})") for arm, value in rows
        ]
        assert ("sac, averaged | first | 100" in goal) == (policy != "raw")
    assert main([str(tmp_path / "old"), "--policy", "averaged"]) == 2
    assert "No run with an evaluation of the averaged actor" in capsys.readouterr().err


def test_averages_of_different_lengths_are_no_one_arm(tmp_path: Path) -> None:
    for seed, steps in enumerate([200, 1000]):
        write_run(tmp_path / f"{seed}", [[1.0]], averaged=[[2.0]], average_steps=steps, seed=seed)
    assert len(group_runs(find_runs([tmp_path]))["Hopper-v5"]["sac"]) == 2
    write_run(tmp_path / "acting", [[1.0]], averaged=[[2.0]], seed=2)
    path = tmp_path / "acting" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_average": ["acting"]}))
    with pytest.raises(ValueError, match="differ in use_average"):
        group_runs(find_runs([tmp_path]))
    path.unlink()
    with pytest.raises(ValueError, match="differ in average_steps"):
        group_runs(find_runs([tmp_path], ["raw", "averaged"]))
