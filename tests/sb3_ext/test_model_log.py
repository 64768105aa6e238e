"""What the logger is told of a fit."""

from __future__ import annotations

import math
from dataclasses import replace

from stable_baselines3.common.logger import Logger

from sb3_ext.model_log import record_fit
from tests.sb3_ext.imagination_runs import CountingTrainer


def test_dimensions_are_named_by_the_report_and_unknown_numbers_left_out() -> None:
    logger = Logger(None, [])
    report = replace(CountingTrainer.report, dimensions=("height", "reward"), holdout_r2=(0.5, math.nan))
    record_fit(logger, report)
    assert logger.name_to_value == {
        "model/r2_height": 0.5,
        "model/r2_mean": 0.5,
        "model/r2_min": 0.5,
        "model/holdout_error": 0.2,
        "model/coverage_50": 0.5,
        "model/coverage_90": 0.9,
        "model/log_variance_spread": 0.2,
        "model/log_variance_low": -9.0,
        "model/log_variance_high": 1.0,
        "model/epochs": 2,
        "model/gradient_steps": 10,
    }


def test_a_learned_termination_is_recorded_with_its_counts() -> None:
    logger = Logger(None, [])
    record_fit(
        logger,
        replace(
            CountingTrainer.report,
            termination_precision=0.25,
            termination_recall=0.0,
            termination_base_rate=0.1,
            termination_events=4,
        ),
    )
    found = {key: value for key, value in logger.name_to_value.items() if "termination" in key}
    assert found == {
        "model/termination_precision": 0.25,
        "model/termination_recall": 0.0,
        "model/termination_base_rate": 0.1,
        "model/termination_events": 4,
    }
