"""What the code of an environment reads outside of it: class attributes, globals, variables that methods close over.

A copy of the environment shares all of this with the original.
"""

from __future__ import annotations

import dis
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from types import CellType, CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from mbrl_wrappers.copies.object_graph import contents, is_constant, walk

_LIBRARIES = sys.stdlib_module_names | {"numpy", "torch", "gymnasium", "mujoco", "stable_baselines3", "scipy"}
_NO_DATA = (FunctionType, type, ModuleType, GetSetDescriptorType, MemberDescriptorType, property, cached_property)
_DESCRIPTORS = (staticmethod, classmethod, property, cached_property)
_GLOBAL_NAMES = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "LOAD_NAME"})


class Place(NamedTuple):
    """A variable outside of an environment.

    Attributes:
        name: as an error says it.
        read: its value now.
        write: gives it a value.
        value: its value when it was found.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    value: Any


class OutsideState:
    """The variables outside of some objects that the code of these objects names, as they are now.

    Args:
        things: the objects, and functions among them.
        shared: further objects that copies share, with names.
    """

    def __init__(self, things: list[Any], shared: list[tuple[str, Any]]) -> None:
        self._seen: set[int] = set()
        self._shared = shared
        self.places: list[Place] = []
        self._find(things)
        found = 0
        while found < len(self.places):  # what a global leads to has classes of its own
            found = len(self.places)
            self._find([value for _, value in self.objects()])
        self._contents = {name: contents(value) for name, value in self._watched() if type(value) is not dict}
        self._saved = [(value, _saved(value)) for _, value in self._watched()]

    def objects(self) -> Iterator[tuple[str, Any]]:
        """Everything that the variables lead to, with names; not what ``shared`` leads to."""
        return walk((place.name, place.value) for place in self.places)

    def _watched(self) -> Iterator[tuple[str, Any]]:
        return walk([*((place.name, place.value) for place in self.places), *self._shared])

    def restore(self) -> str | None:
        """Undo what has changed since construction; return the name of a variable that had, None if none had.

        A new key in a dict and the first value of a variable that was None count as no change: caches do that.
        """
        changed = [place for place in self.places if place.value is not None and place.read() is not place.value]
        now = {name: contents(value) for name, value in self._watched()}
        names = [place.name for place in changed]
        names += [name for name, before in self._contents.items() if now.get(name) != before]
        for place in changed:
            place.write(place.value)
        for value, saved in self._saved:
            if names or not isinstance(value, dict):
                _put_back(value, saved)
        return names[0] if names else None

    def _find(self, things: list[Any]) -> None:
        for thing in things:
            if isinstance(thing, FunctionType):
                self.places += self._of_function(thing, shared=is_constant(thing))
            else:
                self.places += self._of_class(type(thing))

    def _of_class(self, kind: Any) -> Iterator[Place]:
        for base in kind.__mro__:
            if id(base) in self._seen or _is_library(base.__module__):
                continue
            self._seen.add(id(base))
            for name, value in list(vars(base).items()):
                function = _function_in(value)
                if function is not None:
                    yield from self._of_function(function, shared=True)
                elif not name.startswith("__") and name != "_abc_impl" and not isinstance(value, _NO_DATA):
                    yield _attribute(base, name, value)

    def _of_function(self, function: FunctionType, *, shared: bool) -> Iterator[Place]:
        """What a function names, and what it keeps itself if copies share it, as they share methods."""
        if id(function) in self._seen or _is_library(function.__module__ or ""):
            return
        self._seen.add(id(function))
        if shared:
            yield from self._kept_by(function)
        for name in _global_names(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, FunctionType):
                yield from self._of_function(value, shared=True)
            elif isinstance(value, type):
                yield from self._of_class(value)
            elif name in function.__globals__ and not isinstance(value, _NO_DATA):
                yield _global(function, name, value)

    def _kept_by(self, function: FunctionType) -> Iterator[Place]:
        """The variables that a function closes over, its defaults and its attributes."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # an empty cell
                value = cell.cell_contents
                if isinstance(value, FunctionType):
                    yield from self._of_function(value, shared=True)
                elif not isinstance(value, _NO_DATA):
                    yield _closed_over(f"the variable {name!r} that {function.__qualname__} closes over", cell, value)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if isinstance(value, FunctionType):
                yield from self._of_function(value, shared=True)
            elif not isinstance(value, _NO_DATA):
                yield _default(function, value)
        for name, value in list(vars(function).items()):
            if isinstance(value, FunctionType):
                yield from self._of_function(value, shared=True)
            elif not isinstance(value, _NO_DATA):
                yield _attribute(function, name, value)


def _default(function: FunctionType, value: Any) -> Place:
    return Place(f"a default value of {function.__qualname__}", lambda: value, lambda old: None, value)


def _attribute(owner: type | FunctionType, name: str, value: Any) -> Place:
    kind = "class" if isinstance(owner, type) else "function"
    named = f"the {kind} attribute {owner.__name__}.{name}"
    return Place(named, lambda: vars(owner).get(name), lambda old: setattr(owner, name, old), value)


def _global(function: FunctionType, name: str, value: Any) -> Place:
    names = function.__globals__
    return Place(f"the global variable {name!r}", lambda: names.get(name), lambda old: names.update({name: old}), value)


def _closed_over(named: str, cell: CellType, value: Any) -> Place:
    return Place(named, lambda: cell.cell_contents, lambda old: setattr(cell, "cell_contents", old), value)


def _is_library(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES and module != "__main__"


def _function_in(value: Any) -> FunctionType | None:
    """The function behind what a class body makes of it."""
    for name in ("__func__", "fget", "func"):
        value = getattr(value, name, value) if isinstance(value, _DESCRIPTORS) else value
    return value if isinstance(value, FunctionType) else None


def _global_names(code: CodeType) -> set[str]:
    """The globals that a function names. ``co_names`` would not do: it holds names of attributes, too."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL_NAMES}
    return names.union(*(_global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _saved(value: Any) -> Any:
    if isinstance(value, list | dict | set | deque | np.ndarray):
        return value.copy()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return dict(vars(value)) if hasattr(value, "__dict__") and not isinstance(value, _NO_DATA) else None


def _put_back(value: Any, saved: Any) -> None:
    if isinstance(value, list):
        value[:] = saved
    elif isinstance(value, dict | set):
        value.clear()
        value.update(saved)
    elif isinstance(value, deque):
        value.clear()
        value.extend(saved)
    elif isinstance(value, np.ndarray):
        if value.flags.writeable:
            value[...] = saved
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = saved
    elif saved is not None:
        vars(value).clear()
        vars(value).update(saved)
