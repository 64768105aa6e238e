"""``summary.json``: what a run was and what it reached, readable while it still runs."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.runs.run_folder import SUMMARY_FILE, write_json_atomically

_PACKAGES = {
    "mbrl_wrappers": "mbrl-wrappers",
    "gymnasium": "gymnasium",
    "mujoco": "mujoco",
    "numpy": "numpy",
    "torch": "torch",
    "stable_baselines3": "stable-baselines3",
    "sb3_contrib": "sb3-contrib",
}
_JAX_PACKAGES = {"sbx": "sbx-rl", "jax": "jax", "flax": "flax"}


def versions(backend: str) -> dict[str, str]:
    """Versions of Python and of every library that can change a number."""
    packages = {**_PACKAGES, **(_JAX_PACKAGES if backend == "sbx" else {})}
    found = {"python": platform.python_version()}
    for name, distribution in packages.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass
class Evaluation:
    """One evaluation on the real environment.

    Attributes:
        real_steps: training steps taken on the real environment until then.
        returns: undiscounted return of each episode.
        lengths: steps of each episode.
        wall_seconds: seconds since the run began.
    """

    real_steps: int
    returns: list[float]
    lengths: list[int]
    wall_seconds: float

    @property
    def mean(self) -> float:
        """The mean return."""
        return sum(self.returns) / len(self.returns)


@dataclass
class RunSummary:
    """The content of ``summary.json``; ``finished`` is false until the last step was taken and saved.

    ``evaluations`` are those of the agent itself, ``averaged_evaluations`` those of the average of its actors, taken at
    the same real steps; ``average_steps`` is the average's time constant in real steps, 0 without one, and
    ``use_average`` says whether the average took the real steps (``acting``) or those in the model (``branching``).
    """

    task: str
    algorithm: str
    backend: str
    with_model: bool
    arm: str
    seeds: dict[str, int]
    total_timesteps: int
    command: str
    hyperparameters: dict[str, Any]
    env_kwargs: dict[str, Any]
    num_threads: int
    versions: dict[str, str]
    finished: bool = False
    stopped_by: str | None = None
    real_steps: int = 0
    agent_updates: int = 0
    final_return: float | None = None
    best_return: float | None = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    planning: dict[str, Any] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    average_steps: int = 0
    use_average: list[str] = field(default_factory=list)
    averaged_final_return: float | None = None
    averaged_best_return: float | None = None
    averaged_evaluations: list[Evaluation] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write ``folder/summary.json`` in one step."""
        if self.evaluations:
            self.final_return = self.evaluations[-1].mean
            self.best_return = max(evaluation.mean for evaluation in self.evaluations)
        if self.averaged_evaluations:
            self.averaged_final_return = self.averaged_evaluations[-1].mean
            self.averaged_best_return = max(evaluation.mean for evaluation in self.averaged_evaluations)
        write_json_atomically(folder / SUMMARY_FILE, asdict(self))
