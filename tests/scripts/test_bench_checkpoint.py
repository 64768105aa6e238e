"""The benchmark of checkpoints, on a small run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints
from scripts.benchmarks import checkpoint


def test_each_save_and_each_resume_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "IMAGINED_ROWS", 500)
    monkeypatch.setattr(checkpoint, "UPDATES", 1)
    costs = checkpoint.saves(tmp_path, 300, count=4)
    assert len(costs) == 4 - 1
    assert all(math.isfinite(number) and number > 0 for cost in costs for number in cost)
    found = RunCheckpoints(tmp_path).load()
    assert found is not None
    replay = found.state["run"]["replay"]
    assert (found.step, replay["real"].written, len(replay["synthetic"]["made_at"])) == (20, 320, 500)
    assert len(checkpoint.resumes(tmp_path, 300, 0.0)) == 3
