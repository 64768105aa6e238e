"""The mazes of Sutton and Barto 2018, chapter 8, as Gymnasium environments.

====================================  =============================================  =============================
name                                  world                                          in the book
====================================  =============================================  =============================
``mbrl_wrappers/DynaMaze-v0``         never changes, shortest path 14                figure 8.2
``mbrl_wrappers/BlockingMaze-v0``     the passage moves after 1,000 steps            figure 8.4, paths 10, then 16
``mbrl_wrappers/ShortcutMaze-v0``     a second, shorter one opens after 3,000 steps  figure 8.5, paths 16, then 10
====================================  =============================================  =============================

``gymnasium.make`` cuts an episode after 10,000 steps, far more than a random walk takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from mbrl_wrappers.checks import at_least

Cell = tuple[int, int]
TableEntry = tuple[float, int, float, bool]

MOVES: tuple[Cell, ...] = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Up, right, down, left, as rows and columns."""

MAX_STEPS = 10_000
PIXELS = 16
COLOURS = {"#": (70, 70, 70), ".": (245, 245, 245), "S": (180, 205, 240), "G": (185, 225, 185), "@": (200, 60, 40)}


@dataclass(frozen=True)
class MazeMap:
    """A grid of rows and columns: ``#`` is a wall, ``S`` the start, ``G`` the goal, ``.`` free."""

    rows: tuple[str, ...]

    def __post_init__(self) -> None:
        text = "".join(self.rows)
        same_width = len({len(row) for row in self.rows}) == 1
        if not same_width or set(text) - set("#.SG") or text.count("S") != 1 or text.count("G") != 1:
            raise ValueError(f"A maze has rows of one length of the letters #.SG, one S and one G; got {self.rows}.")

    @property
    def size(self) -> Cell:
        """Rows and columns."""
        return len(self.rows), len(self.rows[0])

    def number(self, letter: str) -> int:
        """The state of the start or the goal; cells are counted row by row from the upper left."""
        return "".join(self.rows).index(letter)

    def moved(self, state: int, action: int) -> int:
        """Where an action leads: a wall or the border leaves the state as it is."""
        height, width = self.size
        row, column = state // width + MOVES[action][0], state % width + MOVES[action][1]
        inside = 0 <= row < height and 0 <= column < width
        return row * width + column if inside and self.rows[row][column] != "#" else state


DYNA_MAZE = MazeMap((".......#G", "..#....#.", "S.#....#.", "..#......", ".....#...", "........."))
LEFT_CLOSED = MazeMap(("........G", ".........", ".........", "########.", ".........", "...S....."))
RIGHT_CLOSED = MazeMap(("........G", ".........", ".........", ".########", ".........", "...S....."))
BOTH_OPEN = MazeMap(("........G", ".........", ".........", ".#######.", ".........", "...S....."))


class MazeEnv(gymnasium.Env[np.int64, np.int64]):
    """A grid world with one start and one goal: 1 for the step that reaches the goal, else 0.

    States are the cells, row by row; actions are 0 up, 1 right, 2 down, 3 left; what would leave the grid or enter a
    wall stays. Where ``later`` is given, the world changes for good once ``change_step`` steps were taken, *over all
    episodes*: a plain ``reset`` lets the clock run on, ``reset(seed=...)`` starts the world anew, and
    ``reset(options={"steps": n})`` sets the clock.

    Args:
        layout: the world.
        later: the world after the change; of the same size, start and goal.
        change_step: steps taken before the first one in the later world.
        render_mode: ``"ansi"``, ``"rgb_array"`` or None.

    Attributes:
        P: ``P[s][a] = [(1.0, next_state, reward, terminated)]`` of the present world, as in Gymnasium's toy text.
        steps: taken so far, over all episodes.

    Raises:
        ValueError: for layouts that do not belong together, or an unknown render mode.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        layout: MazeMap = DYNA_MAZE,
        later: MazeMap | None = None,
        change_step: int = 1,
        *,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}."
            )
        worlds = (layout,) if later is None else (layout, later)
        if len({(world.size, world.number("S"), world.number("G")) for world in worlds}) > 1:
            raise ValueError("Both layouts must have the same size, start and goal.")
        self.render_mode = render_mode
        self.change_step = at_least("change_step", change_step)
        self._worlds = worlds
        self._tables = tuple(_transitions(world) for world in worlds)
        height, width = layout.size
        self.observation_space = spaces.Discrete(height * width)
        self.action_space = spaces.Discrete(len(MOVES))
        self.steps = 0
        self._state: int | None = None

    @property
    def layout(self) -> MazeMap:
        """The present world."""
        return self._worlds[self._epoch]

    @property
    def P(self) -> dict[int, dict[int, list[TableEntry]]]:
        """The table of the present world."""
        return self._tables[self._epoch]

    @property
    def _epoch(self) -> int:
        return int(len(self._worlds) > 1 and self.steps >= self.change_step)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Go back to the start; see the class for what happens to the clock."""
        super().reset(seed=seed)
        unknown = set(options or {}) - {"steps"}
        if unknown:
            raise ValueError(f"Unknown reset options {sorted(unknown)}; known is 'steps'.")
        if options and "steps" in options:
            self.steps = at_least("steps", options["steps"], 0)
        elif seed is not None:
            self.steps = 0
        self._state = self.layout.number("S")
        return np.int64(self._state), {}

    def step(self, action: Any) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Move by one cell.

        Raises:
            ResetNeeded: before the first reset and after the goal.
            ValueError: for an action that does not exist.
        """
        if self._state is None:
            raise ResetNeeded("The episode is over or was never started: call reset() first.")
        if not 0 <= int(action) < len(MOVES):
            raise ValueError(f"Actions are 0 to {len(MOVES) - 1}, got {action}.")
        ((_, following, reward, terminated),) = self.P[self._state][int(action)]
        self._state = None if terminated else following
        self.steps += 1
        return np.int64(following), reward, terminated, False, {}

    def render(self) -> Any:
        """The present world with the agent, ``@``: a text, or an image ``(H, W, 3)`` uint8."""
        if self.render_mode is None:
            return None
        text = "".join(self.layout.rows)
        place = self.layout.number("G") if self._state is None else self._state
        text = text[:place] + "@" + text[place + 1 :]
        height, width = self.layout.size
        if self.render_mode == "ansi":
            return "\n".join(text[row * width : (row + 1) * width] for row in range(height)) + "\n"
        cells = np.array([COLOURS[letter] for letter in text], np.uint8).reshape(height, width, 3)
        return cells.repeat(PIXELS, 0).repeat(PIXELS, 1)


def _transitions(layout: MazeMap) -> dict[int, dict[int, list[TableEntry]]]:
    goal, cells = layout.number("G"), len("".join(layout.rows))

    def outcome(state: int, action: int) -> TableEntry:
        if state == goal:
            return 1.0, state, 0.0, True
        following = layout.moved(state, action)
        return 1.0, following, float(following == goal), following == goal

    return {state: {action: [outcome(state, action)] for action in range(len(MOVES))} for state in range(cells)}


def blocking_maze(*, change_step: int = 1_000, render_mode: str | None = None) -> MazeEnv:
    """Figure 8.4: the passage on the right closes and one on the left opens."""
    return MazeEnv(LEFT_CLOSED, RIGHT_CLOSED, change_step, render_mode=render_mode)


def shortcut_maze(*, change_step: int = 3_000, render_mode: str | None = None) -> MazeEnv:
    """Figure 8.5: a second passage opens on the right, and the way through the left one stays."""
    return MazeEnv(RIGHT_CLOSED, BOTH_OPEN, change_step, render_mode=render_mode)


def register_mazes() -> None:
    """Make the mazes known to ``gymnasium.make``; a second call changes nothing."""
    for name, entry in (("DynaMaze", "MazeEnv"), ("BlockingMaze", "blocking_maze"), ("ShortcutMaze", "shortcut_maze")):
        env_id = f"mbrl_wrappers/{name}-v0"
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point=f"{__name__}:{entry}", max_episode_steps=MAX_STEPS)
