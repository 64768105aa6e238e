"""A look at what planners score, iteration by iteration."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from controllers import PlanningProblem
from controllers.problem import Evaluation


class RecordingProblem(PlanningProblem[Any]):
    """Remembers every batch of candidates ``(N, P, H, A)`` and its scores ``(N, P)``."""

    @classmethod
    def of(cls, problem: PlanningProblem[Any]) -> RecordingProblem:
        """The same problem, remembered."""
        recording = cls.__new__(cls)
        recording.__dict__.update(problem.__dict__)
        recording.candidates, recording.scores = [], []
        return recording

    candidates: list[Tensor]
    scores: list[Tensor]

    def evaluate(self, actions: Tensor, *, generator: Generator | None = None) -> Evaluation:
        found = super().evaluate(actions, generator=generator)
        self.candidates.append(actions.detach().clone())
        self.scores.append(found.scores.detach())
        return found
