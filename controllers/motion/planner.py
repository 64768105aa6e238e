"""Base class of the geometric planners: settings, choice of a backend, and the report."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Generator

from controllers.motion.collision import Checker
from controllers.motion.draws import numpy_stream
from controllers.motion.grown import EXACT, Grown
from controllers.motion.ompl_backend import OmplRequest, grow_with_ompl
from controllers.motion.path import MotionPlan, MotionReport
from controllers.motion.space import MotionProblem
from mbrl_wrappers.checks import at_least, within

Backend = Literal["own", "ompl"]
"""The implementation used: of this library, or of OMPL (extra ``ompl``)."""

STEP_SHARE = 0.05  # of the diagonal, when no step is given


@dataclass(frozen=True, kw_only=True)
class GeometricPlanner(ABC):
    """Grows trees of straight, free edges. Holds settings only; the problem and the random generator are passed in.

    Attributes:
        step: longest edge; None for a twentieth of the diagonal.
        max_nodes: nodes after which the planner stops; it also stops after twenty times as many draws.
        backend: see :data:`Backend`.
    """

    step: float | None = None
    max_nodes: int = 5000
    backend: Backend = "own"

    def __post_init__(self) -> None:
        if self.step is not None and not within("step", self.step, 0):
            raise ValueError("step must be above 0, or None for a twentieth of the diagonal.")
        at_least("max_nodes", self.max_nodes, 2)
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {get_args(Backend)}, got {self.backend!r}.")

    def plan(self, problem: MotionProblem, *, generator: Generator | np.random.Generator) -> MotionPlan:
        """A path for ``problem``, or the nearest approach where none was found.

        Args:
            problem: start, goal, obstacles, distance.
            generator: source of every draw; the same seed gives the same plan.

        Raises:
            TypeError: for a problem of another kind, or if its ``valid`` does not return one bool per point.
            ImportError: if the backend is not installed.
        """
        if not isinstance(problem, MotionProblem):
            raise TypeError(
                f"{type(self).__name__} plans a MotionProblem, got {type(problem).__name__}: plan through a model with "
                "KinodynamicRRT, or for rewards with CEM, ICEM or MPPI."
            )
        started = time.perf_counter()
        checker, rng = Checker(problem), numpy_stream(generator)
        if self.backend == "ompl":
            found = grow_with_ompl(self._for_ompl(problem), checker, rng)
        else:
            found = self._grow(checker, rng)
        return self._plan(checker, found, started)

    @property
    def tolerance(self) -> float:
        """The distance from the goal within which a path counts as solved."""
        return 0.0

    def step_in(self, problem: MotionProblem) -> float:
        """The longest edge in ``problem``."""
        return STEP_SHARE * problem.diagonal if self.step is None else self.step

    @abstractmethod
    def _grow(self, checker: Checker, rng: np.random.Generator) -> Grown:
        """Plan in metric coordinates."""

    @abstractmethod
    def _for_ompl(self, problem: MotionProblem) -> OmplRequest:
        """OMPL's planner of this kind and its numbers."""

    def _plan(self, checker: Checker, found: Grown, started: float) -> MotionPlan:
        problem = checker.region
        assert isinstance(problem, MotionProblem)
        path = problem.from_metric(found.path)
        path[0] = problem.start
        gap = float(np.linalg.norm(found.path[-1] - problem.to_metric(problem.goal)))
        if gap <= EXACT * problem.diagonal:
            path[-1], gap = problem.goal, 0.0
        return MotionPlan(
            path=path,
            cost=float(np.linalg.norm(np.diff(found.path, axis=0), axis=1).sum()),
            solved=gap <= self.tolerance,
            gap=gap,
            nodes=problem.from_metric(found.nodes),
            parents=found.parents,
            costs=found.costs,
            report=MotionReport(found.iterations, checker.points, time.perf_counter() - started, checker.seconds),
        )
