"""Reports of learning with a planner: after each real step, after each trial, and of the whole run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

from controllers.plan import PlanReport
from mbrl_wrappers.fitting import FitReport


class StepReport(NamedTuple):
    """Progress of the run after one step of the real environment.

    Attributes:
        trial: number of the trial.
        random: whether actions are random.
        length: steps of this trial so far.
        real_return: its rewards so far.
        real_steps: of the whole run.
        plan: report of the plan made at this step; None if an earlier plan was still executed or the action was random.
    """

    trial: int
    random: bool
    length: int
    real_return: float
    real_steps: int
    plan: PlanReport | None


@dataclass(frozen=True)
class TrialReport:
    """The result of one trial. Means are taken over its plans, and None where no plan has a finite value.

    Attributes:
        trial: number of the trial, random ones counted too.
        random: whether actions were random.
        real_return: sum of real rewards.
        length: steps.
        terminated: whether the episode terminated; False if it was truncated.
        real_steps: of the whole run, this trial included.
        fit: report of the last fit during or after this trial; None when there was none.
        plans: how many plans were made.
        plan_milliseconds: median wall time of a plan.
        model_calls: transitions predicted for planning.
        warm_start_value: mean score of the warm starts.
        best_value: mean score of the best candidate.
        mean_value: mean score of the last candidates.
    """

    trial: int
    random: bool
    real_return: float
    length: int
    terminated: bool
    real_steps: int
    fit: FitReport | None
    plans: int
    plan_milliseconds: float | None
    model_calls: int
    warm_start_value: float | None
    best_value: float | None
    mean_value: float | None


class PlanSummary(NamedTuple):
    """The plans of a trial, as the fields of the same names of :class:`TrialReport`."""

    plans: int
    plan_milliseconds: float | None
    model_calls: int
    warm_start_value: float | None
    best_value: float | None
    mean_value: float | None

    @classmethod
    def of(cls, reports: Sequence[PlanReport]) -> PlanSummary:
        """Summarise the reports of plans for one problem each."""
        return cls(
            plans=len(reports),
            plan_milliseconds=1000 * median(report.seconds for report in reports) if reports else None,
            model_calls=sum(report.model_calls for report in reports),
            warm_start_value=_finite_mean([float(report.warm_start_value) for report in reports]),
            best_value=_finite_mean([float(report.best_value) for report in reports]),
            mean_value=_finite_mean([float(report.mean_value) for report in reports]),
        )


@dataclass(frozen=True)
class PlannerLearningResult:
    """The reports of all trials, those of earlier parts of the run included, and whether ``on_step`` stopped it."""

    trials: tuple[TrialReport, ...]
    stopped: bool


OnStep = Callable[[StepReport], "bool | None"]
"""Called after every real step; False stops the run there."""

OnTrial = Callable[[TrialReport], None]
"""Called after every trial and its fit, where progress can be saved."""


def _finite_mean(values: Sequence[float]) -> float | None:
    """The mean of the finite ones of ``values``; None without any."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else None
