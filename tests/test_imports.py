"""Who may import whom: the table of docs/architecture.md, enforced on the syntax tree of every file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.import_graph import HOUSE, cycles, house_files, house_folders, imports

ROOT = Path(__file__).parents[1]
LIBRARIES = ("mbrl_wrappers", "controllers", "sb3_ext")
AGENTS = {"stable_baselines3", "sb3_contrib", "sbx"}


def import_table(text: str) -> dict[str, set[str]]:
    """Each row's folder or file, and what it may import; ``SB3``, ``libraries`` and ``everything`` stay words."""
    rows: dict[str, set[str]] = {}
    for line in text[text.index("## Who may import whom") :].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 2 and re.fullmatch(r"`[\w/.]+`", cells[0]):
            rows[cells[0].strip("`")] = {word.strip("`") for word in cells[1].split()}
    return rows


TABLE = import_table((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def row_of(module: str) -> str:
    """The row that a module belongs to: its own, or that of its folder."""
    name = module.replace(".", "/")
    if module.startswith("tests"):
        return "tests"
    rows = (f"{name}.py", name, name.rpartition("/")[0])
    return next((row for row in rows if row in TABLE), rows[-1])


def may_import(importer: str, imported: str) -> bool:
    here, top = row_of(importer), imported.partition(".")[0]
    words = TABLE.get(here, set())
    if "everything" in words or (top in LIBRARIES and "libraries" in words):
        return True
    if top in AGENTS:
        return "SB3" in words
    if top not in HOUSE:
        return True
    if importer in LIBRARIES:  # the package itself gathers the public names of its folders
        return top == importer
    target = row_of(imported)
    return imported not in LIBRARIES and (target == here or target in words)


def violations(root: Path) -> list[str]:
    found = [
        f"{folder} is a folder that the table does not know" for folder in sorted(house_folders(root) - set(TABLE))
    ]
    for item in imports(root):
        if row_of(item.importer) in TABLE and not may_import(item.importer, item.imported):
            found.append(f"{item.importer}:{item.line} must not import {item.imported}")
    return found


def test_the_table_is_the_tree() -> None:
    there = house_folders(ROOT) | {str(path.relative_to(ROOT)) for path in house_files(ROOT).values()}
    assert house_folders(ROOT) - set(TABLE) == set()
    assert set(TABLE) - there == set()
    named = {word for words in TABLE.values() for word in words}
    assert named - there == {"SB3", "libraries", "everything"}


def test_every_import_goes_down() -> None:
    assert violations(ROOT) == []


def test_there_are_no_cycles() -> None:
    assert cycles(ROOT) == []


def test_no_two_rows_may_import_each_other() -> None:
    libraries = {row for row in TABLE if row.partition("/")[0] in LIBRARIES}
    allowed = {row: words | (libraries if "libraries" in words else set()) for row, words in TABLE.items()}
    both = {(a, b) for a in allowed for b in allowed[a] if a in allowed.get(b, ())}
    assert both == set()


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
        ("mbrl_wrappers/models/a.py", "from mbrl_wrappers.envs import ModelEnv", "mbrl_wrappers.envs"),
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
    assert violations(tmp_path) == ["mbrl_wrappers/plotting is a folder that the table does not know"]


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
