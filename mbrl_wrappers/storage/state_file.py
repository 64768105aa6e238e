"""A state as a file: the format of model files around nested plain values.

The tensors and arrays go to the file's tensors, everything else to its manifest as strict JSON. So a state has what
a model file has: nothing in it is executed, sizes are compared with the file's length before memory is taken, the
manifest and each tensor have a SHA-256, and a new file replaces the old one in a single step. Dictionaries come back
sorted by key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from torch import Tensor

from mbrl_wrappers.states import StateDict
from mbrl_wrappers.storage.file_format import CheckpointError, Manifest, read, write

KIND = "state"
MAX_DEPTH = 64
ARRAY_DTYPES = tuple(
    np.dtype(name)
    for name in ("bool", "uint8", "int8", "int16", "float16", "int32", "float32", "int64", "uint64", "float64")
)


def write_state(path: Path, state: Mapping[str, Any], *, about: Mapping[str, Any] | None = None) -> None:
    """Write ``state`` to ``path``; a file already there is replaced in one step.

    Args:
        path: the whole name.
        state: nested plain values, see :data:`mbrl_wrappers.states.StateDict`; a :class:`~mbrl_wrappers.states.Ring`
            is not among them, since a run checkpoint writes it in parts.
        about: strict JSON that can be read without the tensors.

    Raises:
        TypeError: for a value that is none of these, with its place.
        ValueError: if the file would be larger than one may be.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _described(state, "", tensors)
    write(path, KIND, {"about": dict(about or {}), "state": skeleton}, tensors)


def read_state(path: Path) -> tuple[StateDict, dict[str, Any], Manifest]:
    """The state in a file, what the file says about itself, and its manifest.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file is truncated, corrupt, too new, or holds no state.
    """
    manifest, tensors = read(path)
    if manifest.kind != KIND:
        raise CheckpointError(f"{path} holds {manifest.kind!r} and no state.")
    try:
        state, about = _rebuilt(manifest.config["state"], tensors, 0), manifest.config["about"]
        if not isinstance(state, dict) or not isinstance(about, dict):
            raise TypeError("a state is a dictionary")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is corrupt: its values are not those of a state ({error}).") from error
    return state, about, manifest


def _described(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON, its arrays put into ``tensors`` under their places."""
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        tensors[place] = value
        return {"tensor": place}
    if isinstance(value, np.ndarray) and value.dtype in ARRAY_DTYPES:
        tensors[place] = th.from_numpy(np.array(value, order="C"))
        return {"array": place}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"The state at {place or 'its root'} has the key {key!r}: keys are texts.")
        return {"map": {key: _described(item, f"{place}/{key}", tensors) for key, item in value.items()}}
    if isinstance(value, list):
        return [_described(item, f"{place}/{number}", tensors) for number, item in enumerate(value)]
    kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise TypeError(
        f"The state at {place or 'its root'} is of type {kind}, which is not stored: convert it to tensors, arrays, "
        "numbers, texts, lists or dictionaries of these."
    )


def _rebuilt(value: Any, tensors: Mapping[str, Tensor], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, list):
        return [_rebuilt(item, tensors, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "map":
        return {key: _rebuilt(item, tensors, depth + 1) for key, item in content.items()}
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    raise ValueError(f"unknown kind of value {kind!r:.40}")
