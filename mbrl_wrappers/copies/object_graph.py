"""What an object consists of: a walk through attributes, containers, closures and bound methods, and what it finds."""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch as th

from mbrl_wrappers.copies.random_streams import RandomStream, stream_state

_OPAQUE = sys.stdlib_module_names - {"builtins", "collections", "argparse", "types", "functools", "typing"}
"""The modules of classes whose attributes are their own affair: loggers, threads, paths."""

_PLAIN = (NoneType, bool, int, float, complex, str, bytes, range, np.generic)
_CLOSED = (*_PLAIN, type, ModuleType, np.dtype, RandomStream)


def is_constant(function: FunctionType) -> bool:
    """Whether a function has nothing that can change: no closure, no attributes, and defaults that are numbers."""
    if function.__closure__ or vars(function):
        return False
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return all(isinstance(value, (*_PLAIN, type, FunctionType)) for value in defaults)


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The objects that ``value`` directly consists of, each with the way to write it behind the name of ``value``."""
    if isinstance(value, _CLOSED):
        return
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in list(value.items()))
    elif isinstance(value, list | tuple | deque):
        yield from ((f"[{place}]", item) for place, item in enumerate(list(value)))
    elif isinstance(value, set | frozenset):
        yield from (("{}", item) for item in list(value))
    elif isinstance(value, np.ndarray):
        yield from ((f".flat[{place}]", item) for place, item in enumerate(value.flat) if value.dtype == object)
    elif isinstance(value, FunctionType):
        yield from _function_parts(value)
    elif isinstance(value, MethodType):
        yield from ((".__self__", value.__self__), (".__func__", value.__func__))
    elif isinstance(value, BuiltinFunctionType | MethodWrapperType):
        yield ".__self__", value.__self__
    elif isinstance(value, partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, weakref.ref):
        yield "()", value()
    yield from attributes(value)


def _function_parts(value: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        with suppress(ValueError):  # an empty cell
            yield f"'s variable {name}", cell.cell_contents
    for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
        yield "'s default", default


def attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an object has of its own, in its ``__dict__`` or in slots."""
    if type(value).__module__.partition(".")[0] in _OPAQUE:
        return
    yield from ((f".{name}", item) for name, item in list(getattr(value, "__dict__", {}).items()))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                yield f".{name}", getattr(value, name)


def walk(
    roots: Iterable[tuple[str, Any]], *, without: frozenset[str] = frozenset(), at_most: int = 100_000
) -> Iterator[tuple[str, Any]]:
    """Every object that ``roots`` lead to, once, with a name that says how to get there.

    Args:
        roots: the objects to start from, with their names.
        without: attributes that are not followed.
        at_most: where the walk stops, in objects.
    """
    roots = list(roots)
    seen = {id(value): value for _, value in roots}
    waiting = list(reversed(roots))
    while waiting and len(seen) < at_most:
        name, value = waiting.pop()
        yield name, value
        for suffix, part in parts(value):
            if isinstance(part, _PLAIN):
                yield name + suffix, part
            elif id(part) not in seen and suffix[1:] not in without:
                seen[id(part)] = part
                waiting.append((name + suffix, part))


def random_streams(root: Any) -> list[RandomStream]:
    """The random streams in an object."""
    return [value for _, value in walk([("", root)]) if isinstance(value, RandomStream)]


def contents(value: Any) -> object:
    """A summary of an object's own state, without its parts; compare two by ``==`` to detect a change."""
    kind = type(value)
    if isinstance(value, _PLAIN):
        return kind, repr(value)
    if isinstance(value, np.ndarray):
        return kind, value.shape, value.dtype.str, None if value.dtype == object else np.asarray(value).tobytes()
    if isinstance(value, th.Tensor):
        return kind, value.detach().cpu().numpy().tobytes()
    if isinstance(value, RandomStream):
        return kind, stream_state(value)
    if isinstance(value, list | tuple | deque | dict | set | frozenset):
        return kind, len(value)
    if isinstance(value, FunctionType):
        return kind, value.__code__
    if hasattr(value, "__dict__") or isinstance(value, MethodType | type | ModuleType):
        return kind
    try:
        reduced = value.__reduce_ex__(4)
        return kind, reduced[2] if len(reduced) > 2 and isinstance(reduced[2], bytes) else repr(reduced)
    except Exception:  # what it contains cannot be read
        return kind
