"""Who may import whom: the table of docs/architecture.md, enforced on the syntax tree of every file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ("mbrl_wrappers", "controllers", "sb3_ext", "scripts", "tests")
FLOORS = ("nets", "models", "latent", "training", "rollout", "replay", "envs", "tasks")  # the rest are leaves

MAY_IMPORT = {
    "leaf": {"leaf"},
    "nets": {"nets", "leaf"},
    "models": {"nets", "models", "tasks", "leaf"},
    "latent": {"nets", "latent", "leaf"},
    "training": {"nets", "models", "latent", "training", "leaf"},
    "rollout": {"leaf"},
    "replay": {"leaf"},
    "envs": {"envs", "leaf"},
    "tasks": {"tasks", "leaf"},
    "mbrl_wrappers": {*FLOORS, "leaf"},  # the package itself, which gathers the public names
    "controllers": {"controllers", "leaf", "replay"},
    "sb3_ext": {"sb3_ext", "leaf", "rollout", "replay", "envs"},
    "scripts": {*FLOORS, "leaf", "mbrl_wrappers", "controllers", "sb3_ext", "scripts"},
    "tests": {*FLOORS, "leaf", "mbrl_wrappers", "controllers", "sb3_ext", "scripts", "tests"},
}
EXCEPTIONS = {
    "sb3_ext.default_model": {"models", "training", "tasks"}
}  # the one place that builds a model when none is given
AGENTS = {"stable_baselines3", "sb3_contrib", "sbx"}
MAY_IMPORT_AGENTS = {"sb3_ext", "scripts", "tests"}


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


def floor(module: str) -> str:
    """The row of the table that a module of the house belongs to."""
    top, _, rest = module.partition(".")
    if top != "mbrl_wrappers" or not rest:
        return top
    first, _, deeper = rest.partition(".")
    if first in FLOORS:
        return first
    return "leaf" if not deeper else f"mbrl_wrappers.{first}"


def violations(root: Path) -> list[str]:
    files, found = house_files(root), []
    for name, path in files.items():
        if floor(name) not in MAY_IMPORT or (path.name == "__init__.py" and floor(name) == "leaf"):
            found.append(f"{name} is a package that the table does not know")
    for item in imports(root):
        here, top = floor(item.importer), item.imported.partition(".")[0]
        if here not in MAY_IMPORT:
            continue
        if top in HOUSE:
            allowed = MAY_IMPORT[here] | EXCEPTIONS.get(item.importer, set())
            bad = floor(item.imported) not in allowed
        else:
            bad = top in AGENTS and here not in MAY_IMPORT_AGENTS
        if bad:
            found.append(f"{item.importer}:{item.line} must not import {item.imported}")
    return found


def cycles(root: Path) -> list[str]:
    """One path per cycle of run-time imports."""
    edges: dict[str, set[str]] = {}
    for item in imports(root):
        if item.imported.partition(".")[0] in HOUSE and not item.only_types:
            edges.setdefault(item.importer, set()).add(item.imported)
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


def test_every_import_goes_down() -> None:
    assert violations(ROOT) == []


def test_there_are_no_cycles() -> None:
    assert cycles(ROOT) == []


def test_the_default_model_is_the_only_exception() -> None:
    assert set(EXCEPTIONS) == {"sb3_ext.default_model"}


def _plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.relative_to(root).parents:
            if folder != Path():
                (root / folder / "__init__.py").touch()
        path.write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "imported"),
    [
        ("mbrl_wrappers/replay.py", "import stable_baselines3.common.buffers", "stable_baselines3.common.buffers"),
        ("mbrl_wrappers/rollout.py", "def f():\n    from sb3_ext import DynaCallback", "sb3_ext"),
        ("mbrl_wrappers/types.py", "from mbrl_wrappers.models import ensemble", "mbrl_wrappers.models"),
        ("mbrl_wrappers/types.py", "from . import replay", "mbrl_wrappers.replay"),
        ("mbrl_wrappers/replay.py", "import mbrl_wrappers", "mbrl_wrappers"),
        ("mbrl_wrappers/nets/mlp.py", "from ..models.ensemble import Ensemble", "mbrl_wrappers.models.ensemble"),
        ("mbrl_wrappers/models/a.py", "from mbrl_wrappers.latent import elbo", "mbrl_wrappers.latent"),
        ("mbrl_wrappers/envs/a.py", "from mbrl_wrappers.models.function import F", "mbrl_wrappers.models.function"),
        ("mbrl_wrappers/tasks/a.py", "from mbrl_wrappers.envs import ModelEnv", "mbrl_wrappers.envs"),
        ("controllers/mpc.py", "from mbrl_wrappers.models import FunctionModel", "mbrl_wrappers.models"),
        ("controllers/mpc.py", "from mbrl_wrappers.envs import ModelEnv", "mbrl_wrappers.envs"),
        ("controllers/mpc.py", "from mbrl_wrappers import FunctionModel", "mbrl_wrappers"),
        ("controllers/mpc.py", "from mbrl_wrappers.training import Trainer", "mbrl_wrappers.training"),
        ("controllers/mpc.py", "from mbrl_wrappers.rollout import branched_rollout", "mbrl_wrappers.rollout"),
        ("controllers/mpc.py", "from sbx import SAC", "sbx"),
        ("sb3_ext/callbacks.py", "from mbrl_wrappers.models import ensemble", "mbrl_wrappers.models"),
        ("sb3_ext/callbacks.py", "import controllers.mpc", "controllers.mpc"),
        ("scripts/train.py", "from tests.oracle import Oracle", "tests.oracle"),
        ("controllers/mpc.py", "import scripts.train", "scripts.train"),
    ],
)
def test_a_violation_is_caught(tmp_path: Path, file: str, text: str, imported: str) -> None:
    _plant(tmp_path, {"mbrl_wrappers/replay.py": "", "mbrl_wrappers/models/__init__.py": "", file: text})
    (found,) = violations(tmp_path)
    assert found.endswith(f"must not import {imported}")
    assert found.startswith(file.removesuffix(".py").replace("/", "."))


def test_what_the_table_allows_passes(tmp_path: Path) -> None:
    _plant(
        tmp_path,
        {
            "mbrl_wrappers/types.py": "import torch",
            "mbrl_wrappers/training/trainer.py": "from mbrl_wrappers.models.ensemble import E\nfrom ..types import T",
            "controllers/mpc.py": "from mbrl_wrappers import types\nfrom mbrl_wrappers.replay import TransitionStore",
            "sb3_ext/callbacks.py": "import stable_baselines3\nfrom mbrl_wrappers.rollout import branched_rollout",
            "sb3_ext/default_model.py": "from mbrl_wrappers.models.ensemble import E",
            "scripts/train.py": "import sb3_ext, controllers, mbrl_wrappers",
            "tests/test_train.py": "import scripts.train",
        },
    )
    assert violations(tmp_path) == []
    assert cycles(tmp_path) == []


def test_a_package_outside_the_table_is_caught(tmp_path: Path) -> None:
    _plant(tmp_path, {"mbrl_wrappers/plotting/curves.py": ""})
    assert violations(tmp_path) == [
        "mbrl_wrappers.plotting is a package that the table does not know",
        "mbrl_wrappers.plotting.curves is a package that the table does not know",
    ]


def test_a_cycle_is_caught_unless_it_is_of_types_only(tmp_path: Path) -> None:
    _plant(
        tmp_path,
        {
            "controllers/a.py": "from controllers import b",
            "controllers/b.py": "from controllers import c",
            "controllers/c.py": "def late():\n    import controllers.a",
        },
    )
    assert cycles(tmp_path) == ["controllers.a -> controllers.b -> controllers.c -> controllers.a"]
    _plant(tmp_path, {"controllers/c.py": "if TYPE_CHECKING:\n    import controllers.a"})
    assert cycles(tmp_path) == []
