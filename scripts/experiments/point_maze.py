"""A point mass through a MuJoCo maze: plan around the walls, then follow the path on the real environment.

Each episode of gymnasium-robotics' PointMaze draws a start and a goal. The walls come from the environment's own map;
RRT* finds a way around them and shortcuts straighten it; how the point answers to actions is fitted to a few hundred
random real steps; linear-quadratic feedback follows the path until the environment says that the goal is reached.

    python scripts/experiments/point_maze.py --json docs/results/point-maze/summary.json

Needs the extra ``robotics``: pip install 'mbrl-wrappers[robotics]'
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: imports start at the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import gymnasium
import numpy as np

from controllers import (
    LinearDynamics,
    MotionProblem,
    Pace,
    PathTracker,
    RRTConnect,
    RRTStar,
    shortcut,
)
from controllers.motion.space import Points, Validity
from mbrl_wrappers.optional import require
from mbrl_wrappers.seeding import seed_at
from scripts.training.environments import check_env_id
from scripts.training.flag_checks import positive

MAZES = ("PointMaze_UMaze-v3", "PointMaze_Medium-v3", "PointMaze_Large-v3")
PLANNERS = {"rrt-star": RRTStar(max_nodes=1000), "rrt-connect": RRTConnect()}


@dataclass(frozen=True)
class MazeArguments:
    """What to drive through; see ``--help``."""

    mazes: tuple[str, ...] = MAZES
    episodes: int = 20
    seed: int = 0
    planner: str = "rrt-star"
    clearance: float = 0.2
    speed: float = 2.0
    acceleration: float = 4.0
    fit_steps: int = 300
    json: str = ""


@dataclass(frozen=True)
class Episode:
    """Result of one episode in a maze."""

    maze: str
    seed: int
    solved: bool
    success: bool
    steps: int
    reference_steps: int
    path_length: float
    start_to_goal: float
    final_distance: float
    largest_deviation: float
    plan_cpu_seconds: float


def main(argv: Sequence[str] | None = None) -> list[Episode]:
    """Drive, print a line per episode, and write what was asked for."""
    arguments = parse_arguments(argv)
    gymnasium.register_envs(require("gymnasium_robotics", extra="robotics"))
    for maze in arguments.mazes:
        try:
            check_env_id(maze)
        except ValueError as error:
            sys.exit(f"error: {error}")
    episodes: list[Episode] = []
    fits: dict[str, Any] = {}
    for maze in arguments.mazes:
        env = gymnasium.make(maze, continuing_task=False)
        dynamics = fitted_dynamics(env, arguments.fit_steps, seed_at(arguments.seed, 0))
        fits[maze] = {"steps": arguments.fit_steps, "a": dynamics.a.tolist(), "b": dynamics.b.tolist()}
        for number in range(arguments.episodes):
            episodes.append(drive(env, dynamics, arguments, seed_at(arguments.seed, number + 1) % 2**31))
            print(line(episodes[-1]), flush=True)
        env.close()
    for maze in arguments.mazes:
        mine = [episode for episode in episodes if episode.maze == maze]
        print(f"{maze}: goal reached in {sum(episode.success for episode in mine)} of {len(mine)} episodes")
    if arguments.json:
        write(Path(arguments.json), arguments, fits, episodes, argv)
    return episodes


def drive(env: gymnasium.Env[Any, Any], dynamics: LinearDynamics, arguments: MazeArguments, seed: int) -> Episode:
    """Plan for the start and goal that ``seed`` draws, and follow the path."""
    observation, _ = env.reset(seed=seed)
    start, goal = observation["achieved_goal"], observation["desired_goal"]
    rng = np.random.default_rng(seed)
    began = time.process_time()
    problem = maze_problem(env.unwrapped, start, goal, arguments.clearance)  # type: ignore[arg-type]
    plan = PLANNERS[arguments.planner].plan(problem, generator=rng)
    path = shortcut(problem, plan.path, generator=rng)
    seconds = time.process_time() - began
    pace = Pace(arguments.speed, arguments.acceleration)
    reference = pace.reference(path, env.unwrapped.point_env.dt)  # type: ignore[attr-defined]
    tracker = PathTracker(reference, dynamics, env.action_space)  # type: ignore[arg-type]
    state, steps, deviation, ended, success = None, 0, 0.0, False, False
    while not ended:
        action, state = tracker.predict(observation, state)
        observation, _, terminated, truncated, info = env.step(action)
        ended, success, steps = terminated or truncated, bool(info["success"]), steps + 1
        apart = np.linalg.norm(reference.places - observation["achieved_goal"], axis=1).min()
        deviation = max(deviation, float(apart))
    return Episode(
        maze=env.spec.id if env.spec else "",
        seed=seed,
        solved=plan.solved,
        success=success,
        steps=steps,
        reference_steps=len(reference.places),
        path_length=float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum()),
        start_to_goal=float(np.linalg.norm(goal - start)),
        final_distance=float(np.linalg.norm(observation["achieved_goal"] - goal)),
        largest_deviation=deviation,
        plan_cpu_seconds=seconds,
    )


def fitted_dynamics(env: gymnasium.Env[Any, Any], steps: int, seed: int) -> LinearDynamics:
    """Place and speed after a step, fitted to random real steps; short episodes keep the point off the walls."""
    rng = np.random.default_rng(seed)
    befores, actions, afters = [], [], []
    for step in range(steps):
        if step % 10 == 0:
            observation, _ = env.reset(seed=int(rng.integers(2**31)))
        action = rng.uniform(env.action_space.low, env.action_space.high)  # type: ignore[attr-defined]
        following, _, _, _, _ = env.step(action.astype(np.float32))
        befores.append(observation["observation"])
        actions.append(action)
        afters.append(following["observation"])
        observation = following
    return LinearDynamics.fitted(np.array(befores), np.array(actions), np.array(afters))


def maze_problem(task: Any, start: Points, goal: Points, clearance: float) -> MotionProblem:
    """The maze as obstacles for the centre of the point, which keeps ``clearance`` from the walls."""
    maze = task.maze
    half = maze.maze_size_scaling / 2
    reach = np.array([maze.x_map_center, maze.y_map_center])
    centres = [
        maze.cell_rowcol_to_xy(np.array([row, column]))
        for row, cells in enumerate(maze.maze_map)
        for column, cell in enumerate(cells)
        if cell == 1
    ]
    free = outside_walls(np.array(centres), half, clearance)
    return MotionProblem(-reach, reach, start, goal, free, resolution=clearance / 40)


def outside_walls(centres: Points, half: float, clearance: float) -> Validity:
    """Validity of points that are ``clearance`` away from all square walls of half width ``half``."""

    def valid(points: Points) -> Any:
        beyond = np.maximum(np.abs(points[:, None] - centres) - half, 0)  # (B, W, 2)
        return (np.square(beyond).sum(2) >= clearance**2).all(1)

    return valid


def parse_arguments(argv: Sequence[str] | None = None) -> MazeArguments:
    """The command line as :class:`MazeArguments`."""
    default = MazeArguments()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--mazes", nargs="+", default=default.mazes, metavar="ID", help=f"environments (default: {' '.join(MAZES)})")
    add("--episodes", type=positive, default=default.episodes, help="starts and goals per maze (default: 20)")
    add("--seed", type=int, default=default.seed, help="of everything drawn (default: 0)")
    add("--planner", choices=tuple(PLANNERS), default=default.planner, help="(default: rrt-star)")
    add("--clearance", type=float, default=default.clearance, help="of the point's centre from walls (default: 0.2)")
    add("--speed", type=float, default=default.speed, help="highest, in m/s (default: 2)")
    add("--acceleration", type=float, default=default.acceleration, help="of the reference, in m/s^2 (default: 4)")
    add(
        "--fit-steps",
        type=positive,
        default=default.fit_steps,
        help="random real steps for the dynamics (default: 300)",
    )
    add("--json", default=default.json, metavar="FILE", help="also write the results here")
    words = vars(parser.parse_args(argv))
    return MazeArguments(**{**words, "mazes": tuple(words["mazes"])})


def line(episode: Episode) -> str:
    """One episode in one line."""
    return (
        f"{episode.maze:22} {'reached' if episode.success else 'MISSED':8} {episode.steps:4} steps, path "
        f"{episode.path_length:5.2f} m, off it by at most {episode.largest_deviation:.3f} m, planned in "
        f"{episode.plan_cpu_seconds:.2f} CPU s"
    )


def write(
    path: Path, arguments: MazeArguments, fits: dict[str, Any], episodes: list[Episode], argv: Sequence[str] | None
) -> None:
    """Everything that the figures follow from."""
    words = list(argv) if argv is not None else sys.argv[1:]
    packages = ("gymnasium", "gymnasium-robotics", "mujoco", "numpy", "scipy")
    report = {
        "command": shlex.join(["python", "scripts/experiments/point_maze.py", *words]),
        "arguments": asdict(arguments),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "reached": {
            maze: [sum(e.success for e in episodes if e.maze == maze), sum(e.maze == maze for e in episodes)]
            for maze in arguments.mazes
        },
        "fits": fits,
        "episodes": [asdict(episode) for episode in episodes],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
