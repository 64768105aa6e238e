"""Documents with a broken link or example are found; sound ones pass."""

from __future__ import annotations

import sys
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
        "`python scripts/table.py logs` and `python\nscripts/experiments/toy_text.py x`",
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
        ("one\n`python scripts/plan_tabel.py -o x`", "page.md:2: there is no scripts/plan_tabel.py"),
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


BLOCKS = "# Run\n\n```python\nx = 20_000\nprint(x)\n```\n\n1. then\n\n   ```python\n   y = x + 1\n   print(y)\n   ```\n"


def test_examples_run_one_after_the_other_with_words_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = _document(tmp_path, BLOCKS + "```python\nopen('left', 'w').close()\nprint('made')\n```\n")
    before = list(sys.path)
    assert check_docs.main(["--run", str(path), "--replace", "20_000=300"]) == 0
    assert "1 documents are in order." in capsys.readouterr().out
    assert Path.cwd() == tmp_path
    assert sys.path == before
    assert not (tmp_path / "left").exists()


@pytest.mark.parametrize(
    ("text", "words", "fault"),
    [
        (BLOCKS + "```python\nz = 1\n```", [], "page.md:15: the example prints nothing"),
        (BLOCKS.replace("x + 1", "w + 1"), [], "page.md:11: the example fails: NameError: name 'w' is not defined"),
        (BLOCKS.replace("print(y)", "int('a')"), [], "page.md:12: the example fails: ValueError"),
        (BLOCKS, ["--replace", "30_000=300"], "no example holds '30_000'"),
    ],
)
def test_examples_that_fail_or_say_nothing_are_reported(
    tmp_path: Path, text: str, words: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_docs.main(["--run", str(_document(tmp_path, text)), *words]) == 1
    assert fault in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--run"], ["README.md", "--replace", "a=b"], ["--run", "README.md", "--replace", "a"]]
)
def test_flags_that_do_not_go_together_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check_docs.main(words)
    assert "error:" in capsys.readouterr().err


def test_each_example_of_the_readme_ends_by_printing_what_it_found() -> None:
    found = list(check_docs.examples((check_docs.ROOT / "README.md").read_text(encoding="utf-8")))
    assert len(found) >= 3
    for first, code in found:
        last = code.strip().splitlines()[-1]
        assert last.startswith("print("), f"README.md:{first}"
