"""What an installation promises: declared libraries suffice, types are visible, and other packages fit beside."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).parents[1]
PACKAGES = ("mbrl_wrappers", "controllers", "sb3_ext")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BELOW_AN_EXTRA = {"flax", "jax", "jaxlib", "optax", "tfp-nightly", "box2d", "pygame-ce"}
"""Held by constraints.txt though pyproject.toml does not name them: SBX computes with the first, the others draw."""


def closure(requirements: list[str]) -> set[str]:
    """The distributions that ``requirements`` bring, in the versions that are installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) in found:
                continue
            found.add((name, wanted))
            try:
                needs = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            waiting += [(Requirement(text), wanted) for text in needs]
    return {name for name, _ in found}


def undeclared_modules() -> list[str]:
    """Importable names here that ``pip install mbrl-wrappers`` without extras would not bring."""
    declared = closure(PROJECT["dependencies"])
    return sorted(
        module
        for module, owners in metadata.packages_distributions().items()
        if module not in PACKAGES and not {canonicalize_name(owner) for owner in owners} & declared
    )


ONLY_DECLARED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import mbrl_wrappers, controllers, sb3_ext
for name in mbrl_wrappers.__all__: getattr(mbrl_wrappers, name)
for name in controllers.__all__: getattr(controllers, name)
for name in sb3_ext.__all__: getattr(sb3_ext, name)
"""


def test_the_packages_import_with_nothing_but_what_is_declared() -> None:
    """A process of its own, since torch and Gymnasium are loaded here long since."""
    absent = undeclared_modules()
    assert {"yaml", "pytest", "matplotlib"} <= set(absent)
    assert not {"torch", "numpy", "gymnasium", "mujoco"} & set(absent)
    done = subprocess.run(
        [sys.executable, "-c", ONLY_DECLARED.format(absent=absent)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_constraints_hold_nothing_that_the_project_does_not_ask_for() -> None:
    extras = [requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra]
    asked = {canonicalize_name(Requirement(text).name) for text in [*PROJECT["dependencies"], *extras]}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    held = {canonicalize_name(Requirement(line).name) for line in lines}
    assert held - asked - BELOW_AN_EXTRA == set()
    assert {"torch", "gymnasium", "stable-baselines3", "mujoco", "numpy"} <= held
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines)


def test_an_editable_install_is_a_folder_that_type_checkers_follow(tmp_path: Path) -> None:
    """The wheel that ``pip install -e .`` installs holds a path to the sources, and no code that finds them."""
    pytest.importorskip("setuptools", minversion="77")
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    wheels.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        (source / name).mkdir()
        shutil.copy(ROOT / name / "__init__.py", source / name)
        shutil.copy(ROOT / name / "py.typed", source / name)
    build = f"from setuptools.build_meta import build_editable; build_editable({str(wheels)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        files = [name for name in wheel.namelist() if ".dist-info/" not in name]
        (only,) = files
        assert only.endswith(".pth")
        assert Path(wheel.read(only).decode().strip()).resolve() == source.resolve()
