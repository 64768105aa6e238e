"""The result of kinodynamic planning, and its conversion to a plan for the other planners."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Generator, Tensor

from controllers.motion.space import Points
from controllers.plan import Plan, PlanReport, WarmStart
from controllers.problem import PlanningProblem


class KinodynamicReport(NamedTuple):
    """What a plan through a model cost.

    Attributes:
        iterations: points drawn.
        model_calls: transitions predicted, all rows together.
        points_checked: points that the validity function was asked about.
        seconds: wall time of the whole plan.
        model_seconds: the part of it spent in the model.
    """

    iterations: int
    model_calls: int
    points_checked: int
    seconds: float
    model_seconds: float


class KinodynamicPlan(NamedTuple):
    """Actions through a model and what they lead to.

    Attributes:
        actions: ``(H, A)`` model actions, one per step; ``ActionCodec(model.action_space).to_env`` makes them the
            environment's.
        path: ``(H + 1, D)`` coordinates from the start on, as the model predicts them.
        solved: whether the path ends within the planner's tolerance of the goal.
        gap: distance from its end to the goal.
        nodes: ``(n, D)`` coordinates of the tree.
        parents: ``(n,)`` index of each node's parent, -1 for the start.
        costs: ``(n,)`` steps from the start to each node.
        report: what it cost.
    """

    actions: Tensor
    path: Points
    solved: bool
    gap: float
    nodes: Points
    parents: NDArray[np.int64]
    costs: NDArray[np.int64]
    report: KinodynamicReport

    @property
    def cost(self) -> int:
        """Steps that the path takes, ``H``."""
        return len(self.actions)

    def as_plan(self, problem: PlanningProblem[Any], *, generator: Generator) -> Plan:
        """These actions as a plan of ``problem``, for its score or as the warm start of a shooting planner.

        They are cut to the problem's horizon, or filled up with the middle of the range of the actions.

        Args:
            problem: of the same model and one start.
            generator: source of the model's draws in scoring.

        Raises:
            ValueError: for a problem of several starts, and for a plan without a single action.
        """
        if problem.num_problems != 1 or not self.cost:
            raise ValueError(
                f"A plan has one start and at least one action; the problem has {problem.num_problems} starts and this "
                f"path {self.cost} actions."
            )
        known = th.ones(1, dtype=th.bool, device=problem.device)
        warm = WarmStart(self.actions[None].to(problem.device), known).cut(problem.horizon)
        warm = warm.extended(problem.horizon, problem)
        candidates = warm.actions[:, None]
        scores = problem.score(candidates, generator=generator)
        report = PlanReport(
            warm_start_value=th.full_like(scores[:, 0], th.nan),
            best_value=scores[:, 0],
            mean_value=scores[:, 0],
            effective_sample_size=th.ones_like(scores[:, 0]),
            num_invalid=int((scores == -th.inf).sum()),
            model_calls=self.report.model_calls,
            seconds=self.report.seconds,
            model_seconds=self.report.model_seconds,
            converged=th.tensor([self.solved], device=problem.device),
            iterations=self.report.iterations,
        )
        return Plan(warm.actions, scores[:, 0], warm, report, candidates, scores)
