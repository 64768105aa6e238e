"""Copies of object graphs in which whatever shared an object or memory before shares it afterwards."""

from __future__ import annotations

import copy
import copyreg
import random
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, MethodWrapperType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch as th
from gymnasium import Env, spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from mbrl_wrappers.copies.memory_copies import copy_array, copy_tensor, copy_void
from mbrl_wrappers.copies.object_graph import is_constant, random_streams
from mbrl_wrappers.copies.random_streams import reseed

Array = NDArray[Any]

_DISPLAY_MODULES = frozenset({"pygame", "glfw", "OpenGL", "moviepy", "cv2", "matplotlib", "pyglet", "imageio"})
ATOMS = frozenset(
    {NoneType, bool, int, float, complex, str, bytes, range, ModuleType, EnvSpec, type(...), type(NotImplemented)}
    | {np.bool_, np.int32, np.int64, np.uint8, np.float32, np.float64}
)
"""The types of values that every copy shares."""

_SIMPLE_SPACES = frozenset({spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary})
_OWN_COPY = frozenset({"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__"})
_MISSING = object()


class ObjectCopier:
    """One copy of an object graph.

    ``copy.deepcopy`` is not enough for environments. It copies a numpy view and the array under it as two arrays that
    share nothing, and it shares functions, so that a closure or a bound builtin in the copy still reads and changes
    the original. Here views stay views, closures get cells of their own, and bound methods are bound to the copy. What
    defines ``__deepcopy__`` is copied by it.

    Args:
        stream: takes the place of all numpy generators in the copy and seeds all other random streams; None keeps each
            at the state it is in.

    Attributes:
        memo: by ``id`` of the original, what stands for it in the copy.
    """

    def __init__(self, stream: np.random.Generator | None) -> None:
        self.memo: dict[Any, Any] = {}
        self.stream = stream
        self._filled: list[CellType] = []
        self._kept: list[Any] = []  # temporary objects: their ids must not be given to others meanwhile

    def copy(self, value: Any) -> Any:
        """The copy of ``value``; the same object for constants such as numbers, strings, classes and modules.

        Raises:
            TypeError: ``value`` or something in it cannot be copied.
        """
        kind: Any = type(value)
        if kind in ATOMS:
            return value
        known = self.memo.get(id(value), _MISSING)
        if known is not _MISSING:
            return known
        twin = _way(kind)(self, value)
        self.memo[id(value)] = twin
        return twin

    def environment(self, value: Any) -> Any:
        """The copy of an environment."""
        return self.by_protocol(value)

    def constant(self, value: Any) -> Any:
        """What needs no copy."""
        return value

    def display(self, value: Any) -> None:
        """Windows and pictures are left out."""

    def dictionary(self, value: dict[Any, Any]) -> dict[Any, Any]:
        """A dict; the copy is registered before it is filled, for it may contain itself."""
        twin = self.memo[id(value)] = {}
        for key, item in value.items():
            twin[self.copy(key)] = self.copy(item)
        return twin

    def list(self, value: Any) -> Any:
        """A list or a deque."""
        twin = self.memo[id(value)] = deque(maxlen=value.maxlen) if isinstance(value, deque) else []
        for item in value:
            twin.append(self.copy(item))
        return twin

    def immutable(self, value: Any) -> Any:
        """A tuple or a frozenset: the same one where nothing in it had to be copied."""
        twins = [self.copy(item) for item in value]
        known = self.memo.get(id(value), _MISSING)  # a tuple that contains itself has been copied meanwhile
        if known is not _MISSING:
            return known
        same = all(twin is item for twin, item in zip(twins, value, strict=True))
        return value if same else type(value)(twins)

    def set(self, value: set[Any]) -> set[Any]:
        """A set."""
        return {self.copy(item) for item in value}

    def function(self, value: FunctionType) -> FunctionType:
        """A function; one with a closure, or with defaults that can change, gets its own."""
        closure, defaults, keywords = value.__closure__ or (), value.__defaults__, value.__kwdefaults__
        if is_constant(value):
            return value
        cells = tuple(self.memo.setdefault(id(cell), CellType()) for cell in closure)
        twin = FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
        self.memo[id(value)] = twin
        for cell, new in zip(closure, cells, strict=True):
            if not any(cell is known for known in self._filled):  # cells compare by what they hold, such as arrays
                self._filled.append(cell)
                with suppress(ValueError):  # an empty cell
                    new.cell_contents = self.copy(cell.cell_contents)
        twin.__defaults__, twin.__kwdefaults__ = self.copy(defaults), self.copy(keywords)
        twin.__qualname__, twin.__module__, twin.__doc__ = value.__qualname__, value.__module__, value.__doc__
        twin.__dict__.update({name: self.copy(item) for name, item in vars(value).items()})
        return twin

    def method(self, value: MethodType) -> Any:
        """A bound method, of Python or of a compiled class: bound to the copy of its object."""
        owner, function = value.__self__, value.__func__
        twin = self.copy(owner)
        if twin is owner:
            return value
        of_class = getattr(type(owner), getattr(function, "__name__", ""), None) is function
        return MethodType(function if of_class else self.copy(function), twin)

    def builtin(self, value: Any) -> Any:
        """A compiled function, or a method of a compiled object (``list.append``), which is bound to the copy."""
        owner = value.__self__
        if owner is None or isinstance(owner, ModuleType | type):
            return value
        return getattr(self.copy(owner), value.__name__)

    def weak(self, value: weakref.ref[Any]) -> weakref.ref[Any]:
        """A weak reference to the copy of what it refers to."""
        target = value()
        return value if target is None else weakref.ref(self.copy(target))

    def numpy_stream(self, value: np.random.Generator) -> np.random.Generator:
        """A numpy generator: the one stream of the copy, or the same place of its own."""
        return np.random.Generator(self.copy(value.bit_generator)) if self.stream is None else self.stream

    def bits(self, value: np.random.BitGenerator) -> np.random.BitGenerator:
        """What a numpy generator draws from; several times as fast as ``copy.deepcopy``."""
        kind: Any = type(value)
        twin: np.random.BitGenerator = kind(0)
        twin.state = value.state
        reseed(twin, self.stream)
        return twin

    def other_stream(self, value: Any) -> Any:
        """A stream of another kind."""
        twin = value.clone_state() if isinstance(value, th.Generator) else copy.deepcopy(value)
        reseed(twin, self.stream)
        return twin

    def space(self, value: Any) -> Any:
        """The same space with a stream of its own: a space that is sampled changes."""
        twin = object.__new__(type(value))
        vars(twin).update(vars(value))
        if self.stream is not None:
            twin._np_random = self.stream
        elif value._np_random is not None:
            twin._np_random = self.copy(value._np_random)
        return twin

    def plain(self, value: Any) -> Any:
        """An object that is no more than its ``__dict__``."""
        twin = self.memo[id(value)] = object.__new__(type(value))
        vars(twin).update({name: self.copy(item) for name, item in vars(value).items()})
        return twin

    def cached(self, value: Any) -> Any:
        """A function behind ``functools.lru_cache``: shared, with its cache, if it has nothing that can change."""
        wrapped = value.__wrapped__
        if not isinstance(wrapped, FunctionType) or not is_constant(wrapped):
            raise TypeError("the cache of a function that closes over something would be that of the original")
        return value

    def by_its_class(self, value: Any) -> Any:
        """What defines ``__deepcopy__``."""
        twin = copy.deepcopy(value, self.memo)
        if self.stream is not None:
            for stream in random_streams(twin):
                reseed(stream, self.stream)
        return twin

    def by_protocol(self, value: Any) -> Any:
        """Everything else, by what it says to pickle and ``copy.deepcopy``: ``object.__reduce_ex__``."""
        reducer: Any = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if reducer is None else reducer(value)
        if isinstance(reduced, str):
            return value
        self._kept.append(reduced)
        make, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
        twin = self.memo[id(value)] = make(*map(self.copy, arguments))
        state = self.copy(state)
        if setter is not None:
            setter(twin, state)
        elif state is not None and hasattr(twin, "__setstate__"):
            twin.__setstate__(state)
        elif state is not None:
            attributes, slots = state if isinstance(state, tuple) else (state, None)
            vars(twin).update(attributes) if attributes else None
            for name, item in (slots or {}).items():
                setattr(twin, name, item)
        for item in items or ():
            twin.append(self.copy(item))
        for key, item in pairs or ():
            twin[self.copy(key)] = self.copy(item)
        return twin

    def refused(self, value: Any) -> Any:
        """What has a state that nobody can read.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"a {type(value).__name__} cannot be copied")


@lru_cache(maxsize=1024)
def _way(kind: Any) -> Callable[[ObjectCopier, Any], Any]:
    """How objects of a class are copied."""
    if is_display(kind):
        return lambda copier, value: copier.display(value)
    for kinds, way in _WAYS:
        if issubclass(kind, kinds):
            return way
    exact: Callable[[ObjectCopier, Any], Any] | None = _EXACT.get(kind)
    if exact is not None:
        return exact
    if issubclass(kind, Env):
        return lambda copier, value: copier.environment(value)
    if hasattr(kind, "__deepcopy__"):
        return ObjectCopier.by_its_class
    return ObjectCopier.plain if is_plain(kind) else ObjectCopier.by_protocol


def is_display(kind: Any) -> bool:
    """Whether a class belongs to a library that draws."""
    return kind.__module__.partition(".")[0] in _DISPLAY_MODULES


def is_plain(kind: Any) -> bool:
    """Whether objects of a class are no more than their ``__dict__``; ``EzPickle`` is overlooked: it restarts them."""
    for base in kind.__mro__:
        own = vars(base)
        if base not in (object, EzPickle) and (own.get("__slots__") or _OWN_COPY & own.keys()):
            return False
    return kind.__new__ is object.__new__ and hasattr(kind, "__dict__") and kind.__flags__ & _HEAP_TYPE != 0


_HEAP_TYPE = 1 << 9
_WAYS: tuple[tuple[Any, Callable[[ObjectCopier, Any], Any]], ...] = (
    ((type, np.dtype, np.ufunc, np.bool_, np.number, np.str_, np.bytes_), ObjectCopier.constant),
    (np.ndarray, copy_array),
    (np.void, copy_void),
    (th.Tensor, copy_tensor),
    (type(lru_cache(hash)), ObjectCopier.cached),
    (FunctionType, ObjectCopier.function),
    (MethodType, ObjectCopier.method),
    ((BuiltinFunctionType, MethodWrapperType), ObjectCopier.builtin),
    (np.random.Generator, ObjectCopier.numpy_stream),
    (np.random.BitGenerator, ObjectCopier.bits),
    ((np.random.RandomState, random.Random, th.Generator), ObjectCopier.other_stream),
    (weakref.ref, ObjectCopier.weak),
    ((weakref.ProxyType, weakref.CallableProxyType, memoryview), ObjectCopier.refused),
)
_EXACT: dict[type, Callable[[ObjectCopier, Any], Any]] = {
    dict: ObjectCopier.dictionary,
    list: ObjectCopier.list,
    deque: ObjectCopier.list,
    tuple: ObjectCopier.immutable,
    frozenset: ObjectCopier.immutable,
    set: ObjectCopier.set,
    **dict.fromkeys(_SIMPLE_SPACES, ObjectCopier.space),
}
