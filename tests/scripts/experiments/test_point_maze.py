"""The maze script: walls, and one drive to the goal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.experiments.point_maze import main, maze_problem, outside_walls, parse_arguments


def test_walls_keep_their_clearance() -> None:
    valid = outside_walls(np.array([[0.0, 0.0], [2.0, 0.0]]), 0.5, 0.2)
    points = np.array([[0, 0], [0.69, 0], [0.71, 0], [0.5, 0.69], [0.63, 0.65], [0.65, 0.65], [2, 0.6]])
    assert valid(points).tolist() == [False, False, True, False, False, True, False]


def test_arguments_have_defaults() -> None:
    arguments = parse_arguments(["--mazes", "A", "B", "--episodes", "3"])
    assert arguments.mazes == ("A", "B")
    assert arguments.episodes == 3
    assert arguments.planner == "rrt-star"


def test_the_goal_of_a_maze_is_reached(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    words = ["--mazes", "PointMaze_UMaze-v3", "--episodes", "2", "--planner", "rrt-connect"]
    episodes = main([*words, "--json", str(tmp_path / "maze.json")])
    assert [episode.success for episode in episodes] == [True, True]
    assert max(episode.largest_deviation for episode in episodes) < 0.1
    report = json.loads((tmp_path / "maze.json").read_text())
    assert report["reached"] == {"PointMaze_UMaze-v3": [2, 2]}
    assert report["command"].startswith("python scripts/experiments/point_maze.py --mazes PointMaze_UMaze-v3")


def test_the_problem_is_the_map_of_the_environment() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    gymnasium.register_envs(pytest.importorskip("gymnasium_robotics"))
    env = gymnasium.make("PointMaze_UMaze-v3")
    # A corridor that turns twice around a wall in the middle.
    problem = maze_problem(env.unwrapped, np.array([-1.0, 1.0]), np.array([-1.0, -1.0]), 0.2)
    assert problem.valid is not None
    cells = np.array([[-1, 1], [0, 1], [1, 1], [1, 0], [1, -1], [-1, 0], [0, 0]], float)
    assert problem.valid(cells).tolist() == [True] * 5 + [False] * 2
    env.close()
