"""What a model's fits and rollouts write to SB3's log, and warnings of what went wrong in them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger

from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.function_checks import disagreement
from mbrl_wrappers.rollout import Rollout
from mbrl_wrappers.types import DynamicsModel, Transitions
from sb3_ext.buffers import MixedReplayBuffer


def record_fit(logger: Logger, report: FitReport) -> None:
    """Record a fit under ``model/``: R² of each dimension by its name, calibration, cost and learned terminations.

    A dimension that never changed has no R² and is left out, and so is the quality of terminations that are known.
    """
    for name, r2 in zip(report.dimensions, report.holdout_r2, strict=True):
        if not math.isnan(r2):
            logger.record(f"model/r2_{name}", r2, exclude="stdout")
    logger.record("model/r2_mean", report.r2_mean)
    logger.record("model/r2_min", report.r2_min)
    logger.record("model/holdout_error", float(np.mean(report.holdout_error)))
    logger.record("model/coverage_50", report.coverage_50_mean)
    logger.record("model/coverage_90", report.coverage_90_mean)
    spreads = zip(report.log_variance_spread, report.holdout_r2, strict=True)
    changing = [spread for spread, r2 in spreads if not math.isnan(r2)]
    logger.record("model/log_variance_spread", min(changing, default=0.0), exclude="stdout")
    logger.record("model/log_variance_high", float(np.max(report.log_variance_high)), exclude="stdout")
    logger.record("model/log_variance_low", float(np.min(report.log_variance_low)), exclude="stdout")
    for name, value in (
        ("precision", report.termination_precision),
        ("recall", report.termination_recall),
        ("base_rate", report.termination_base_rate),
        ("events", report.termination_events),
    ):
        if value is not None:
            logger.record(f"model/termination_{name}", value)
    if report.diverged_members:
        logger.record("model/diverged_members", len(report.diverged_members))
    logger.record("model/epochs", report.epochs)
    logger.record("model/gradient_steps", report.gradient_steps)


def record_rollout(logger: Logger, rollout: Rollout, length: int, branches: int) -> None:
    """Record a round of ``branches`` branched rollouts of at most ``length`` steps under ``dyna/``."""
    rows = rollout.transitions
    predictions = max(rows.num_rows + rollout.num_dropped, 1)
    logger.record("dyna/rollout_length", length)
    logger.record("dyna/branch_length_mean", rows.num_rows / branches)
    if rollout.uncertainty is not None:
        logger.record("dyna/gated_fraction", rollout.num_gated / max(rows.num_rows + rollout.num_gated, 1))
    logger.record("dyna/imagined_reward_mean", float(rows.reward.mean()) if rows.num_rows else 0.0)
    logger.record("dyna/terminated_fraction", float(rows.terminated.float().sum()) / predictions)
    logger.record("dyna/dropped_fraction", rollout.num_dropped / predictions)


def record_synthetic(logger: Logger, buffer: MixedReplayBuffer) -> None:
    """Record how many imagined rows ``buffer`` has, in what memory, and the age of the oldest in real steps."""
    synthetic = buffer.synthetic
    logger.record("dyna/synthetic_rows", len(synthetic))
    logger.record("dyna/oldest_rows_age", buffer.real_steps - (synthetic.oldest or buffer.real_steps))
    logger.record("dyna/synthetic_mib", synthetic.capacity * synthetic.row_bytes / 2**20)


def warn_if_most_were_dropped(rollout: Rollout) -> None:
    """Warn of a round that dropped more predictions than it kept."""
    if rollout.num_dropped > max(rollout.transitions.num_rows, 1):
        warnings.warn(
            f"{rollout.num_dropped} predictions of the model were dropped and {rollout.transitions.num_rows} kept: "
            "they were not finite or far outside the real data. Look at model/r2_* in the log, scale the "
            "observations, or begin with more random steps (learning_starts).",
            stacklevel=2,
        )


def warn_of_disagreement(dynamics: DynamicsModel[Any], rows: Transitions, logger: Logger) -> None:
    """Warn if the known reward or termination of ``dynamics`` disagrees with real ``rows``; log by how much."""
    found = disagreement(dynamics, rows)
    for sentence in found.sentences:
        warnings.warn(sentence, stacklevel=2)
    if found.reward_error is not None:
        logger.record("model/known_reward_error", found.reward_error)
