"""The table of planning runs, from hand-made summaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.plan_table import main, read_plans
from scripts.planning.table import row


def summary(arm: str, totals: list[float], **settings: Any) -> dict[str, Any]:
    episodes = [{"total": total, "length": 50, "plans": 25} for total in totals]
    planning = {
        "model": "true (MujocoModel)",
        "seeds": [3],
        "episodes": episodes,
        "model_calls": 25 * len(totals) * 10 * 98,
        "plan_milliseconds": {"median": 12.4},
    }
    return {"task": "Reacher-v5", "arm": arm, "hyperparameters": {"horizon": 10, **settings}, "planning": planning}


def test_a_row_by_hand() -> None:
    cells = row(summary("icem", [1.0, 2.0, 3.0, 6.0], execute=2)).strip("| ").split(" | ")
    assert cells[:6] == ["Reacher-v5", "icem", "true (MujocoModel)", "10", "2", "1 × 4"]
    assert cells[6].startswith("**2.5** [")
    assert cells[7:] == ["3.0 ± 1.9", "50", "98", "12"]


def test_particles_are_not_counted_as_sequences() -> None:
    assert row(summary("cem", [1.0], particles=7)).strip("| ").split(" | ")[9] == "14"


def test_only_planning_runs_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (
        ("b", summary("mppi", [1.0])),
        ("a", summary("cem", [1.0])),
        ("agent", {"task": "x"}),
        ("begun", summary("icem", [])),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(content))
    assert [plan["arm"] for plan in read_plans([tmp_path])] == ["cem", "mppi"]
    assert main([str(tmp_path)]) == 0
    assert "| mppi |" in capsys.readouterr().out
    assert main([str(tmp_path / "agent")]) == 2
    assert "no summary of plan.py" in capsys.readouterr().err
