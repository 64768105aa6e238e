"""Commands in an environment that lacks the libraries of the extras: one line that says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize("command", ["train", "train_planner", "plan"])
@pytest.mark.parametrize("words", [["--help"], ["--env", "Pendulum-v1"]])
def test_a_command_without_pyyaml_names_the_extra_in_one_line(
    command: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith(("scripts.training.", "scripts.planning."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert importlib.import_module(f"scripts.{command}").main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "PyYAML is not installed: pip install 'mbrl-wrappers[zoo]'" in printed.err
