"""Runs of ``train.py`` that are killed and resumed, and what they came to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch as th
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SMALL_MODEL = [
    "dyna.model_train_freq:40", "dyna.rollout_freq:20", "dyna.rollouts_per_step:5", "dyna.min_real_rows:40",
    "dyna.first_fit_gradient_steps:10", "fit.max_gradient_steps:5", "ensemble.hidden:[8]", "ensemble.num_members:3",
    "ensemble.num_elites:2",
]  # fmt: skip
SMALL_AGENT = ["learning_starts:30", "policy_kwargs.net_arch:[8]", "batch_size:16", "gradient_steps:1"]


def arguments(algo: str = "sac", env: str = "Pendulum-v1", steps: int = 150, every: int = 20, *more: str) -> list[str]:
    """A small run with a model; ``more`` are further hyperparameters."""
    return [
        "--algo", algo, "--env", env, "-n", str(steps), "--eval-episodes", "1", "--eval-freq", "40",
        "--checkpoint-freq", str(every), "--num-threads", "1",
        "--hyperparams", *SMALL_AGENT, *SMALL_MODEL, *more,
    ]  # fmt: skip


def the_run(logs: Path) -> Path:
    """The one run folder below ``logs``."""
    (folder,) = logs.glob("*/*_1")
    return folder


def outcome(logs: Path) -> dict[str, Any]:
    """All that a run left, without times and places: summary, weights, and the rows of its monitor files."""
    folder = the_run(logs)
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("command", "wall_seconds", "cpu_seconds", "phase_seconds"):
        del summary[name]
    for evaluation in (*summary["evaluations"], *summary["averaged_evaluations"]):
        del evaluation["wall_seconds"]
    for fit in summary["model"].get("history", ()):
        del fit["seconds"]
    monitors = {
        path.name: [line.rpartition(",")[0] for line in path.read_text().splitlines()[2:]]
        for path in sorted(folder.glob("*.monitor.csv"))
    }
    found = {"summary": summary, "monitors": monitors, "files": sorted(path.name for path in folder.iterdir())}
    model = folder / "dynamics.safetensors"
    if model.exists():
        found["model"] = {name: value.tolist() for name, value in load_file(model).items()}
    return found


def torch_weights(logs: Path, name: str = "Pendulum-v1.zip") -> dict[str, th.Tensor]:
    """The weights in an agent's zip."""
    with zipfile.ZipFile(the_run(logs) / name) as archive, archive.open("policy.pth") as file:
        weights: dict[str, th.Tensor] = th.load(file, weights_only=True)
    return weights


def process(argv: Iterable[str]) -> subprocess.Popen[str]:
    """``train.py`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "scripts/train.py", *argv],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
