"""The book's mazes: paths, passages, the moment of the change."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from scipy.sparse.csgraph import shortest_path
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import mbrl_wrappers  # noqa: F401  (registers the mazes)
from mbrl_wrappers.tasks import MazeEnv
from mbrl_wrappers.tasks.mazes import MazeMap, register_mazes

UP, RIGHT, DOWN, LEFT = range(4)
IDS = ["mbrl_wrappers/DynaMaze-v0", "mbrl_wrappers/BlockingMaze-v0", "mbrl_wrappers/ShortcutMaze-v0"]


def maze(env_id: str, steps: int = 0) -> MazeEnv:
    env = gymnasium.make(env_id).unwrapped
    assert isinstance(env, MazeEnv)
    env.reset(options={"steps": steps})
    return env


def path_length(env: MazeEnv) -> float:
    graph = np.zeros((54, 54))
    for state, actions in env.P.items():
        for ((_, following, _, _),) in actions.values():
            graph[state, following] = state != following
    return float(shortest_path(graph, unweighted=True)[env.layout.number("S"), env.layout.number("G")])


@pytest.mark.parametrize(
    ("env_id", "steps", "length"),
    [
        (IDS[0], 0, 14),
        (IDS[1], 999, 10),
        (IDS[1], 1000, 16),
        (IDS[2], 2999, 16),
        (IDS[2], 3000, 10),
    ],
)
def test_shortest_paths_are_the_books(env_id: str, steps: int, length: int) -> None:
    assert path_length(maze(env_id, steps)) == length


def test_the_dyna_maze_has_the_books_walls() -> None:
    env = maze(IDS[0])
    walls = {(r, c) for r, row in enumerate(env.layout.rows) for c, letter in enumerate(row) if letter == "#"}
    assert walls == {(1, 2), (2, 2), (3, 2), (4, 5), (0, 7), (1, 7), (2, 7)}
    assert (env.layout.number("S"), env.layout.number("G")) == (2 * 9, 8)


def test_a_random_walk_takes_as_long_as_it_must() -> None:
    """Expected steps of the uniform walk from the start, by the linear equations: 868.7."""
    env = maze(IDS[0])
    matrix = np.zeros((54, 54))
    for state, actions in env.P.items():
        for ((probability, following, _, terminated),) in actions.values():
            matrix[state, following] += 0.25 * probability * (not terminated)
    free = [s for s in range(54) if "".join(env.layout.rows)[s] in ".S"]
    steps = np.linalg.solve(np.eye(len(free)) - matrix[np.ix_(free, free)], np.ones(len(free)))
    assert steps[free.index(18)] == pytest.approx(868.7, abs=0.05)


def test_the_clock_runs_over_episodes_until_a_seeded_reset() -> None:
    env = maze(IDS[1], 998)
    closed, opened = 3 * 9 + 8, 3 * 9
    assert env.layout.rows[3][8] == "."
    env.step(UP)
    env.reset()  # lets it run on
    assert env.layout.rows[3][8] == "."
    env.step(UP)
    assert env.steps == 1000
    assert env.layout.rows[3][8] == "#"
    assert env.P[closed + 9][UP] == [(1.0, closed + 9, 0.0, False)]
    assert env.P[opened + 9][UP] == [(1.0, opened, 0.0, False)]
    env.reset(seed=0)
    assert env.steps == 0
    assert env.layout.rows[3][8] == "."


def test_steps_walls_borders_and_the_goal() -> None:
    env = maze(IDS[0])
    trail = [env.step(action)[0] for action in (LEFT, RIGHT, RIGHT, UP, UP, UP)]
    assert trail == [18, 19, 19, 10, 1, 1]
    env.reset()
    for action in [DOWN] * 3 + [RIGHT] * 8 + [UP] * 4:
        _, reward, terminated, _, _ = env.step(action)
        assert (reward, terminated) == (0.0, False)
    obs, reward, terminated, truncated, _ = env.step(UP)
    assert (obs, reward, terminated, truncated) == (8, 1.0, True, False)
    with pytest.raises(ResetNeeded):
        env.step(UP)


@pytest.mark.parametrize("env_id", IDS)
def test_the_checkers_pass(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    assert env.spec is not None
    assert env.spec.max_episode_steps == 10_000
    check_env(env.unwrapped)
    sb3_check_env(env)
    register_mazes()


def test_pictures() -> None:
    env = MazeEnv(MazeMap(("S#", ".G")), render_mode="ansi")
    env.reset()
    assert env.render() == "@#\n.G\n"
    env = MazeEnv(MazeMap(("S#", ".G")), render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (32, 32, 3)
    assert env.render()[0, 0].tolist() == [200, 60, 40]
    assert MazeEnv().render() is None


def test_impossible_mazes_are_refused() -> None:
    for rows in (("S.", "G"), ("SS", ".G"), ("S.",), ("S?", ".G")):
        with pytest.raises(ValueError, match="A maze has rows"):
            MazeMap(rows)
    with pytest.raises(ValueError, match="same size, start and goal"):
        MazeEnv(MazeMap(("SG",)), MazeMap(("GS",)))
    with pytest.raises(ValueError, match="render_mode"):
        MazeEnv(render_mode="human")
    env = MazeEnv()
    with pytest.raises(ValueError, match="Unknown reset options"):
        env.reset(options={"step": 3})
    env.reset()
    with pytest.raises(ValueError, match="Actions are 0 to 3"):
        env.step(4)
