"""Going on from what :mod:`mbrl_wrappers.copies.object_export` wrote: everything is compared first, then written."""

from __future__ import annotations

import enum
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch as th
from gymnasium import Space

from mbrl_wrappers.copies.mujoco_data import check_data, check_model, is_data, is_model, load_data
from mbrl_wrappers.copies.object_export import BITS, CONTAINERS, constant_name, subspaces
from mbrl_wrappers.seeding import set_numpy_stream_state, set_torch_stream_state
from mbrl_wrappers.tasks.recognition import full_name

_MISSING = object()


class ObjectImporter:
    """One import of an object graph into objects that were built the same way.

    Containers, arrays and tensors are made anew. Objects, random streams, functions and simulations are those that are
    there, and get their contents when :meth:`apply` is called; until then nothing is changed.

    Args:
        layers: as for :class:`~mbrl_wrappers.copies.object_export.ObjectExporter`.
    """

    def __init__(self, layers: Iterable[Any] = ()) -> None:
        self._layers = list(layers)
        self._made: dict[int, Any] = {}
        self._used: dict[int, Any] = {}
        self._actions: list[Callable[[], object]] = []

    def apply(self) -> None:
        """Write everything that was read."""
        for action in self._actions:
            action()

    def read(self, state: Any, old: Any, place: str) -> Any:
        """What stands for ``state``, in the place of ``old``.

        Raises:
            ValueError: if ``old`` is of another kind than what was exported, or the state is none.
        """
        if state is None or isinstance(state, bool | int | float | str):
            return state
        try:
            way = _READERS[state["kind"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"The state of {place} is none of an environment.") from error
        return way(self, state, old, place)

    def read_attributes(self, state: Mapping[str, Any], old: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Attributes by name; ``old`` are those that are there."""
        return {key: self.read(state[key], old.get(key, _MISSING), f"{name}.{key}") for key in sorted(state)}

    def later(self, action: Callable[[], object]) -> None:
        """Remember what :meth:`apply` does."""
        self._actions.append(action)

    def _keep(self, state: Mapping[str, Any], value: Any) -> Any:
        self._made[int(state["number"])] = value
        return value

    def _take(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        """``old``, which must not stand for two things."""
        if self._used.setdefault(id(old), state) is not state:
            raise ValueError(f"{place} is one object here and was two where the state was written.")
        return self._keep(state, old)

    def _demand(self, fits: bool, place: str, state: Mapping[str, Any], old: Any) -> None:
        if not fits:
            here = "missing" if old is _MISSING else f"a {full_name(type(old))}"
            there = state.get("class") or state.get("name") or state["kind"]
            raise ValueError(f"{place} was a {there} where the state was written, and is {here} here.")

    def _same(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        if state["number"] not in self._made:
            raise ValueError(f"The state of {place} refers to something that is not in it.")
        return self._made[state["number"]]

    def _layer(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        return self._layers[state["number"]]

    def _constant(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(old is not _MISSING and constant_name(old) == state["name"], place, state, old)
        return old

    def _display(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        return None if old is _MISSING else old

    def _bytes(self, state: Mapping[str, Any], old: Any, place: str) -> bytes:
        return bytes(state["array"].tobytes())

    def _complex(self, state: Mapping[str, Any], old: Any, place: str) -> complex:
        return complex(state["real"], state["imag"])

    def _number(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        array = state["array"]
        return np.frombuffer(array["bytes"].tobytes(), _dtype(array["dtype"], place))[0]

    def _enum(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(isinstance(old, enum.Enum) and full_name(type(old)) == state["class"], place, state, old)
        return type(old)[state["member"]]

    def _dict(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        twin = self._keep(state, OrderedDict() if state["class"] == "collections.OrderedDict" else {})
        twin.update(self._pairs(state, old, place))
        return twin

    def _filled_dict(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(full_name(type(old)) == state["class"], place, state, old)
        self._take(state, old, place)
        pairs = self._pairs(state, old, place)
        self.later(lambda: (old.clear(), old.update(pairs)))
        return old

    def _pairs(self, state: Mapping[str, Any], old: Any, place: str) -> dict[Any, Any]:
        known = old if isinstance(old, dict) else {}
        pairs = {}
        for key_state, item in state["items"]:
            key = self.read(key_state, _MISSING, f"a key of {place}")
            pairs[key] = self.read(item, known.get(key, _MISSING), f"{place}[{key!r:.40}]")
        return pairs

    def _items(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        kind = CONTAINERS.get(state["class"])
        if kind is None:
            raise ValueError(f"The state of {place} is none of an environment.")
        mutable: Any = deque(maxlen=state["maxlen"]) if kind is deque else kind()
        if kind in (list, deque, set):
            self._keep(state, mutable)
        if "many" in state:
            many = state["many"]
            items = np.frombuffer(many["bytes"].tobytes(), _dtype(many["dtype"], place)).tolist()
        else:
            known = list(old) if isinstance(old, list | tuple | deque) else []
            known += [_MISSING] * (len(state["items"]) - len(known))
            items = [self.read(item, known[n], f"{place}[{n}]") for n, item in enumerate(state["items"])]
        if kind in (tuple, frozenset):
            return self._keep(state, kind(items))
        mutable.update(items) if kind is set else mutable.extend(items)
        return mutable

    def _named_tuple(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(full_name(type(old)) == state["class"], place, state, old)
        kind: Any = type(old)
        items = [self.read(item, part, place) for item, part in zip(state["items"], old, strict=True)]
        return self._keep(state, kind._make(items))

    def _array(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        memory = state["memory"]
        if "same" in memory:
            raw = self._made.get(memory["same"])
        else:
            raw = self._made[memory["number"]] = memory["bytes"].copy()
        dtype, shape = _dtype(state["dtype"], place), tuple(state["shape"])
        if not isinstance(raw, np.ndarray) or math.prod(shape) * dtype.itemsize > 2**40:
            raise ValueError(f"The state of {place} refers to something that is not in it.")
        try:
            twin: Any = np.ndarray(shape, dtype, raw.data, state["start"], tuple(state["strides"]))
        except (TypeError, ValueError) as error:
            raise ValueError(f"The state of {place} is no array: {error}.") from error
        return self._keep(state, twin)

    def _tensor(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        device = old.device if isinstance(old, th.Tensor) else "cpu"
        return self._keep(state, state["tensor"].clone().to(device))

    def _generator(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        bits = self.read(state["bits"], getattr(old, "bit_generator", _MISSING), place)
        if isinstance(old, np.random.Generator) and old.bit_generator is bits:
            return self._take(state, old, place)
        return self._keep(state, np.random.Generator(bits))

    def _stream(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        name, numbers = state["class"], state["state"]
        if name in BITS:
            used = type(old).__name__ != name or id(old) in self._used
            bits = self._keep(state, BITS[name]()) if used else self._take(state, old, place)
            self.later(lambda: set_numpy_stream_state(np.random.Generator(bits), numbers))
            return bits
        kinds: dict[str, Any] = {"RandomState": np.random.RandomState, "torch": th.Generator, "random": random.Random}
        self._demand(name in kinds and isinstance(old, kinds[name]), place, state, old)
        self._take(state, old, place)
        if name == "RandomState":
            self.later(lambda: set_numpy_stream_state(old, numbers))
        elif name == "torch":
            self.later(lambda: set_torch_stream_state(old, numbers))
        else:
            version, gauss = numbers["version"], numbers["gauss"]
            self.later(lambda: old.setstate((version, tuple(map(int, numbers["numbers"])), gauss)))
        return old

    def _space(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(isinstance(old, Space) and full_name(type(old)) == state["class"], place, state, old)
        self._take(state, old, place)
        parts = subspaces(old)
        self._demand(len(parts) == len(state["streams"]), place, state, old)
        for part, stream in zip(parts, state["streams"], strict=True):
            twin = self.read(stream, part._np_random, f"the stream of {place}")
            self.later(partial(setattr, part, "_np_random", twin))
        return old

    def _function(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        fits = isinstance(old, FunctionType) and constant_name(old) == state["name"]
        self._demand(fits and len(old.__closure__ or ()) == len(state["cells"]), place, state, old)
        self._take(state, old, place)
        for cell, item in zip(old.__closure__ or (), state["cells"], strict=True):
            try:
                before = cell.cell_contents
            except ValueError:
                continue
            content = self.read(item, before, f"a variable of {place}")
            if content is not before:
                self.later(partial(setattr, cell, "cell_contents", content))
        own = self.read_attributes(state["attributes"], vars(old), place)
        self.later(lambda: vars(old).update(own))
        return old

    def _method(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        fits = isinstance(old, MethodType) and constant_name(old.__func__) == state["name"]
        self._demand(fits, place, state, old)
        owner = self.read(state["owner"], old.__self__, f"{place}.__self__")
        return self._keep(state, old if owner is old.__self__ else MethodType(old.__func__, owner))

    def _object(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(full_name(type(old)) == state["class"], place, state, old)
        self._take(state, old, place)
        values = self.read_attributes(state["attributes"], vars(old), place)

        def fill() -> None:
            vars(old).clear()
            vars(old).update(values)

        self.later(fill)
        return old

    def _stateful(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(full_name(type(old)) == state["class"], place, state, old)
        self._take(state, old, place)
        self.later(lambda: old.load_state_dict(state["state"]))
        return old

    def _simulated_model(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(is_model(old), place, state, old)
        check_model(old, state["state"], place)
        return self._take(state, old, place)

    def _simulation(self, state: Mapping[str, Any], old: Any, place: str) -> Any:
        self._demand(is_data(old), place, state, old)
        check_data(old, state["state"], place)
        self.later(lambda: load_data(old, state["state"]))
        return self._take(state, old, place)


def _dtype(name: str, place: str) -> np.dtype[Any]:
    """A dtype of numbers or texts from its name."""
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise ValueError(f"The state of {place} has the unknown dtype {name!r:.40}.") from error
    if dtype.hasobject:
        raise ValueError(f"The state of {place} has the dtype {name!r:.40}, which holds objects.")
    return dtype


_READERS: dict[str, Callable[[ObjectImporter, Mapping[str, Any], Any, str], Any]] = {
    "same": ObjectImporter._same,
    "layer": ObjectImporter._layer,
    "constant": ObjectImporter._constant,
    "display": ObjectImporter._display,
    "bytes": ObjectImporter._bytes,
    "complex": ObjectImporter._complex,
    "number": ObjectImporter._number,
    "enum": ObjectImporter._enum,
    "dict": ObjectImporter._dict,
    "filled dict": ObjectImporter._filled_dict,
    "items": ObjectImporter._items,
    "named tuple": ObjectImporter._named_tuple,
    "array": ObjectImporter._array,
    "tensor": ObjectImporter._tensor,
    "generator": ObjectImporter._generator,
    "stream": ObjectImporter._stream,
    "space": ObjectImporter._space,
    "function": ObjectImporter._function,
    "method": ObjectImporter._method,
    "object": ObjectImporter._object,
    "stateful": ObjectImporter._stateful,
    "simulated model": ObjectImporter._simulated_model,
    "simulation": ObjectImporter._simulation,
}
