"""The exact price of old information, and the executed costs beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.experiments.new_information import executed_costs, expected_cost, read_returns


@pytest.mark.parametrize(("chunk", "cost"), [(1, 17.25583), (5, 18.44866), (30, 27.82155)])
def test_expectations(chunk: int, cost: float) -> None:
    assert expected_cost(chunk) == pytest.approx(cost, abs=1e-5)


def test_newer_information_is_worth_more_where_chunks_divide_the_episode() -> None:
    costs = [expected_cost(chunk) for chunk in (1, 2, 3, 5, 6, 10, 15, 30)]
    assert costs == sorted(costs)
    assert costs[0] == pytest.approx(17.25583, abs=1e-5)


@pytest.mark.parametrize("chunk", [1, 7])
def test_executed_costs_average_to_the_expectation(chunk: int) -> None:
    costs = executed_costs(chunk, 400, seed=1)
    error = float(costs.std(ddof=1)) / 20
    assert abs(costs.mean() - expected_cost(chunk)) < 4 * error
    assert error < 0.5


def test_returns_are_gathered_by_chunk(tmp_path: Path) -> None:
    for run, (execute, total) in enumerate([(1, 5.0), (4, 3.0), (1, 7.0)]):
        folder = tmp_path / str(run)
        folder.mkdir()
        summary = {
            "task": "T-v0",
            "hyperparameters": {"execute": execute},
            "planning": {"episodes": [{"total": total}]},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    assert read_returns(tmp_path) == {"T-v0": {1: [5.0, 7.0], 4: [3.0]}}
