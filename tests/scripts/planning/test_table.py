"""The table of planning runs, from hand-made summaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.planning.table import row
from scripts.table import main
from tests.scripts.runs_on_disk import write_run


def summary(arm: str, totals: list[float], **settings: Any) -> dict[str, Any]:
    episodes = [{"total": total, "length": 50, "plans": 25} for total in totals]
    planning = {
        "model": "true (MujocoModel)",
        "seeds": [3],
        "episodes": episodes,
        "model_calls": 25 * len(totals) * 10 * 98,
        "plan_milliseconds": {"median": 12.4},
    }
    return {
        "task": "Reacher-v5",
        "arm": arm,
        "hyperparameters": {"horizon": 10, **settings},
        "planning": planning,
        "evaluations": [{"real_steps": 0, "returns": totals}] if totals else [],
    }


def test_a_row_by_hand() -> None:
    cells = row(summary("icem", [1.0, 2.0, 3.0, 6.0], execute=2)).strip("| ").split(" | ")
    assert cells[:6] == ["Reacher-v5", "icem", "true (MujocoModel)", "10", "2", "1 × 4"]
    assert cells[6].startswith("**2.5** [")
    assert cells[7:] == ["3.0 ± 1.9", "50", "98", "12"]


def test_particles_are_not_counted_as_sequences() -> None:
    assert row(summary("cem", [1.0], particles=7)).strip("| ").split(" | ")[9] == "14"


def write_plans(folder: Path, *summaries: dict[str, Any]) -> None:
    for number, content in enumerate(summaries):
        (folder / f"{number}").mkdir(parents=True)
        (folder / f"{number}" / "summary.json").write_text(json.dumps(content))


def test_plans_are_rows_by_task_and_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plans(tmp_path, summary("mppi", [1.0]), summary("cem", [1.0]), summary("icem", []))
    assert main([str(tmp_path)]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| task | planner | model |")
    assert [line.split(" | ")[1] for line in rows] == ["cem", "mppi"]  # icem's first episode is not over


def test_both_kinds_of_runs_get_a_table_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plans(tmp_path / "plans", summary("cem", [1.0]))
    write_run(tmp_path / "agent", [[4.0]])
    assert main([str(tmp_path), "--goal", "3"]) == 0
    first, agents, second, goal, plans = capsys.readouterr().out.strip().split("\n\n")
    assert first.startswith("IQM over seeds")
    assert "| Hopper-v5 | sac | 1 | @100: **4** (4) |" in agents
    assert second == "Real steps to a mean return of 3."
    assert "| Hopper-v5 | sac | first | 100 | 100 |" in goal
    assert "| Reacher-v5 | cem |" in plans
    assert "Reacher" not in agents
