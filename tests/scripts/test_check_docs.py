"""Documents with a broken link or example are found; sound ones pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import check_docs


def _document(folder: Path, text: str) -> Path:
    (folder / "other.md").write_text("# Two words, *plain*\n\n## Twice\n\n## Twice\n")
    (folder / "picture.png").touch()
    path = folder / "page.md"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "[a](other.md) [b](other.md#two-words-plain) [c](other.md#twice-1) ![d](picture.png)",
        "[web](https://example.org/missing) [mail](mailto:a@example.org)",
        "# Here\n\n[up](#here)",
        "`[not](a_link.md)`\n\n```\n[nor](this.md)\n```",
        "```python\nx = 1\n```\n\n1. in a list\n\n   ```python\n   def f():\n       return 1\n   ```",
        "```bash\nnot python (\n```",
    ],
)
def test_sound_documents_pass(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_docs.main([str(_document(tmp_path, text))]) == 0
    assert capsys.readouterr().out == "1 documents are in order.\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("one\n\n[a](missing.md)", "page.md:3: there is no missing.md"),
        ("[a](other.md#nowhere)", "page.md:1: other.md has no heading #nowhere"),
        ("[a](#nowhere)", "page.md:1: page.md has no heading #nowhere"),
        ('<img width="3" src="lost.png">', "page.md:1: there is no lost.png"),
        ("text\n```python\nx = 1\nx = (\n```", "page.md:4: the example does not compile"),
    ],
)
def test_faults_are_reported_with_their_line(
    tmp_path: Path, text: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_docs.main([str(_document(tmp_path, text))]) == 1
    assert fault in capsys.readouterr().out


def test_the_documents_of_the_project_are_in_order() -> None:
    assert check_docs.main([]) == 0
