"""What a fit says about itself, in units that compare across tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th
from torch import Tensor

from mbrl_wrappers.models.ensemble import Batch, EnsembleDynamics

# A standard normal is inside these half-widths with probability 0.5 and 0.9.
HALF_WIDTH_50, HALF_WIDTH_90 = 0.67449, 1.64485


@dataclass(frozen=True)
class FitReport:
    r"""The outcome of one :meth:`Trainer.fit`.

    Dimensions ``D`` are those of the observation, then the reward when it is learned.

    Attributes:
        epochs: passes over the training rows, the last perhaps cut short by the cap on gradient steps.
        gradient_steps: optimiser steps, all members in one.
        rows_seen: training rows consumed, one per row and epoch; members are not counted.
        train_rows: rows trained on.
        holdout_rows: rows held out.
        holdout_error: mean squared error of each member on the holdout in standardised units, ``E`` values.
        initial_error: the same before the first step.
        holdout_r2: coefficient of determination of the elites' mean per dimension,
            :math:`1 - \sum (y - \hat y)^2 / \sum (y - \bar y)^2`; the observation's are those of its change.
        coverage_50: share of holdout targets inside the elites' central 50 % intervals per dimension; 0.5 is calibrated.
        coverage_90: the same for 90 %.
        elites: members ranked best on the holdout, best first.
        termination_threshold: probability above which a learned termination fires; None when a function is given.
        seconds: wall time.
    """

    epochs: int
    gradient_steps: int
    rows_seen: int
    train_rows: int
    holdout_rows: int
    holdout_error: tuple[float, ...]
    initial_error: tuple[float, ...]
    holdout_r2: tuple[float, ...]
    coverage_50: tuple[float, ...]
    coverage_90: tuple[float, ...]
    elites: tuple[int, ...]
    termination_threshold: float | None
    seconds: float


@dataclass(frozen=True)
class Quality:
    """The scale-free part of a report: see :class:`FitReport`."""

    r2: tuple[float, ...]
    coverage_50: tuple[float, ...]
    coverage_90: tuple[float, ...]


@th.no_grad()
def holdout_quality(model: EnsembleDynamics, holdout: Batch) -> Quality:
    """Per-dimension R² of the elites' mean and coverage of the elites' own intervals on ``holdout (B, ...)``."""
    outputs = model.elite_outputs(holdout.inputs)
    residual = holdout.targets - outputs.mean.mean(0)
    spread = holdout.targets - holdout.targets.mean(0)
    # A dimension that does not vary on the holdout is explained when it is hit, and not otherwise.
    unexplained, total = residual.square().sum(0), spread.square().sum(0)
    r2 = th.where(total > 0, 1 - unexplained / total.clamp(min=1e-12), (unexplained < 1e-8).float())
    deviation = (holdout.targets - outputs.mean).abs() * th.exp(-0.5 * outputs.log_variance)

    def coverage(half_width: float) -> tuple[float, ...]:
        return _floats((deviation < half_width).float().mean((0, 1)))

    return Quality(_floats(r2), coverage(HALF_WIDTH_50), coverage(HALF_WIDTH_90))


@th.no_grad()
def calibrate_termination(model: EnsembleDynamics, holdout: Batch) -> None:
    """Set the threshold on the logit so that the holdout terminates as often in prediction as in truth.

    With no termination in the holdout there is nothing to calibrate on and the threshold is a probability of one half.
    """
    logit = model.elite_outputs(holdout.inputs).logit
    if logit is None:
        return
    events = int(holdout.terminated.sum())
    if not 0 < events < len(holdout.terminated):
        model.termination_threshold.zero_()
        return
    ranked = logit.flatten().sort(descending=True).values
    cut = events * model.num_elites
    # Between the last row that should fire and the first that should not; capped, so that a head that has not learned
    # yet does not fire on rows it thinks alive by a wide margin.
    model.termination_threshold.copy_(((ranked[cut - 1] + ranked[cut]) / 2).clamp(-3.0, 3.0))


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())
