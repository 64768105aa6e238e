"""Check the documents: links inside the project lead somewhere, commands name scripts, and Python examples compile.

    python scripts/check_docs.py            README.md, CONTRIBUTING.md, CHANGELOG.md and docs/
    python scripts/check_docs.py FILE...    these files
    python scripts/check_docs.py --run README.md --replace 20_000=300

``--run`` also runs the Python examples of each file, one after the other as a reader would paste them, in an empty
folder and with the packages that are installed. Each has to end without an error and to print something.

Prints one line per fault and exits 1 when there is any. Links to the web are left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?(?P<target>[^)\s>]+)>?[^)]*\)|<img[^>]+src=\"(?P<image>[^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*#*$", re.MULTILINE)
COMMAND = re.compile(r"\bpython3?\s+(?P<script>scripts/[\w/.-]+\.py)\b")
INLINE_CODE = re.compile(r"`[^`\n]+`")


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown viewer makes of the headings of ``text``."""
    found: set[str] = set()
    for heading in HEADING.finditer(FENCE.sub("", text)):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["title"]).lower())
        anchor = plain.replace(" ", "-")
        repeats = sum(1 for known in found if re.fullmatch(re.escape(anchor) + r"(-\d+)?", known))
        found.add(f"{anchor}-{repeats}" if repeats else anchor)
    return found


def line_of(text: str, position: int) -> int:
    """The number of the line that ``position`` is on, from 1."""
    return text.count("\n", 0, position) + 1


def broken_links(path: Path, text: str) -> Iterator[str]:
    """A line for each link that leads nowhere."""
    # Code may look like a link; blanks of the same length keep the line numbers.
    prose = FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    prose = INLINE_CODE.sub(lambda found: " " * len(found[0]), prose)
    for link in LINK.finditer(prose):
        target = unquote(link["target"] or link["image"])
        if re.match(r"[a-z][a-z+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        aim = (path.parent / name).resolve() if name else path
        if not aim.exists():
            yield f"{path}:{line_of(prose, link.start())}: there is no {target}"
        elif anchor and aim.suffix == ".md" and anchor not in anchors(aim.read_text(encoding="utf-8")):
            yield f"{path}:{line_of(prose, link.start())}: {aim.name} has no heading #{anchor}"


def missing_scripts(path: Path, text: str) -> Iterator[str]:
    """A line for each command that starts a script which is not there."""
    for command in COMMAND.finditer(text):
        if not (ROOT / command["script"]).is_file():
            yield f"{path}:{line_of(text, command.start())}: there is no {command['script']}"


def examples(text: str) -> Iterator[tuple[int, str]]:
    """The first line and the code of each Python example, without the indentation of a list."""
    for block in FENCE.finditer(text):
        if block["language"] in ("python", "py"):
            code = "\n".join(line.removeprefix(block["indent"]) for line in block["code"].splitlines())
            yield line_of(text, block.start("code")), code


def broken_code(path: Path, text: str) -> Iterator[str]:
    """A line for each Python example that does not compile."""
    for first, code in examples(text):
        try:
            compile(code, str(path), "exec")
        except SyntaxError as error:
            yield f"{path}:{first + (error.lineno or 1) - 1}: the example does not compile: {error.msg}"


class _Echo(io.StringIO):
    """A text stream that prints what is written and also stores it."""

    def write(self, text: str) -> int:
        print(text, end="", file=sys.__stdout__, flush=True)
        return super().write(text)


def failing_examples(path: Path, text: str, replacements: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Run the examples of one document in one namespace; a line for the first that fails, and for each that is silent.

    Args:
        path: of the document, for the messages.
        text: the document.
        replacements: words of the examples and what to run in their place, to make a long example short.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    for word, _ in replacements:
        if not any(word in code for _, code in examples(text)):
            yield f"{path}: no example holds {word!r}, which was to be replaced"
    for first, code in examples(text):
        for word, other in replacements:
            code = code.replace(word, other)
        printed = _Echo()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * (first - 1) + code, str(path), "exec"), names)
        except Exception as error:
            traceback.print_exc()
            here = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
            yield f"{path}:{here[0] if here else first}: the example fails: {type(error).__name__}: {error}"
            return  # those after it may need what it did not make
        if not printed.getvalue().strip():
            yield f"{path}:{first}: the example prints nothing"


def faults(path: Path) -> list[str]:
    """All that is wrong with one document, its examples not run."""
    text = path.read_text(encoding="utf-8")
    return [*broken_links(path, text), *missing_scripts(path, text), *broken_code(path, text)]


def run_examples(files: Sequence[Path], replacements: Sequence[tuple[str, str]]) -> list[str]:
    """Run the examples of ``files`` in an empty folder, where no module of the checkout is found by accident."""
    found: list[str] = []
    before, path = Path.cwd(), list(sys.path)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path[0] = folder
        try:
            for file in files:
                found.extend(failing_examples(file, file.read_text(encoding="utf-8"), replacements))
        finally:
            os.chdir(before)
            sys.path[:] = path
    return found


def _replacement(word: str) -> tuple[str, str]:
    old, equals, new = word.partition("=")
    if not old or not equals:
        raise argparse.ArgumentTypeError(f"must be OLD=NEW, got {word!r}")
    return old, new


def main(argv: Sequence[str] | None = None) -> int:
    """Check the documents and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="documents to check (default: all)")
    parser.add_argument("--run", action="store_true", help="also run the examples of the files named")
    parser.add_argument(
        "--replace",
        nargs="+",
        type=_replacement,
        default=[],
        metavar="OLD=NEW",
        help="words of the examples, replaced",
    )
    args = parser.parse_args(argv)
    if (args.run and not args.files) or (args.replace and not args.run):
        parser.error("--run takes the files whose examples to run, and --replace goes with it")
    files = args.files or [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    files = [file.resolve() for file in files]
    found = [fault for file in files for fault in faults(file)]
    if args.run and not found:
        found = run_examples(files, args.replace)
    print("\n".join(found) or f"{len(files)} documents are in order.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
