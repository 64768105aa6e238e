"""What this machine and installation have: versions, threads, rendering, memory, disk, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PROJECT = "mbrl-wrappers"
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[[^\]]*\])?(?P<bounds>[^;]*)(?:;.*extra\s*==\s*[\"'](?P<extra>[\w-]+)[\"'])?"
)
_RENDER = """
import gymnasium
env = gymnasium.make("InvertedPendulum-v5", render_mode="rgb_array")
env.reset(seed=0)
print(env.render().shape)
"""


def examine(folder: Path, *, render: bool = True) -> dict[str, Any]:
    """Everything about the machine, as plain values.

    Args:
        folder: on the disk whose free room counts.
        render: draw a picture in another process, which takes seconds.
    """
    import torch as th

    from mbrl_wrappers.available_memory import memory
    from mbrl_wrappers.storage.run_manifest import library_versions

    found = memory()
    return {
        "system": platform.platform(),
        "versions": library_versions(),
        "missing": sorted(missing_requirements()),
        "missing_extras": missing_extras(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": th.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "gpus": [th.cuda.get_device_name(number) for number in range(th.cuda.device_count())],
        "renderer": _renderer() if render else None,
        "memory": None if found is None else found._asdict(),
        "free_disk": shutil.disk_usage(folder).free,
    }


def missing_requirements() -> Iterator[str]:
    """What the project needs and is not installed, or is too old."""
    for name, bounds, extra in _requirements():
        if extra is None and (fault := _fault(name, bounds)):
            yield fault


def missing_extras() -> dict[str, list[str]]:
    """Extras of the project that are not complete, each with what it lacks."""
    lacking: dict[str, list[str]] = {}
    for name, bounds, extra in _requirements():
        if extra not in (None, "all", "dev") and (fault := _fault(name, bounds)):
            lacking.setdefault(extra, []).append(fault)
    return lacking


def as_text(found: dict[str, Any]) -> Iterator[str]:
    """The lines that a person reads, and what to do."""
    gibibyte = 2**30
    yield f"system     {found['system']}"
    yield "versions   " + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    threads = f"{found['cores']} cores, torch uses {found['torch_threads']} threads"
    yield f"threads    {threads} (OMP_NUM_THREADS {found['omp_num_threads'] or 'not set'})"
    yield f"GPUs       {', '.join(found['gpus']) or 'none that torch can use'}"
    if (drawn := found["renderer"]) is not None:
        yield f"rendering  {drawn['backend']}: " + ("works" if drawn["works"] else f"FAILS: {drawn['fault']}")
        if not drawn["works"]:
            yield "           films need it: try MUJOCO_GL=egl (GPU or Mesa), or osmesa after apt install libosmesa6"
    memory = found["memory"]
    sizes = (
        f"{memory['available'] / gibibyte:.1f} of {memory['total'] / gibibyte:.1f} GiB free" if memory else "unknown"
    )
    yield f"memory     {sizes}"
    yield f"disk       {found['free_disk'] / gibibyte:.1f} GiB free"
    for name in found["missing"]:
        yield f"MISSING    {name}: pip install -U {_PROJECT}"
    for extra, names in found["missing_extras"].items():
        yield f"extra      {extra} lacks {', '.join(names)}: pip install '{_PROJECT}[{extra}]'"


def _requirements() -> Iterator[tuple[str, str, str | None]]:
    try:
        lines = importlib.metadata.requires(_PROJECT) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and match["name"] != _PROJECT:
            yield match["name"], match["bounds"], match["extra"]


def _fault(name: str, bounds: str) -> str | None:
    try:
        there = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name
    least = re.search(r">=\s*([\d.]+)", bounds)
    if least and _numbers(there) < _numbers(least[1]):
        return f"{name} {there}, needs {least[1]}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _renderer() -> dict[str, Any]:
    """Draw one picture in a process of its own: a renderer that does not fit may end the process."""
    backend = os.environ.get("MUJOCO_GL") or "the display"
    try:
        done = subprocess.run([sys.executable, "-c", _RENDER], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return {"backend": backend, "works": False, "fault": "no picture after two minutes"}
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    works = done.returncode == 0
    return {"backend": backend, "works": works, "fault": None if works else lines[-1][:300]}
