"""Objects as nested plain values: what an environment holds, in a form that can be written without pickle.

Only what is data is written: numbers, texts, containers, arrays, tensors, random streams, and objects that are no more
than their attributes. Functions, classes, spaces and handles of a simulator are named, so that whoever loads the state
can compare the names; the program that loads has them already. What shared an object or memory shares it again.
"""

from __future__ import annotations

import enum
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch as th
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec

from mbrl_wrappers.copies.memory_copies import dense, memory_owner
from mbrl_wrappers.copies.mujoco_data import HANDLE_MODULE, export_data, export_model, is_data, is_model
from mbrl_wrappers.copies.object_copies import is_display, is_plain
from mbrl_wrappers.seeding import numpy_stream_state, torch_stream_state
from mbrl_wrappers.states import StateDict
from mbrl_wrappers.tasks.recognition import full_name

MAX_BYTES = 2**26
"""Bytes of arrays in a state at most: an environment that holds a data set is not to be written at each checkpoint."""

BITS = {kind.__name__: kind for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937)} | {
    kind.__name__: kind for kind in (np.random.Philox, np.random.SFC64)
}
"""What numpy generators may draw from."""

_MANY = 32
_CONSTANTS = (type, ModuleType, BuiltinFunctionType, EnvSpec, np.dtype, range, CodeType, np.ufunc, type(...))


class NotExportableError(TypeError):
    """Something whose state cannot be written as plain values; the message is a sentence that says what."""


def constant_name(value: Any) -> str:
    """How a constant is named in a state, so that another one in its place is noticed."""
    if isinstance(value, np.ndarray):
        return f"array of {value.dtype} and shape {value.shape}"
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    home = getattr(value, "__module__", None)
    return f"{home}.{name}" if isinstance(name, str) else full_name(type(value))


def subspaces(space: Space[Any]) -> list[Space[Any]]:
    """A space and the spaces that it consists of, in a fixed order."""
    inner = getattr(space, "spaces", ())
    inner = list(inner.values()) if isinstance(inner, Mapping) else list(inner)
    return [space, *(part for each in inner if isinstance(each, Space) for part in subspaces(each))]


class ObjectExporter:
    """One export of an object graph: every object is written once, and later mentions refer to it by number.

    Args:
        layers: objects that are written elsewhere (an environment and its wrappers), by their position.
    """

    def __init__(self, layers: Iterable[Any] = ()) -> None:
        self._layers = {id(layer): number for number, layer in enumerate(layers)}
        self._numbers: dict[object, int] = {}
        self._kept: list[Any] = []  # their ids must not be given to others meanwhile
        self._bytes = 0

    def export(self, value: Any, place: str) -> Any:
        """``value`` as plain values.

        Args:
            value: any object.
            place: how to write it in an error.

        Raises:
            NotExportableError: if something in it is no data.
        """
        kind: Any = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if id(value) in self._layers:
            return {"kind": "layer", "number": self._layers[id(value)]}
        if kind in _VALUES:
            return _VALUES[kind](self, value, place)
        if isinstance(value, np.generic):
            return {"kind": "number", "array": self._data(np.asarray(value), place)}
        if isinstance(value, enum.Enum):
            return {"kind": "enum", "class": full_name(kind), "member": value.name}
        if isinstance(value, _CONSTANTS):
            return self._constant(value, place)
        if is_display(kind):
            return {"kind": "display"}
        if id(value) in self._numbers:
            return {"kind": "same", "number": self._numbers[id(value)]}
        number = self._number(id(value), value)
        way = _EXACT.get(kind) or next(
            (way for kinds, way in _WAYS if isinstance(value, kinds)), ObjectExporter._object
        )
        return {"number": number, **way(self, value, place)}

    def attributes(self, owner: Any, values: Mapping[str, Any]) -> StateDict:
        """The attributes ``values`` of ``owner``, which is named in errors; in the order in which files have them."""
        name = type(owner).__name__
        return {key: self.export(values[key], f"{name}.{key}") for key in sorted(values)}

    def _number(self, key: object, value: Any) -> int:
        number = self._numbers[key] = len(self._numbers)
        self._kept.append(value)
        return number

    def _refuse(self, place: str, value: Any, why: str) -> NotExportableError:
        return NotExportableError(f"{place} is a {type(value).__name__}, {why}")

    def _data(self, value: Any, place: str) -> StateDict:
        """An array as its bytes where its dtype is none that files have, and as itself otherwise."""
        if value.dtype.hasobject or value.dtype.names is not None:
            raise self._refuse(place, value, f"of dtype {value.dtype}, which is not written to files.")
        self._bytes += value.nbytes
        if self._bytes > MAX_BYTES:
            raise NotExportableError(
                f"{place} brings the arrays of the environment over {MAX_BYTES // 2**20} MiB, which are not written at "
                "every checkpoint: make constant arrays read-only (array.flags.writeable = False)."
            )
        raw = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        return {"dtype": value.dtype.str, "shape": list(value.shape), "bytes": raw.copy()}

    def _constant(self, value: Any, place: str) -> StateDict:
        owner = getattr(value, "__self__", None)
        if isinstance(value, BuiltinFunctionType) and not isinstance(owner, ModuleType | type | None):
            raise self._refuse(place, value, "bound to an object that it may change.")
        return {"kind": "constant", "name": constant_name(value)}

    def _dict(self, value: dict[Any, Any], place: str) -> StateDict:
        items = [
            [self.export(key, f"a key of {place}"), self.export(item, f"{place}[{key!r:.40}]")]
            for key, item in list(value.items())
        ]
        kind = "dict" if type(value) in (dict, OrderedDict) else "filled dict"
        return {"kind": kind, "class": full_name(type(value)), "items": items}

    def _items(self, value: Any, place: str) -> StateDict:
        """A list, a tuple, a deque or a set; long ones of plain numbers as one array."""
        items = list(value)
        state: StateDict = {"kind": "items", "class": full_name(type(value))}
        if isinstance(value, deque):
            state["maxlen"] = value.maxlen
        for kind, dtype in ((float, np.float64), (int, np.int64)):
            if len(items) > _MANY and all(type(item) is kind and abs(item) < 2**62 for item in items):
                return {**state, "many": self._data(np.array(items, dtype), place)}
        return {**state, "items": [self.export(item, f"{place}[{n}]") for n, item in enumerate(items)]}

    def _array(self, value: Any, place: str) -> StateDict:
        if type(value) is not np.ndarray:
            raise self._refuse(place, value, "a subclass of an array.")
        owner = memory_owner(value)
        if not (value.flags.writeable or owner.flags.writeable) and not value.dtype.hasobject:
            return {"kind": "constant", "name": constant_name(value)}
        if owner.base is not None:
            raise self._refuse(place, value, "whose memory belongs to another object: keep np.array(...) of it.")
        memory = self._memory(owner, place)
        start = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        return {
            "kind": "array",
            "memory": memory,
            "dtype": value.dtype.str,
            "shape": list(value.shape),
            "strides": list(value.strides),
            "start": int(start),
        }

    def _memory(self, owner: Any, place: str) -> StateDict:
        """The bytes of an array that owns them, in the order of memory; once, however many arrays look at them."""
        key = ("memory", id(owner))
        if key in self._numbers:
            return {"same": self._numbers[key]}
        flat = dense(owner) if owner.size else owner.reshape(-1)
        return {"number": self._number(key, owner), "bytes": self._data(flat, place)["bytes"]}

    def _tensor(self, value: th.Tensor, place: str) -> StateDict:
        if value.requires_grad or value.untyped_storage().nbytes() != value.numel() * value.element_size():
            raise self._refuse(place, value, "with gradients or a view of another: keep plain tensors.")
        return {"kind": "tensor", "tensor": value.detach().cpu().clone()}

    def _stream(self, value: Any, place: str) -> StateDict:
        if isinstance(value, np.random.Generator):
            return {"kind": "generator", "bits": self.export(value.bit_generator, place)}
        if isinstance(value, np.random.BitGenerator):
            name = type(value).__name__
            if name not in BITS:
                raise self._refuse(place, value, "a random stream that is not known.")
            return {"kind": "stream", "class": name, "state": numpy_stream_state(np.random.Generator(value))}
        if isinstance(value, np.random.RandomState):
            return {"kind": "stream", "class": "RandomState", "state": numpy_stream_state(value)}
        if isinstance(value, th.Generator):
            return {"kind": "stream", "class": "torch", "state": torch_stream_state(value)}
        version, numbers, gauss = value.getstate()
        state = {"version": version, "numbers": np.array(numbers, np.int64), "gauss": gauss}
        return {"kind": "stream", "class": "random", "state": state}

    def _space(self, value: Space[Any], place: str) -> StateDict:
        streams = [self.export(part._np_random, f"the stream of {place}") for part in subspaces(value)]
        return {"kind": "space", "class": full_name(type(value)), "streams": streams}

    def _function(self, value: FunctionType, place: str) -> StateDict:
        cells = []
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                content = None
            cells.append(self.export(content, f"{place}'s variable {name}"))
        own = self.attributes(value, vars(value)) if vars(value) else {}
        return {"kind": "function", "name": constant_name(value), "cells": cells, "attributes": own}

    def _method(self, value: MethodType, place: str) -> StateDict:
        name = constant_name(value.__func__)
        return {"kind": "method", "name": name, "owner": self.export(value.__self__, f"{place}.__self__")}

    def _object(self, value: Any, place: str) -> StateDict:
        kind: Any = type(value)
        if callable(getattr(kind, "load_state_dict", None)) and callable(getattr(kind, "state_dict", None)):
            return {"kind": "stateful", "class": full_name(kind), "state": dict(value.state_dict())}
        if is_model(value):
            return {"kind": "simulated model", "state": export_model(value)}
        if is_data(value):
            try:
                return {"kind": "simulation", "state": export_data(value)}
            except ValueError as error:
                raise NotExportableError(f"{place}: {error}") from error
        if kind.__module__ == HANDLE_MODULE:
            return {"kind": "constant", "name": full_name(kind)}
        if isinstance(value, dict):
            return self._dict(value, place)
        if isinstance(value, tuple) and hasattr(kind, "_make"):
            return {
                "kind": "named tuple",
                "class": full_name(kind),
                "items": [self.export(item, f"{place}.{name}") for name, item in zip(kind._fields, value, strict=True)],
            }
        if not is_plain(kind) or not hasattr(value, "__dict__"):
            raise self._refuse(
                place,
                value,
                "which is no plain data: keep files, sockets, locks, generators and handles out of the environment, or "
                "give its class state_dict() and load_state_dict().",
            )
        return {"kind": "object", "class": full_name(kind), "attributes": self.attributes(value, vars(value))}


def _bytes(exporter: ObjectExporter, value: bytes, place: str) -> StateDict:
    return {"kind": "bytes", "array": np.frombuffer(value, np.uint8).copy()}


def _complex(exporter: ObjectExporter, value: complex, place: str) -> StateDict:
    return {"kind": "complex", "real": value.real, "imag": value.imag}


CONTAINERS: dict[str, Any] = {full_name(kind): kind for kind in (list, tuple, deque, set, frozenset)}
"""The containers whose items are written one by one."""

_VALUES: dict[Any, Callable[[ObjectExporter, Any, str], Any]] = {bytes: _bytes, complex: _complex}
_EXACT: dict[Any, Callable[[ObjectExporter, Any, str], StateDict]] = {
    dict: ObjectExporter._dict,
    OrderedDict: ObjectExporter._dict,
    **dict.fromkeys(CONTAINERS.values(), ObjectExporter._items),
}
_WAYS: tuple[tuple[Any, Callable[[ObjectExporter, Any, str], StateDict]], ...] = (
    (np.ndarray, ObjectExporter._array),
    (th.Tensor, ObjectExporter._tensor),
    (
        (np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random, th.Generator),
        ObjectExporter._stream,
    ),
    (Space, ObjectExporter._space),
    (FunctionType, ObjectExporter._function),
    (MethodType, ObjectExporter._method),
)
