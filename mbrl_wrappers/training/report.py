"""How good a fitted ensemble is on the holdout, and where its learned termination should fire."""

from __future__ import annotations

from dataclasses import dataclass

import torch as th
from torch import Tensor

from mbrl_wrappers.models.gaussian_ensemble import Batch, GaussianEnsemble

# Below this share of the training rows' variance, a holdout says nothing about a dimension.
MIN_VARIANCE = 1e-3

# A standard normal is inside these half-widths with probability 0.5 and 0.9.
HALF_WIDTH_50, HALF_WIDTH_90 = 0.67449, 1.64485


@dataclass(frozen=True)
class Quality:
    """The scale-free part of a :class:`~mbrl_wrappers.fitting.FitReport`."""

    r2: tuple[float, ...]
    coverage_50: tuple[float, ...]
    coverage_90: tuple[float, ...]
    log_variance_spread: tuple[float, ...]
    log_variance_low: tuple[float, ...]
    log_variance_high: tuple[float, ...]


@th.no_grad()
def holdout_quality(model: GaussianEnsemble, holdout: Batch) -> Quality:
    """Per-dimension R² of the elites' mean and coverage of the elites' own intervals on ``holdout (B, ...)``."""
    outputs = model.elite_outputs(holdout.inputs)
    residual = holdout.targets - outputs.mean.mean(0)
    spread = holdout.targets - holdout.targets.mean(0)
    # A dimension that hardly varies on the holdout is measured against the training rows, whose variance is one.
    unexplained, total = residual.square().mean(0), spread.square().mean(0)
    r2 = 1 - unexplained / th.where(total > MIN_VARIANCE, total, th.ones_like(total))
    deviation = (holdout.targets - outputs.mean).abs() * th.exp(-0.5 * outputs.log_variance)

    def coverage(half_width: float) -> tuple[float, ...]:
        return _floats((deviation < half_width).float().mean((0, 1)))

    low, high = (limit.expand_as(outputs.log_variance) for limit in model.log_variance.limits(model.elites[:, None]))
    return Quality(
        r2=_floats(r2),
        coverage_50=coverage(HALF_WIDTH_50),
        coverage_90=coverage(HALF_WIDTH_90),
        log_variance_spread=_floats(outputs.log_variance.std(1, correction=0).mean(0)),
        log_variance_low=_floats(low.mean((0, 1))),
        log_variance_high=_floats(high.mean((0, 1))),
    )


@th.no_grad()
def calibrate_termination(model: GaussianEnsemble, holdout: Batch, *, seen: bool) -> None:
    """Set the threshold on the logit so that the holdout terminates as often in prediction as in truth.

    Args:
        model: with a learned termination; nothing happens otherwise.
        holdout: rows ``(B, ...)``. Without a termination among them the threshold is a probability of one half.
        seen: whether any row, held out or not, terminated; before the first one the head never fires.
    """
    logit = model.elite_outputs(holdout.inputs).logit
    if logit is None:
        return
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


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())
