"""Episodes on the real environment whose every action is planned, and what the plans cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from controllers import MPCPolicy
from mbrl_wrappers.optional import require
from scripts.pictures.video import Film


@dataclass(frozen=True)
class PlannedEpisode:
    """The outcome of one episode.

    Attributes:
        seed: of the run that it belongs to.
        total: sum of rewards.
        length: steps.
        ended_by: ``"termination"``, ``"time limit"`` or ``"--steps"``.
        model_calls: transitions predicted, all plans together.
        plan_milliseconds: wall time of each plan.
    """

    seed: int
    total: float
    length: int
    ended_by: str
    model_calls: int
    plan_milliseconds: tuple[float, ...]


class Moment(NamedTuple):
    """An episode under way: planned and not yet stepped."""

    step: int
    total: float
    milliseconds: float


def play_planned(
    env: gym.Env[Any, Any],
    policy: MPCPolicy[Any],
    *,
    reset_seed: int | None,
    run_seed: int = 0,
    max_steps: int | None = None,
    film: Film | None = None,
    before_step: Callable[[Moment], bool] | None = None,
) -> PlannedEpisode:
    """Play one episode.

    Args:
        env: the real environment; for a model bound to it, the very one that the model was built on.
        policy: who plays.
        reset_seed: of the start; None goes on with the environment's stream.
        run_seed: for the record.
        max_steps: cut after so many.
        film: receives ``env.render()`` before each step and at the end.
        before_step: called between planning and stepping; False ends the episode.
    """
    obs, _ = env.reset(seed=reset_seed)
    state, total, length, calls = None, 0.0, 0, 0
    seconds: list[float] = []
    ended_by = ""
    while not ended_by:
        if film is not None:
            film.add(env.render())
        before = policy.last_plan
        action, state = policy.predict(shown_to(policy.model, obs), state, np.array([length == 0]))
        if policy.last_plan is not None and policy.last_plan is not before:
            calls += policy.last_plan.report.model_calls
            seconds.append(policy.last_plan.report.seconds)
        if before_step is not None and not before_step(Moment(length, total, 1000 * seconds[-1])):
            ended_by = "interruption"
            break
        obs, reward, terminated, truncated, _ = env.step(action[()])
        total, length = total + float(reward), length + 1
        if terminated or truncated:
            ended_by = "termination" if terminated else "time limit"
        elif max_steps is not None and length >= max_steps:
            ended_by = "--steps"
    if film is not None:
        film.add(env.render())
    return PlannedEpisode(run_seed, total, length, ended_by, calls, tuple(1000 * each for each in seconds))


def shown_to(model: Any, obs: Any) -> NDArray[Any]:
    """An observation as the model wants it: numbers of states, as toy text shows them, become one-hot rows."""
    encode = getattr(model, "encode", None)
    shown: NDArray[Any] = np.asarray(obs) if encode is None else encode(np.asarray(obs)[None])[0].numpy()
    return shown


def milliseconds(episodes: Sequence[PlannedEpisode]) -> dict[str, float]:
    """Median, 95th percentile and mean of the plans' wall times."""
    times = np.concatenate([episode.plan_milliseconds for episode in episodes])
    if not len(times):
        return {}
    return {
        "median": round(float(np.median(times)), 2),
        "p95": round(float(np.quantile(times, 0.95)), 2),
        "mean": round(float(times.mean()), 2),
    }


class ProgressBar:
    """Real steps, the return so far and the time of the latest plan, on one line; a context manager.

    Args:
        total: steps in all; None when not known.
        shown: False shows nothing.
    """

    def __init__(self, total: int | None, shown: bool) -> None:
        self._bar = require("tqdm", extra="progress").tqdm(total=total, unit=" steps") if shown else None

    def step(self, text: str, steps: int = 1) -> None:
        """Count a step and say how it stands."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(steps)

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
