"""What a fit reports, and the protocol of whatever fits a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from mbrl_wrappers.types import DynamicsModel, Transitions


@dataclass(frozen=True)
class FitReport:
    r"""The outcome of one fit, in units that compare across tasks.

    Dimensions ``D`` are those of the observation, then the reward when it is learned. A dimension whose target never
    changes in the training rows is predicted to change by exactly that much, without noise. Nothing was learned there,
    so its R² and coverages are NaN, and :attr:`constant` names it.

    The quality of a learned termination counts every elite's prediction for every holdout row, as rollouts send each
    row through one elite. It is None where the termination is known.

    Attributes:
        epochs: passes over the training rows, the last perhaps cut short by the cap on gradient steps.
        gradient_steps: optimiser steps, all members in one; steps that no member could take are not counted.
        rows_seen: training rows consumed, one per row and epoch; members are not counted.
        train_rows: rows trained on.
        holdout_rows: rows held out.
        holdout_error: selection score of each member on the holdout, ``E`` values: about the mean squared error in
            standardised units, see :meth:`~mbrl_wrappers.EnsembleDynamics.errors`.
        initial_error: the same before the first step.
        dimensions: name of each dimension, ``D`` strings: ``obs0``, ``obs1`` ... and ``reward`` when it is learned.
        holdout_r2: coefficient of determination of the elites' mean per dimension,
            :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`; the observation's are those of its change. A
            dimension that hardly varies on the holdout is measured against the variance of the training rows.
        coverage_50: share of holdout targets inside the elites' central 50 % intervals per dimension; calibrated
            is 0.5.
        coverage_90: the same for 90 %.
        log_variance_spread: standard deviation over the holdout of each elite's log-variance, averaged over elites, per
            dimension; 0 says that the head predicts one constant and tells no noisy state from a quiet one.
        log_variance_low: lower limit of the log-variance per dimension, averaged over elites.
        log_variance_high: upper limit.
        elites: members ranked best on the holdout, best first; members may be named twice where too few predict finite
            numbers.
        diverged_members: members that computed numbers which were not finite, and went back to their best weights.
        termination_threshold: probability above which a learned termination fires; None when a function is given.
        termination_precision: share of the predicted terminations that are true; NaN when none is predicted.
        termination_recall: share of the true terminations that are predicted; NaN when there is none.
        termination_base_rate: share of the holdout rows that terminate.
        termination_events: holdout rows that terminate: with a handful of them, precision and recall say little.
        seconds: wall time.
    """

    epochs: int
    gradient_steps: int
    rows_seen: int
    train_rows: int
    holdout_rows: int
    holdout_error: tuple[float, ...]
    initial_error: tuple[float, ...]
    dimensions: tuple[str, ...]
    holdout_r2: tuple[float, ...]
    coverage_50: tuple[float, ...]
    coverage_90: tuple[float, ...]
    log_variance_spread: tuple[float, ...]
    log_variance_low: tuple[float, ...]
    log_variance_high: tuple[float, ...]
    elites: tuple[int, ...]
    diverged_members: tuple[int, ...]
    termination_threshold: float | None
    termination_precision: float | None
    termination_recall: float | None
    termination_base_rate: float | None
    termination_events: int | None
    seconds: float

    @property
    def constant(self) -> tuple[str, ...]:
        """Names of the dimensions that never change in the training rows."""
        return tuple(name for name, r2 in zip(self.dimensions, self.holdout_r2, strict=True) if math.isnan(r2))

    @property
    def r2_mean(self) -> float:
        """The mean of ``holdout_r2`` over the dimensions that change; NaN if none does."""
        return _mean(self.holdout_r2)

    @property
    def r2_min(self) -> float:
        """The lowest ``holdout_r2`` of the dimensions that change; NaN if none does."""
        return min(_numbers(self.holdout_r2), default=math.nan)

    @property
    def coverage_50_mean(self) -> float:
        """The mean of ``coverage_50`` over the dimensions that change; NaN if none does."""
        return _mean(self.coverage_50)

    @property
    def coverage_90_mean(self) -> float:
        """The mean of ``coverage_90`` over the dimensions that change; NaN if none does."""
        return _mean(self.coverage_90)


def _numbers(values: tuple[float, ...]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: tuple[float, ...]) -> float:
    numbers = _numbers(values)
    return sum(numbers) / len(numbers) if numbers else math.nan


class ModelTrainer(Protocol):
    """Fits ``model`` to real transitions, again and again as they grow."""

    @property
    def model(self) -> DynamicsModel[Any]:
        """The model that :meth:`fit` changes in place."""
        ...

    def fit(
        self, transitions: Transitions, *, max_gradient_steps: int | None = None, row_ids: Tensor | None = None
    ) -> FitReport:
        """Fit to ``transitions``.

        Args:
            transitions: all real rows there are.
            max_gradient_steps: optimiser steps at most.
            row_ids: ``(B,)`` int64, the number of each row in order of collection, by which holdouts stay the same.
        """
        ...
