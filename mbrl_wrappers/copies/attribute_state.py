"""The attributes of an environment, of a wrapper or of a vector environment, as plain values and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from mbrl_wrappers.copies.object_export import ObjectExporter
from mbrl_wrappers.copies.object_import import ObjectImporter
from mbrl_wrappers.states import StateDict

Kept = Callable[[Any, str, Any], bool]
"""Whether the attribute of this name and value belongs to the state of an object of this class."""

_CLOCKS = {"t_start": time.time, "episode_start_time": time.perf_counter}
"""Attributes that hold the time of a beginning, and its clock: kept is how long ago that was."""


def export_attributes(
    exporter: ObjectExporter, owner: Any, is_kept: Kept, more: Mapping[str, Any] | None = None
) -> StateDict:
    """The attributes of ``owner`` that are kept, and ``more`` of its class.

    Raises:
        NotExportableError: if one is no data.
    """
    kind = type(owner)
    values = {name: value for name, value in vars(owner).items() if is_kept(kind, name, value)}
    return exporter.attributes(owner, {**_with_clocks(values), **(more or {})})


def plan_attributes(
    importer: ObjectImporter,
    owner: Any,
    saved: Mapping[str, Any],
    is_kept: Kept,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Compare ``saved`` with the attributes of ``owner``, which get these values when the importer is applied.

    Raises:
        ValueError: if one is of another kind than the one that is there.
    """
    kind = type(owner)
    values = importer.read_attributes(saved, {**vars(owner), **(more or {})}, kind.__name__)
    gone = [name for name, value in vars(owner).items() if is_kept(kind, name, value) and name not in values]

    def fill() -> None:
        for name in gone:
            del vars(owner)[name]
        vars(owner).update(_with_clocks(values))

    importer.later(fill)


def keeps_itself(owner: Any) -> bool:
    """Whether the class of ``owner`` says itself what its state is."""
    kind = type(owner)
    return callable(getattr(kind, "state_dict", None)) and callable(getattr(kind, "load_state_dict", None))


def _with_clocks(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with the beginnings of clocks as durations, and the other way round: each is now minus the other."""
    return {
        name: _CLOCKS[name]() - value if name in _CLOCKS and isinstance(value, float) else value
        for name, value in values.items()
    }
