"""What the logger is told of a fit and of a rollout."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch as th
from stable_baselines3.common.logger import Logger

from mbrl_wrappers.rollout import Rollout
from mbrl_wrappers.types import Transitions
from sb3_ext.model_log import record_fit, record_rollout
from tests.sb3_ext.imagination_runs import REPORT


def test_dimensions_are_named_by_the_report_and_unknown_numbers_left_out() -> None:
    logger = Logger(None, [])
    report = replace(REPORT, dimensions=("height", "reward"), holdout_r2=(0.5, math.nan))
    record_fit(logger, report)
    assert logger.name_to_value == {
        "model/r2_height": 0.5,
        "model/r2_mean": 0.5,
        "model/r2_min": 0.5,
        "model/holdout_error": 0.2,
        "model/coverage_50": 0.5,
        "model/coverage_90": 0.9,
        "model/log_variance_spread": 1.0,
        "model/log_variance_low": -10.0,
        "model/log_variance_high": 0.5,
        "model/epochs": 2,
        "model/gradient_steps": 10,
    }


def test_a_learned_termination_is_recorded_with_its_counts() -> None:
    logger = Logger(None, [])
    record_fit(
        logger,
        replace(
            REPORT,
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


def test_the_spread_is_the_smallest_of_the_dimensions_that_change() -> None:
    logger = Logger(None, [])
    spreads = replace(
        REPORT,
        dimensions=("height", "speed", "constant"),
        holdout_r2=(0.5, 0.7, math.nan),
        log_variance_spread=(0.4, 0.3, 0.1),
        log_variance_low=(-9.0, -11.0, -10.0),
        log_variance_high=(0.5, 2.0, 1.0),
    )
    record_fit(logger, spreads)
    assert logger.name_to_value["model/log_variance_spread"] == 0.3
    assert logger.name_to_value["model/log_variance_low"] == -11.0
    assert logger.name_to_value["model/log_variance_high"] == 2.0


@pytest.mark.parametrize(
    ("terminated", "dropped", "wanted"),
    [
        ([True, False, False], 1, (2.0, 0.25, 0.25)),
        ([], 2, (0.0, 0.0, 1.0)),
    ],
)
def test_a_rollout_is_recorded_in_shares_of_its_predictions(
    terminated: list[bool], dropped: int, wanted: tuple[float, float, float]
) -> None:
    count, logger = len(terminated), Logger(None, [])
    ends = th.tensor(terminated, dtype=th.bool)
    obs, reward = th.zeros(count, 2), th.arange(1.0, count + 1)
    rows = Transitions(obs, th.zeros(count, 1), reward, obs, ends, ends)
    number = th.zeros(count, dtype=th.int64)
    record_rollout(logger, Rollout(rows, number, number, dropped), 5, 4)
    assert logger.name_to_value == {
        "dyna/rollout_length": 5,
        "dyna/branch_length_mean": rows.num_rows / 4,
        "dyna/imagined_reward_mean": wanted[0],
        "dyna/terminated_fraction": wanted[1],
        "dyna/dropped_fraction": wanted[2],
    }
