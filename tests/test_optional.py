"""A missing extra is named together with the command that brings it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mbrl_wrappers.optional import require


def test_an_installed_module_is_returned() -> None:
    assert require("json", extra="plots") is json


def test_a_missing_module_names_its_extra() -> None:
    with pytest.raises(ImportError, match=r"needs no_such_library.*pip install 'mbrl-wrappers\[plots\]'"):
        require("no_such_library.inner", extra="plots")


def test_a_fault_inside_an_installed_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_broken.py").write_text("import something_else_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_else_missing"):
        require("half_broken", extra="plots")
