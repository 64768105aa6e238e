"""The table of docs/trust.md: 33 rows, and each test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPEN = "no test yet"
TEXT = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
ROWS = {int(match[1]): match[2] for match in re.finditer(r"^\| (\d+) \|(.*)\|$", TEXT, re.MULTILINE)}
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`( \(slow\))?", TEXT)


@cache
def named_tests(path: str) -> dict[str, bool]:
    """The tests of a file, and whether each is slow."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {
        node.name: any("mark.slow" in ast.unparse(decorator) for decorator in node.decorator_list)
        for node in functions
        if node.name.startswith("test_")
    }


def test_every_input_and_event_has_its_row() -> None:
    assert sorted(ROWS) == list(range(1, 34))
    for number, row in ROWS.items():
        assert len(row.split("|")) == 3, number
        assert ("tests/" in row) != (OPEN in row), number


@pytest.mark.parametrize(("path", "name", "slow"), NAMED)
def test_a_test_that_is_named_exists(path: str, name: str, slow: str) -> None:
    assert (ROOT / path).is_file()
    if name:
        assert name in named_tests(path)
        assert named_tests(path)[name] == bool(slow)
