"""Run folders laid out as in RL Zoo, and files that are never half-written."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from scripts.runs.env_id import safe_name

MODEL_FILE = "dynamics.safetensors"
SUMMARY_FILE = "summary.json"
BEST_AGENT_FILE = "best_model.zip"  # as SB3's EvalCallback calls it
AVERAGED_AGENT_FILE = "averaged_model.zip"  # the last agent with the average of its actors
BEST_AVERAGED_AGENT_FILE = "best_averaged_model.zip"


def new_run_folder(log_folder: Path, algo: str, env_id: str, tag: str = "") -> Path:
    """Make ``<log_folder>/<algo>/<env>_<n>`` with the next free number.

    The folder is claimed by ``mkdir``, which fails if it exists, so two runs started together never share one.

    Args:
        log_folder: the root of all runs.
        algo: algorithm name.
        env_id: environment id; a slash becomes a dash, and a module is left out.
        tag: optional arm name, put before the number.
    """
    parent = log_folder / algo
    parent.mkdir(parents=True, exist_ok=True)
    stem = run_name(env_id, tag)
    pattern = re.compile(re.escape(stem) + r"_(\d+)")
    taken = [int(match[1]) for entry in parent.iterdir() if (match := pattern.fullmatch(entry.name))]
    return next_folder(parent, stem, max(taken, default=0) + 1)


def run_folders(log_folder: Path, algo: str, env_id: str, tag: str = "") -> list[Path]:
    """The folders that :func:`new_run_folder` made with the same arguments, by their number."""
    parent, pattern = log_folder / algo, re.compile(re.escape(run_name(env_id, tag)) + r"_(\d+)")
    entries = list(parent.iterdir()) if parent.is_dir() else []
    numbered = [(int(match[1]), entry) for entry in entries if (match := pattern.fullmatch(entry.name))]
    return [entry for _, entry in sorted(numbered)]


def next_folder(parent: Path, stem: str, number: int = 1) -> Path:
    """Make ``<parent>/<stem>_<n>`` with the first free number from ``number`` on, safe against another process."""
    while True:
        folder = parent / f"{stem}_{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def run_name(env_id: str, tag: str = "") -> str:
    """How the folders of an arm's runs are called, their number apart."""
    return "_".join(part for part in (safe_name(env_id), tag) if part)


def agent_file_name(env_id: str) -> str:
    """How the agent that a run ended with is called in its folder."""
    return f"{safe_name(env_id)}.zip"


def write_text_atomically(path: Path, text: str) -> None:
    """Replace ``path`` in one step: a reader sees the old text or the new one, a kill leaves either."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json_atomically(path: Path, value: Any) -> None:
    """Write plain data as indented JSON through :func:`write_text_atomically`."""
    write_text_atomically(path, json.dumps(value, indent=1, sort_keys=False, default=str) + "\n")
