"""SB3's log goes on where a run was saved: recorded values, the rows of ``progress.csv``, TensorBoard's folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)

from mbrl_wrappers.optional import require
from mbrl_wrappers.states import StateDict, require_keys
from sb3_ext.plain_values import plain, revived

_LOGGED = ("name_to_value", "name_to_count", "name_to_excluded")


def log_state(logger: Logger) -> StateDict:
    """Values that were recorded and not yet written, the rows in CSV files, and the folder; pictures are left out."""
    kept = {}
    for name, value in logger.name_to_value.items():
        try:
            kept[name] = plain(value)
        except TypeError:
            continue
    counts = {name: logger.name_to_count[name] for name in kept}
    excluded = {name: plain(logger.name_to_excluded.get(name) or ()) for name in kept}
    return {
        **dict(zip(_LOGGED, (kept, counts, excluded), strict=True)),
        "folder": logger.get_dir(),
        "tensorboard": any(isinstance(output, TensorBoardOutputFormat) for output in logger.output_formats),
        "rows": {Path(output.file.name).name: _written(output) for output in _csv_outputs(logger)},
    }


def load_log_state(logger: Logger, state: Mapping[str, Any]) -> None:
    """Put the logger of a run into a state that :func:`log_state` gave; CSV files get their rows back.

    Raises:
        ValueError: if it is no state of a logger.
    """
    require_keys(state, (*_LOGGED, "folder", "tensorboard", "rows"), "a logger")
    logger.name_to_value.update(revived(state["name_to_value"]))
    logger.name_to_count.update(state["name_to_count"])
    logger.name_to_excluded.update({name: tuple(formats) for name, formats in state["name_to_excluded"].items()})
    for output in _csv_outputs(logger):
        rows = state["rows"].get(Path(output.file.name).name)
        if rows:
            output.file.seek(0)
            output.file.truncate()
            output.file.write(rows)
            output.file.flush()
            output.keys = rows.partition("\n")[0].split(output.separator)


def go_on_in_tensorboard(agent: BaseAlgorithm, state: Mapping[str, Any], step: int) -> None:
    """Let ``agent`` log to the folder that the run had, where ``learn()`` would take the newest one of any run.

    What TensorBoard was given after ``step`` is taken back.
    """
    if agent._custom_logger or not agent.tensorboard_log or not state["tensorboard"]:
        return
    writer = require("torch.utils.tensorboard.writer", extra="tensorboard").SummaryWriter
    output = TensorBoardOutputFormat(state["folder"])
    output.writer.close()
    output.writer = writer(log_dir=state["folder"], purge_step=step + 1)
    shown: list[KVWriter] = [HumanOutputFormat(sys.stdout)] if agent.verbose >= 1 else []
    agent.set_logger(Logger(state["folder"], [*shown, output]))


def _csv_outputs(logger: Logger) -> Iterator[CSVOutputFormat]:
    yield from (output for output in logger.output_formats if isinstance(output, CSVOutputFormat))


def _written(output: CSVOutputFormat) -> str:
    output.file.flush()
    return Path(output.file.name).read_text()
