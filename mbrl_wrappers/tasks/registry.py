"""Task functions as data: each one has a name and constants, so it can be saved as JSON and never as a pickle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")

_CLASSES: dict[str, type[Any]] = {}


def register(cls: type[T]) -> type[T]:
    """Make a frozen dataclass known to :func:`describe` and :func:`restore` under its class name.

    Use it as a decorator, above ``@dataclass(frozen=True)``. The fields may be bool, int, float, None, other
    registered dataclasses, and tuples of these.

    Raises:
        TypeError: ``cls`` is not a frozen dataclass.
        ValueError: another class already has this name.
    """
    if not is_dataclass(cls) or not cast(Any, cls).__dataclass_params__.frozen:
        raise TypeError(f"{cls.__name__} must be a frozen dataclass: its fields are the constants that are saved.")
    known = _CLASSES.setdefault(cls.__name__, cls)
    if known is not cls:
        raise ValueError(f"The name {cls.__name__} is already taken by {known.__module__}; choose another class name.")
    return cls


def describe(function: object) -> dict[str, Any] | None:
    """What a reward or termination function is, as strict JSON: ``{"name": ..., "constants": {...}}``.

    Returns:
        None when the function (or a part of it) is not a registered dataclass, for example a lambda: such a
        function cannot be saved and has to be given again after loading.
    """
    try:
        return cast("dict[str, Any]", _encode(function)) if type(function) in _CLASSES.values() else None
    except _NotDescribable:
        return None


def restore(description: dict[str, Any]) -> Callable[..., Any]:
    """Build the function that :func:`describe` described.

    Raises:
        ValueError: the name is unknown here or the constants do not fit it.
    """
    return cast("Callable[..., Any]", _decode(description))


class _NotDescribable(Exception):
    """Something in the function has no JSON form."""


def _encode(value: object) -> Any:
    if type(value) in _CLASSES.values():
        constants = {field.name: _encode(getattr(value, field.name)) for field in fields(cast(Any, value))}
        return {"name": type(value).__name__, "constants": constants}
    if isinstance(value, tuple):
        return [_encode(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # strict JSON has no infinity; "inf", "-inf" and "nan" are read back by float()
    if value is None or isinstance(value, bool | int | float):
        return value
    raise _NotDescribable


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        name, constants = value.get("name"), value.get("constants")
        if name not in _CLASSES or not isinstance(constants, dict):
            raise ValueError(
                f"Unknown task function {name!r}; this version knows {sorted(_CLASSES)}. If it is your own class, "
                "import the module that registers it before loading."
            )
        try:
            return _CLASSES[name](**{key: _decode(part) for key, part in constants.items()})
        except TypeError as error:
            raise ValueError(f"The saved constants do not fit {name}: {error}.") from error
    if isinstance(value, list | tuple):
        return tuple(_decode(part) for part in value)
    return float(value) if isinstance(value, str) else value
