"""Run folders with known numbers, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch as th

from mbrl_wrappers import Transitions


def write_run(
    folder: Path,
    returns: Sequence[Sequence[float]],
    *,
    arm: str = "sac",
    seed: int = 0,
    task: str = "Hopper-v5",
    steps: Sequence[int] = (),
    finished: bool = True,
    averaged: Sequence[Sequence[float]] = (),
    average_steps: int = 200,
    **hyperparameters: object,
) -> Path:
    folder.mkdir(parents=True)
    steps = steps or [100 * (index + 1) for index in range(len(returns))]
    summary = {
        "task": task,
        "algorithm": "sac",
        "backend": "sb3",
        "with_model": "model" in arm,
        "arm": arm,
        "seeds": {"train": seed, "evaluation": seed + 10_000},
        "finished": finished,
        "wall_seconds": 120.0,
        "phase_seconds": {"env_step": 6.0, "agent_train": 60.0, "other": 54.0},
        "hyperparameters": dict(hyperparameters),
        "env_kwargs": {},
        "evaluations": [
            {"real_steps": step, "returns": list(values)} for step, values in zip(steps, returns, strict=True)
        ],
    }
    if averaged:  # summaries of runs without an average, such as older ones, do not have these
        summary["average_steps"] = average_steps
        summary["averaged_evaluations"] = [
            {"real_steps": step, "returns": list(values)} for step, values in zip(steps, averaged, strict=True)
        ]
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def transitions(values: Sequence[float], last: Sequence[bool]) -> Transitions:
    """One-dimensional rows that each go up by one."""
    obs = th.tensor(values, dtype=th.float32)[:, None]
    zero = th.zeros(len(obs))
    return Transitions(obs, zero[:, None], zero, obs + 1, zero.bool(), th.tensor(last))
