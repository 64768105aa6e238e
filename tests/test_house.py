"""House rules that a linter does not know, checked on the syntax tree of every file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ("mbrl_wrappers", "controllers", "sb3_ext")
FENCE = "mbrl_wrappers/seeding.py"  # the one file that may touch the global random streams

EXECUTES = {
    "eval",
    "exec",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "numpy.lib.format.read_array",
}
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
GLOBAL_STREAMS = re.compile(
    r"numpy\.random\.(?!Generator$|default_rng$|SeedSequence$|BitGenerator$|PCG64$|Philox$)[a-z]\w*"
    r"|torch\.(manual_seed|seed|set_rng_state|random\.\w+|cuda\.manual_seed\w*|cuda\.set_rng_state\w*)"
    r"|random\.(seed|random|randint|choice|choices|shuffle|sample|uniform|gauss|setstate)"
)
MEANINGS_OF_ONE_NAME: dict[str, str] = {}
"""Names of classes and functions that the libraries may use twice, each with the reason why."""
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}


def library_files(*tops: str) -> list[Path]:
    return [path for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


def used_names(source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported or looked up, with ``np``, ``th`` and the like resolved."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known.update({alias.asname: alias.name for alias in node.names if alias.asname})
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            known.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            head, dot, rest = ast.unparse(node).partition(".")
            yield node.lineno, known.get(head, head) + dot + rest


def offences(source: str, *, fenced: bool = False) -> list[str]:
    found = []
    for line, name in used_names(source):
        if name in EXECUTES or name.partition(".")[0] in UNPICKLES:
            found.append(f"line {line}: {name} can run code from a file")
        if not fenced and GLOBAL_STREAMS.fullmatch(name):
            found.append(f"line {line}: {name} touches a global random stream")
    if re.search(r"allow_pickle\s*=\s*True|weights_only\s*=\s*False", source):
        found.append("unpickling is switched on")
    return sorted(set(found))


@pytest.mark.parametrize("path", library_files(*LIBRARY), ids=lambda path: str(path.relative_to(ROOT)))
def test_library_code_never_runs_files_nor_draws_from_global_streams(path: Path) -> None:
    fenced = str(path.relative_to(ROOT)) == FENCE
    assert offences(path.read_text(encoding="utf-8"), fenced=fenced) == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    files = library_files(*LIBRARY, "scripts", "tests")
    assert [path for path in files if VAGUE_NAMES & {path.stem, path.parent.name}] == []


def shared_names(sources: dict[str, str]) -> dict[str, list[str]]:
    """Names of classes, functions and aliases that ``sources`` (text by file) define twice with different meanings.

    A leading underscore makes no other name of a class; functions count at the top of a file and without underscore.
    Aliases that repeat the same text are one meaning.
    """
    meanings: dict[str, dict[str, str]] = {}
    for file, source in sources.items():
        tree = ast.parse(source)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                place = f"{file}:{node.lineno}"
                meanings.setdefault(node.name, {})[place] = place
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                place = f"{file}:{node.lineno}"
                meanings.setdefault(node.name.lstrip("_"), {})[place] = place
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).endswith("TypeAlias"):
                assert isinstance(node.target, ast.Name)
                text = ast.unparse(node.value) if node.value else ""
                meanings.setdefault(node.target.id.lstrip("_"), {})[text] = f"{file}:{node.lineno}"
    return {
        name: list(places.values())
        for name, places in meanings.items()
        if len(places) > 1 and name not in MEANINGS_OF_ONE_NAME
    }


def test_one_name_has_one_meaning() -> None:
    files = library_files(*LIBRARY)
    assert shared_names({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("class Batch: ...", "class Batch: ..."),
        ("class Batch: ...", "class _Batch: ..."),
        ("class Batch: ...", "def f():\n    class Batch: ..."),
        ("class Batch: ...", "Batch: TypeAlias = int"),
        ("Batch: TypeAlias = int", "_Batch: typing.TypeAlias = str"),
        ("def Batch(): ...", "def Batch(): ..."),
        ("def Batch(): ...", "class Batch: ..."),
    ],
)
def test_a_name_of_two_meanings_is_caught(first: str, second: str) -> None:
    assert shared_names({"a.py": first, "b.py": second}).keys() == {"Batch"}
    assert shared_names({"a.py": f"{first}\n{second}"}).keys() == {"Batch"}


def test_a_name_of_one_meaning_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = "def _first(): ...\nclass {}:\n    def second(self): ..."
    assert shared_names({"a.py": methods.format("A"), "b.py": methods.format("B")}) == {}
    alias = "Cell: TypeAlias = tuple[int, int]"
    assert shared_names({"a.py": f"class Batch: ...\n{alias}", "b.py": f"class Batches: ...\n{alias}"}) == {}
    monkeypatch.setitem(MEANINGS_OF_ONE_NAME, "Batch", "a reason")
    assert shared_names({"a.py": "class Batch: ...", "b.py": "class Batch: ..."}) == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch as th\nth.load('x')",
        "from torch import load\nload('x')",
        "eval('1')",
        "import yaml\nyaml.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.random.seed(0)",
        "from numpy import random\nrandom.normal()",
        "from numpy.random import shuffle",
        "import torch as th\nth.manual_seed(0)",
        "import torch\ntorch.cuda.manual_seed_all(0)",
        "import random\nrandom.seed(0)",
    ],
)
def test_an_offence_is_caught(source: str) -> None:
    assert offences(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nrng = np.random.default_rng(0)\nx: np.random.Generator = rng\nrng.random()",
        "import torch as th\ng = th.Generator()\ng.manual_seed(0)",
        "import torch as th\nth.Generator().manual_seed(0)",
        "from mbrl_wrappers import load\nload('x')",
        "import yaml\nyaml.safe_load('x')",
        "model.eval()",
    ],
)
def test_innocent_code_is_left_alone(source: str) -> None:
    assert offences(source) == []
