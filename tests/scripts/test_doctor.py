"""What the machine has and what is missing, with the command that brings it."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import torch as th

from scripts import doctor
from scripts.runs import machine

REQUIRED = [
    "torch<3,>=2.10",
    "gymnasium[mujoco]<2,>=1.1",
    "nonsense-library>=1",
    "numpy>=999.5",
    'matplotlib>=3.9; extra == "plots"',
    'nonsense-plots>=1; extra == "plots"',
    'mbrl-wrappers[plots]; extra == "all"',
    'nonsense-tests; extra == "dev"',
]


def test_what_is_missing_or_too_old_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRED)
    assert doctor.main(["--no-render"]) == 1
    lines = capsys.readouterr().out.splitlines()
    numpy = importlib.metadata.version("numpy")
    assert [line for line in lines if line.startswith("MISSING")] == [
        "MISSING    nonsense-library: pip install -U mbrl-wrappers",
        f"MISSING    numpy {numpy}, needs 999.5: pip install -U mbrl-wrappers",
    ]
    assert "extra      plots lacks nonsense-plots: pip install 'mbrl-wrappers[plots]'" in lines


def test_this_machine_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--no-render", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == th.__version__
    assert found["torch_threads"] == th.get_num_threads()
    assert found["memory"]["total"] >= found["memory"]["available"] > 0
    assert found["free_disk"] > 0
    assert found["renderer"] is None


def test_a_renderer_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_RENDER", "raise SystemExit('no display')")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    drawn = machine._renderer()
    assert drawn == {"backend": "glfw", "works": False, "fault": "no display"}
    text = "\n".join(machine.as_text({**machine.examine(machine.Path.cwd(), render=False), "renderer": drawn}))
    assert "rendering  glfw: FAILS: no display" in text
    assert "MUJOCO_GL=egl" in text
    monkeypatch.setattr(machine, "_RENDER", "print((480, 480, 3))")
    assert machine._renderer() == {"backend": "glfw", "works": True, "fault": None}
