"""Logs a latent model's fits to SB3's logger."""

from __future__ import annotations

import math

from stable_baselines3.common.logger import Logger

from mbrl_wrappers.training.sequence_report import SequenceFitReport


def record_sequence_fit(logger: Logger, report: SequenceFitReport) -> None:
    """Record a fit under ``model/``: the bound and its terms in nats per observation, reconstruction, cost.

    ``model/closed_r2_*`` is reconstruction from the posterior and ``model/open_r2_*`` prediction without readings. A
    dimension that never changed has neither.
    """
    quality = report.quality
    for name in ("bound", "obs_log_prob", "reward_log_prob", "termination_log_prob", "kl", "active_units"):
        logger.record(f"model/{name}", getattr(quality, name))
    for name, closed, opened in zip(report.dimensions, quality.closed_loop_r2, quality.open_loop_r2, strict=True):
        for kind, value in (("closed", closed), ("open", opened)):
            if not math.isnan(value):
                logger.record(f"model/{kind}_r2_{name}", value, exclude="stdout")
    for name, std in zip(report.dimensions, quality.decoder_std, strict=True):
        logger.record(f"model/decoder_std_{name}", std, exclude="stdout")
    logger.record("model/problems", len(report.problems))
    logger.record("model/gradient_steps", report.gradient_steps)
