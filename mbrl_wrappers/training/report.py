"""How good a fitted ensemble is on the holdout, and where its learned termination should fire."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch as th
from torch import Tensor

from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.models.gaussian_ensemble import Examples, GaussianEnsemble
from mbrl_wrappers.nets.normalizer import RELATIVE_FLOOR, SMALLEST

# Below this share of the training rows' variance, a holdout says nothing about a dimension.
MIN_VARIANCE = 1e-3

# A standard normal is inside these half-widths with probability 0.5 and 0.9.
HALF_WIDTH_50, HALF_WIDTH_90 = 0.67449, 1.64485


# With fewer terminations than these in the holdout, precision and recall say nothing: one more or less is 10 %.
MIN_EVENTS = 10

# A learned termination whose precision or recall is below this is worth a warning.
POOR = 0.7


@dataclass(frozen=True)
class Quality:
    """The scale-free part of a :class:`~mbrl_wrappers.fitting.FitReport`, one number per dimension."""

    holdout_r2: tuple[float, ...]
    coverage_50: tuple[float, ...]
    coverage_90: tuple[float, ...]
    log_variance_spread: tuple[float, ...]
    log_variance_low: tuple[float, ...]
    log_variance_high: tuple[float, ...]


@dataclass(frozen=True)
class TerminationQuality:
    """What a :class:`~mbrl_wrappers.fitting.FitReport` says of the termination; None throughout where it is known."""

    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None
    base_rate: float | None = None
    events: int | None = None


@th.no_grad()
def holdout_quality(model: GaussianEnsemble, holdout: Examples) -> Quality:
    """R² of the elites' mean and coverage of the elites' own intervals per dimension on ``holdout (B, ...)``.

    Both are NaN for a dimension that never changed in the training rows; where the holdout does change it, R² is 0.
    """
    outputs = model.elite_outputs(holdout.inputs)
    residual = holdout.targets - outputs.mean.mean(0)
    spread = holdout.targets - holdout.targets.mean(0)
    # A dimension that hardly varies on the holdout is measured against the training rows, whose variance is one.
    unexplained, total = residual.square().mean(0), spread.square().mean(0)
    r2 = 1 - unexplained / th.where(total > MIN_VARIANCE, total, th.ones_like(total))
    constant = model.target_normalizer.constant
    rounding = RELATIVE_FLOOR * model.target_normalizer.mean.abs().clamp(min=SMALLEST)
    changed = holdout.targets.abs().amax(0) > rounding
    r2 = th.where(constant, th.where(changed, 0.0, math.nan), r2)
    deviation = (holdout.targets - outputs.mean).abs() * th.exp(-0.5 * outputs.log_variance)

    def coverage(half_width: float) -> tuple[float, ...]:
        inside = (deviation < half_width).float().mean((0, 1))
        return _floats(inside.masked_fill(constant, math.nan))

    low, high = (limit.expand_as(outputs.log_variance) for limit in model.log_variance.limits(model.elites[:, None]))
    return Quality(
        holdout_r2=_floats(r2),
        coverage_50=coverage(HALF_WIDTH_50),
        coverage_90=coverage(HALF_WIDTH_90),
        log_variance_spread=_floats(outputs.log_variance.std(1, correction=0).mean(0)),
        log_variance_low=_floats(low.mean((0, 1))),
        log_variance_high=_floats(high.mean((0, 1))),
    )


@th.no_grad()
def calibrate_termination(model: GaussianEnsemble, holdout: Examples, *, seen: bool) -> TerminationQuality:
    """Set the threshold on the logit so that the holdout terminates as often in prediction as in truth.

    Args:
        model: with a learned termination; nothing happens otherwise.
        holdout: rows ``(B, ...)``. Without a termination among them the threshold is a probability of one half.
        seen: whether any row, held out or not, terminated; before the first one no termination is predicted.

    Returns:
        How good the predicted terminations are at that threshold, all elites on all rows.
    """
    logit = model.elite_outputs(holdout.inputs).logit
    if logit is None:
        return TerminationQuality()
    events = int(holdout.terminated.sum())
    if not seen:
        model.termination_threshold.fill_(th.inf)
    elif not 0 < events < len(holdout.terminated):
        model.termination_threshold.zero_()
    else:
        # Between the last row that should fire and the first that should not.
        ranked = logit.flatten().sort(descending=True).values
        cut = events * model.num_elites
        model.termination_threshold.copy_((ranked[cut - 1] + ranked[cut]) / 2)
    fired = logit > model.termination_threshold  # (M, B)
    true = holdout.terminated.expand_as(logit) > 0
    hits = int((fired & true).sum())
    return TerminationQuality(
        threshold=float(model.termination_threshold.sigmoid()),
        precision=_share(hits, int(fired.sum())),
        recall=_share(hits, int(true.sum())),
        base_rate=events / len(holdout.terminated),
        events=events,
    )


class Problem(NamedTuple):
    """What is wrong with a learned termination: its kind, and a sentence for the user."""

    kind: Literal["none seen", "too few", "poor"]
    message: str


def termination_problem(report: FitReport) -> Problem | None:
    """Whether the predicted terminations of a fit are wrong or cannot be judged; None when they are fine or known."""
    precision, recall, events = report.termination_precision, report.termination_recall, report.termination_events
    if precision is None or recall is None or events is None:
        return None
    advice = "Give termination_fn where the rule is known (mbrl_wrappers.tasks has those of many tasks)."
    if report.termination_threshold == 1.0:
        return Problem(
            "none seen",
            "The learned termination has no example: no transition has terminated yet, so the model predicts no "
            "terminations. Give termination_fn where the rule is known (mbrl_wrappers.tasks has those of many tasks; "
            "never_terminates if there is none).",
        )
    if events < MIN_EVENTS:
        return Problem(
            "too few",
            f"The learned termination cannot be judged: {events} of {report.holdout_rows} held-out transitions "
            f"terminate, and {MIN_EVENTS} are needed. {advice}",
        )
    if not min(precision, recall) >= POOR:
        return Problem(
            "poor",
            f"The learned termination is poor: of the {events} held-out transitions that terminate it finds "
            f"{recall:.0%}, and {precision:.0%} of the terminations that it predicts are true. {advice}",
        )
    return None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())
