"""The state of a MuJoCo simulation as arrays, complete to the last bit of what an environment may read.

``mjSTATE_INTEGRATION`` decides the next physics step. Rewards and observations also read what the last step computed
(positions of bodies, which lag by one physics step; contact forces), so these arrays are kept as well. Only numbers of
type float are written back. Indices are computed anew by ``mj_forward``: one from a file could point anywhere.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mbrl_wrappers.states import StateDict, require_keys

HANDLE_MODULE = "mujoco._structs"
"""Where the classes live whose objects only point into a model or its data."""

_OF_THE_ARENA = ("efc_", "iefc_", "efm_", "ifrc_", "iacc", "island_", "map_")
"""Arrays whose length is the number of contacts and constraints; every physics step makes them anew."""


def is_data(value: Any) -> bool:
    """Whether ``value`` is an ``mujoco.MjData``; the library is not imported for that."""
    return _is(value, "MjData")


def is_model(value: Any) -> bool:
    """Whether ``value`` is an ``mujoco.MjModel``."""
    return _is(value, "MjModel")


def _is(value: Any, name: str) -> bool:
    library = sys.modules.get("mujoco")
    return library is not None and isinstance(value, getattr(library, name))


def export_model(model: Any) -> StateDict:
    """What tells a model from another one: the SHA-256 of all of its numbers."""
    import mujoco

    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return {"sha256": hashlib.sha256(buffer.tobytes()).hexdigest(), "mujoco": mujoco.__version__}


def check_model(model: Any, state: Mapping[str, Any], place: str) -> None:
    """Compare a model with the one that a state was exported with.

    Raises:
        ValueError: if it is another one, or if the library is of another version.
    """
    require_keys(state, ("sha256", "mujoco"), "a simulated model")
    here = export_model(model)
    if here["mujoco"] != state["mujoco"]:
        raise ValueError(
            f"{place} was simulated by mujoco {state['mujoco']}, and {here['mujoco']} is installed, which may compute "
            "other numbers: install that version, or go on at the next episode."
        )
    if here["sha256"] != state["sha256"]:
        raise ValueError(f"{place} differs from the simulated model that the state is of (masses, sizes, timestep).")


def export_data(data: Any) -> StateDict:
    """The state of ``data``.

    Raises:
        ValueError: if the model has plugins or delays, whose state is theirs.
    """
    import mujoco

    model, bits = data.model, mujoco.mjtState.mjSTATE_INTEGRATION
    if model.nplugin or getattr(model, "nhistory", 0):
        raise ValueError("its model has plugins or delays, whose state cannot be written safely.")
    physics = np.empty(mujoco.mj_stateSize(model, bits))
    mujoco.mj_getState(model, data, physics, bits)
    return {"physics": physics, "computed": {name: array.copy() for name, array in _computed(data).items()}}


def check_data(data: Any, state: Mapping[str, Any], place: str) -> None:
    """Compare the shapes in ``state`` with those of ``data``.

    Raises:
        ValueError: if they are of another model.
    """
    import mujoco

    require_keys(state, ("physics", "computed"), "a simulation")
    size = mujoco.mj_stateSize(data.model, mujoco.mjtState.mjSTATE_INTEGRATION)
    own, given = _computed(data), state["computed"]
    require_keys(given, own, f"the simulation {place}")
    pairs = [*((own[name], given[name], name) for name in own), (np.empty(size), state["physics"], "physics")]
    for mine, array, name in pairs:
        if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (mine.shape, mine.dtype):
            raise ValueError(f"{place} has {name} of shape {mine.shape}, and the state is of another model.")


def load_data(data: Any, state: Mapping[str, Any]) -> None:
    """Put ``data`` into a state that :func:`check_data` accepted."""
    import mujoco

    mujoco.mj_resetData(data.model, data)
    mujoco.mj_setState(data.model, data, state["physics"], mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(data.model, data)
    for name, array in _computed(data).items():
        array[...] = state["computed"][name]
    mujoco.mj_setState(data.model, data, state["physics"], mujoco.mjtState.mjSTATE_INTEGRATION)


def _computed(data: Any) -> dict[str, Any]:
    """The float arrays of fixed length by name."""
    names = (name for name in dir(data) if not name.startswith(("_", *_OF_THE_ARENA)))
    arrays = ((name, getattr(data, name)) for name in names)
    return {
        name: array
        for name, array in arrays
        if isinstance(array, np.ndarray) and array.dtype == np.float64 and array.size
    }
