"""What is in a folder is told without running anything in it, damage included."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mbrl_wrappers.storage.checkpoint import save
from mbrl_wrappers.storage.run_checkpoint import RunCheckpoints, checkpoint_folders
from scripts import inspect_run
from tests.storage.run_folders import CountingRing, run_state
from tests.storage.stored_models import affine_model


class Canary:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints, a model, and an agent whose pickle would sing."""
    folder, ring = tmp_path / "run", CountingRing(10)
    for step in (3, 5):
        ring.add(step)
        RunCheckpoints(folder / "checkpoints").save(step, run_state(step, ring), about={"task": "Hopper-v5"})
    save(affine_model(), folder / "dynamics")
    (folder / "summary.json").write_text(json.dumps({"task": "Hopper-v5", "finished": False, "evaluations": [1]}))
    with zipfile.ZipFile(folder / "Hopper-v5.zip", "w") as archive:
        archive.writestr("data", pickle.dumps(Canary(tmp_path / "song")))
        archive.writestr("policy.pth", pickle.dumps(Canary(tmp_path / "song")))
    return folder


def told(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = inspect_run.main([str(folder), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_run_is_told_whole(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(run, capsys)
    assert code == 0
    assert found["run"] == {"task": "Hopper-v5", "finished": False}
    assert [(each["step"], each["whole"]) for each in found["checkpoints"]] == [(3, True), (5, True)]
    newest = found["checkpoints"][-1]
    assert newest["about"] == {"task": "Hopper-v5"}
    assert newest["tensors"] == {"/agent/weights": "F32 (2, 3)"}
    assert newest["rings"][0] == {
        "place": "replay/real",
        "filled": 8,
        "capacity": 10,
        "written": 8,
        "columns": {"numbers": "int64 ()", "rows": "float32 (3,)"},
    }
    files = sum(path.stat().st_size for path in (run / "checkpoints" / "shards").iterdir())
    assert 0 < newest["bytes"] < files
    assert [(file["kind"], file["whole"]) for file in found["files"]] == [("test-affine", True)]
    assert [(agent["parts"], agent["whole"]) for agent in found["agents"]] == [(["data", "policy.pth"], True)]
    assert not (tmp_path / "song").exists()


def test_a_person_reads_lines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_run.main([str(run)]) == 0
    text = capsys.readouterr().out
    for line in (
        "  run: task Hopper-v5, finished False",
        "  checkpoint 00000002-step-5: whole",
        "    ring replay/real: 8 of 10 slots, numbers int64 (), rows float32 (3,)",
        "    /agent/weights: F32 (2, 3)",
        "  dynamics.safetensors: whole, test-affine",
        "  Hopper-v5.zip: whole, parts data, policy.pth",
    ):
        assert line in text.splitlines()


def test_damage_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = checkpoint_folders(run / "checkpoints")
    (first / "manifest.json").write_text("{}")
    with (second / "state.safetensors").open("ab") as file:
        file.write(b"x")
    for name in ("dynamics.safetensors", "Hopper-v5.zip"):
        (run / name).write_bytes((run / name).read_bytes()[:-3])
    code, found = told(run, capsys)
    assert code == 1
    parts = [*found["checkpoints"], *found["files"], *found["agents"]]
    assert [part["whole"] for part in parts] == [False] * 4
    words = ("no manifest", "corrupt: it has", "truncated", "truncated, corrupt or no agent")
    assert all(word in part["fault"] for word, part in zip(words, parts, strict=True))
    assert inspect_run.main([str(run)]) == 1
    assert capsys.readouterr().out.count("DAMAGED") == 4


def test_one_checkpoint_alone_can_be_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(checkpoint_folders(run / "checkpoints")[0], capsys)
    assert (code, [each["step"] for each in found["checkpoints"]]) == (0, [3])


def test_a_folder_of_something_else_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert inspect_run.main([str(folder)]) == 2
        assert str(folder) in capsys.readouterr().err
    (tmp_path / "summary.json").write_text("[" * 100_000)
    code, found = told(tmp_path, capsys)
    assert code == 0
    assert "is no summary" in found["run"]["fault"]


def test_links_are_not_followed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(run / "checkpoints", tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    assert told(run, capsys)[1]["checkpoints"] == []
