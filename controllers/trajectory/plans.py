"""Conversion of the result of a trajectory planner to a plan."""

from __future__ import annotations

import time

import torch as th
from torch import Tensor

from controllers.plan import Plan, PlanReport, WarmStart
from controllers.trajectory.coordinates import VectorProblem


def finished(
    task: VectorProblem,
    warm: WarmStart,
    actions: Tensor,
    value: Tensor,
    candidates: Tensor,
    scores: Tensor,
    *,
    warm_value: Tensor,
    num_invalid: int | None = None,
    converged: Tensor | None = None,
    iterations: int = 1,
) -> Plan:
    """The plan that executes ``actions (N, H, A)``, worth ``value (N,)``.

    Args:
        task: what was solved, and what that cost.
        warm: the warm start it began with.
        actions: to execute.
        value: their score.
        candidates: ``(N, P, H, A)`` of the last iteration.
        scores: ``(N, P)`` of these.
        warm_value: ``(N,)`` score of the warm start.
        num_invalid: candidates that failed; by default those among ``scores``.
        converged: ``(N,)`` bool, None when the method does not know.
        iterations: improvement steps taken.
    """
    finite = scores.isfinite()
    invalid = int((~finite).sum())
    report = PlanReport(
        warm_start_value=th.where(warm.known, warm_value, th.nan),
        best_value=value,
        mean_value=th.where(finite, scores, 0).sum(1) / finite.sum(1),
        effective_sample_size=th.ones_like(value),
        num_invalid=invalid if num_invalid is None else num_invalid,
        model_calls=task.costs.model_calls,
        seconds=time.perf_counter() - task.costs.started,
        model_seconds=task.costs.model_seconds,
        converged=converged,
        iterations=iterations,
    )
    left = WarmStart(actions, th.ones_like(warm.known))
    return Plan(actions, value, left, report, candidates, scores)
