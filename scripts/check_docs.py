"""Check the documents: every link inside the project leads somewhere and every Python example compiles.

    python scripts/check_docs.py            README.md, CONTRIBUTING.md, CHANGELOG.md and docs/
    python scripts/check_docs.py FILE...    these files

Prints one line per fault and exits 1 when there is any. Links to the web are left alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?(?P<target>[^)\s>]+)>?[^)]*\)|<img[^>]+src=\"(?P<image>[^\"]+)\"")
HEADING = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*#*$", re.MULTILINE)
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


def broken_code(path: Path, text: str) -> Iterator[str]:
    """A line for each Python example that does not compile."""
    for block in FENCE.finditer(text):
        if block["language"] not in ("python", "py"):
            continue
        first = line_of(text, block.start("code"))
        code = "\n".join(line.removeprefix(block["indent"]) for line in block["code"].splitlines())
        try:
            compile(code, str(path), "exec")
        except SyntaxError as error:
            yield f"{path}:{first + (error.lineno or 1) - 1}: the example does not compile: {error.msg}"


def faults(path: Path) -> list[str]:
    """All that is wrong with one document."""
    text = path.read_text(encoding="utf-8")
    return [*broken_links(path, text), *broken_code(path, text)]


def main(argv: Sequence[str] | None = None) -> int:
    """Check the documents and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="documents to check (default: all)")
    files = parser.parse_args(argv).files or [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    found = [fault for file in files for fault in faults(file.resolve())]
    print("\n".join(found) or f"{len(files)} documents are in order.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
