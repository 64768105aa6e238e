"""The imports of the house, read from the syntax tree of every file: ``python -m tests.import_graph [CHECKOUT]``."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

HOUSE = ("mbrl_wrappers", "controllers", "sb3_ext", "scripts", "tests")


class Import(NamedTuple):
    """``importer`` needs ``imported``, at run time or only to name a type."""

    importer: str
    imported: str
    line: int
    only_types: bool


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def house_files(root: Path) -> dict[str, Path]:
    return {module_name(path, root): path for top in HOUSE for path in sorted((root / top).rglob("*.py"))}


def house_folders(root: Path) -> set[str]:
    """Every folder that holds a Python file, below ``root``, without those of the tests."""
    folders = {str(path.parent.relative_to(root)) for path in house_files(root).values()}
    return {folder for folder in folders if not folder.startswith("tests/")}


def imports(root: Path) -> Iterator[Import]:
    """Every import of every file, also inside functions; ``from package import module`` counts as the module."""
    files = house_files(root)
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        guarded = {id(inner) for node in ast.walk(tree) if _is_type_guard(node) for inner in ast.walk(node)}
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(tree):
            for target in _targets(node, package, files):
                yield Import(name, target, node.lineno, id(node) in guarded)  # type: ignore[attr-defined]


def _is_type_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _targets(node: ast.AST, package: str, files: dict[str, Path]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    inner = [f"{base}.{alias.name}" for alias in node.names]
    return sorted({name if name in files else base for name in inner})


def edges_at_run_time(root: Path) -> dict[str, set[str]]:
    """What each module imports of the house at run time."""
    edges: dict[str, set[str]] = {name: set() for name in house_files(root)}
    for item in imports(root):
        if item.imported.partition(".")[0] in HOUSE and not item.only_types:
            edges.setdefault(item.importer, set()).add(item.imported)
    return edges


def cycles(root: Path) -> list[str]:
    """One path per cycle of run-time imports."""
    edges = edges_at_run_time(root)
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            found.append(" -> ".join((*trail[trail.index(module) :], module)))
        elif module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())
    return found


def deepest_chain(root: Path, top: str) -> list[str]:
    """The longest chain of imports among the modules of the package ``top``; it must have no cycles."""
    edges = edges_at_run_time(root)

    @cache
    def below(module: str) -> tuple[str, ...]:
        inner = [below(item) for item in sorted(edges.get(module, ())) if item.partition(".")[0] == top]
        return (module, *max(inner, key=len, default=()))

    return list(max((below(module) for module in edges if module.partition(".")[0] == top), key=len))


def main(root: Path) -> None:
    """Print how many files each folder holds and the deepest chain of imports of each package."""
    for folder, count in sorted(
        Counter(str(path.parent.relative_to(root)) for path in house_files(root).values()).items()
    ):
        print(f"{count:4d}  {folder}")
    for top in HOUSE[:-1]:
        chain = deepest_chain(root, top)
        print(f"\n{top}: {len(chain)} deep\n  " + " -> ".join(chain))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
