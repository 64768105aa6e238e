"""Checkpoints of :func:`~controllers.learn_with_planner`: saved while a run goes on, taken up after a kill."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from controllers.learning import PlannerLearning
from mbrl_wrappers.checks import at_least
from mbrl_wrappers.copies.env_state import why_not_exportable
from mbrl_wrappers.states import Stateful
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from mbrl_wrappers.storage.space_json import space_to_json


class PlannerCheckpoints:
    """Saves a run of PETS after every trial and every ``every`` real steps, and resumes it.

    A checkpoint has the model, the trainer with its optimiser and stream, the transitions, the reports, the trial under
    way with plan and warm start, the environment where its state can be exported, and the global random streams. An
    environment whose state cannot be exported begins a new trial when the run is resumed in the middle of one, and a
    warning says so at the start.

    Args:
        folder: of this run alone; made when missing.
        every: real steps between checkpoints, apart from those after each trial.
        keep: how many to keep.
        also: whatever else belongs to the run and holds state, by name.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int = 200,
        keep: int = 3,
        also: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.checkpoints = RunCheckpoints(folder, keep=keep)
        self.every = at_least("every", every)
        self.also = dict(also or {})

    @contextmanager
    def resumed(self, learning: PlannerLearning) -> Iterator[None]:
        """Take ``learning`` to the newest checkpoint and save it from then on, inside the ``with`` block.

        Raises:
            ValueError: if the checkpoints are of another run, all damaged, or written to by another process.
            TypeError: if the state of a part cannot be kept.
        """
        about = self._about(learning)
        with self.checkpoints.lock():
            found = self.checkpoints.load()
            if found is not None:
                for name, here in about.items():
                    if found.about.get(name) != here:
                        raise ValueError(
                            f"The checkpoints in {self.checkpoints.folder} are of another run: its {name} is "
                            f"{found.about.get(name)!r}, and this one's {here!r}. Give this run another folder."
                        )
                if set(found.state["also"]) != set(self.also):
                    raise ValueError(
                        f"The run was saved with {sorted(found.state['also'])} beside it, not {sorted(self.also)}."
                    )
                learning.load_state_dict(found.state["learning"])
                for name, part in self.also.items():
                    part.load_state_dict(found.state["also"][name])
            learning.state_dict()  # finds out at the start what cannot be kept
            why = why_not_exportable(learning.env)
            if why:
                warnings.warn(
                    f"The state of the environment cannot be exported, so a run that is resumed in the middle of a "
                    f"trial begins a new one: {why}",
                    stacklevel=3,
                )
            saved_at = learning.real_steps

            def save(due: bool) -> None:
                nonlocal saved_at
                step = learning.real_steps
                if due or step - saved_at >= self.every:
                    also = {name: part.state_dict() for name, part in self.also.items()}
                    self.checkpoints.save(step, {"learning": learning.state_dict(), "also": also}, about=about)
                    saved_at = step

            learning.save = save
            try:
                yield
            finally:
                learning.save = None

    def _about(self, learning: PlannerLearning) -> dict[str, Any]:
        spec = learning.env.spec
        return {
            "run": "learn_with_planner",
            "env": None if spec is None else spec.id,
            "observation_space": space_to_json(learning.env.observation_space),
            "action_space": space_to_json(learning.env.action_space),
        }
