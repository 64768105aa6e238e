"""Run folders and files that are replaced in one step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.runs.run_folder import agent_file_name, new_run_folder, write_json_atomically, write_text_atomically


def test_numbers_count_up_from_one(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path, "sac", "Hopper-v5") == tmp_path / "sac" / "Hopper-v5_1"
    assert new_run_folder(tmp_path, "sac", "Hopper-v5") == tmp_path / "sac" / "Hopper-v5_2"
    assert new_run_folder(tmp_path, "td3", "Hopper-v5") == tmp_path / "td3" / "Hopper-v5_1"


def test_a_gap_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / "sac" / "Hopper-v5_9").mkdir(parents=True)
    assert new_run_folder(tmp_path, "sac", "Hopper-v5").name == "Hopper-v5_10"


def test_tags_count_for_themselves(tmp_path: Path) -> None:
    assert new_run_folder(tmp_path, "sac", "Hopper-v5", "utd20").name == "Hopper-v5_utd20_1"
    assert new_run_folder(tmp_path, "sac", "Hopper-v5").name == "Hopper-v5_1"


def test_a_folder_made_meanwhile_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sac" / "Hopper-v5_1").mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(()))  # as seen before the other run made its folder
    assert new_run_folder(tmp_path, "sac", "Hopper-v5").name == "Hopper-v5_2"


@pytest.mark.parametrize("env_id", ["dm_control/hopper-hop-v0", "shimmy:dm_control/hopper-hop-v0"])
def test_the_folder_is_named_after_the_task_and_stays_one(tmp_path: Path, env_id: str) -> None:
    assert new_run_folder(tmp_path, "sac", env_id) == tmp_path / "sac" / "dm_control-hopper-hop-v0_1"
    assert agent_file_name(env_id) == "dm_control-hopper-hop-v0.zip"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_json_atomically(path, {"a": 1})
    monkeypatch.setattr("os.replace", lambda source, target: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text_atomically(path, "half")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]
