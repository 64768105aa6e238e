"""Known functions by name: how a model file names its reward and termination without storing code.

Code in a file would run when the file is read. A model file therefore holds only the name of a function and its
constants, and only classes registered here are ever rebuilt:

    @register_function
    @dataclass(frozen=True)
    class Quadratic:
        weight: float = 1.0

        def __call__(self, obs, action, next_obs):
            return -self.weight * (next_obs**2).sum(-1)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from reprlib import repr as brief
from typing import Any, TypeVar

import numpy as np

C = TypeVar("C", bound=type[Any])

_FUNCTIONS: dict[str, type[Any]] = {}


class FunctionNeeded(ValueError):
    """A file names a function that it does not hold: whoever loads the file must bring it along."""


def register_function(cls: C) -> C:
    """Make the instances of a frozen dataclass storable under the name of their class.

    Constants may be numbers, strings, booleans, None, tuples of those and other registered functions.

    Raises:
        TypeError: if ``cls`` is not a frozen dataclass.
        ValueError: if another class has the name already.
    """
    if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise TypeError(f"{cls.__name__} must be a @dataclass(frozen=True) to be stored by name.")
    known = _FUNCTIONS.get(cls.__name__)
    if known is not None and _identity(known) != _identity(cls):
        raise ValueError(f"The name {cls.__name__!r} is taken by {_identity(known)}: choose another.")
    _FUNCTIONS[cls.__name__] = cls
    return cls


def describe_function(function: Callable[..., Any] | None) -> dict[str, Any] | None:
    """The JSON ``{"name", "constants"}`` of a function; ``None`` for ``None``.

    A function that is not registered keeps its name with ``"constants": None``, so that whoever loads the file is
    told which function to pass in again, rather than be given a model that lost it.

    Raises:
        TypeError: if a registered function has a constant that is not plain.
    """
    if function is None:
        return None
    if not is_registered(function):
        return {"name": getattr(function, "__qualname__", type(function).__qualname__), "constants": None}
    fields = dataclasses.fields(function)  # type: ignore[arg-type]
    constants = {field.name: _to_json(getattr(function, field.name), field.name) for field in fields if field.init}
    return {"name": type(function).__name__, "constants": constants}


def restore_function(described: dict[str, Any] | None) -> Callable[..., Any] | None:
    """Rebuild the function that :func:`describe_function` described; ``None`` for ``None``.

    Raises:
        FunctionNeeded: if the function was not registered when it was described, or is not registered now.
    """
    if described is None:
        return None
    name, constants = described["name"], described["constants"]
    if constants is None:
        raise FunctionNeeded(
            f"The model was saved with the function {brief(name)}, which is not stored in the file: pass it again, "
            "as in load(path, reward_fn=...), or make it a frozen dataclass with @register_function before saving."
        )
    if name not in _FUNCTIONS:
        raise FunctionNeeded(
            f"The model was saved with the function {brief(name)}, which is not registered here: import the module "
            "that defines it before loading, or pass another in its place, as in load(path, reward_fn=...)."
        )
    function: Callable[..., Any] = _FUNCTIONS[name](**{key: _from_json(value) for key, value in constants.items()})
    return function


def restored_head(argument: str, described: dict[str, Any] | None, given: Any) -> Any:
    """The function that a model uses in place of a learned head; None where the head is learned.

    Args:
        argument: how the model's class names it.
        described: by :func:`describe_function`; None where the head was learned.
        given: by whoever loads the file, which wins over the stored one.

    Raises:
        ValueError: if a function is given to a model that was saved with a learned head.
    """
    if described is None:
        if given is not None:
            raise ValueError(
                f"This model was saved with a learned head in place of {argument}; it cannot take one now."
            )
        return None
    return given if given is not None else restore_function(described)


def is_registered(function: object) -> bool:
    """Whether ``function`` can be stored by its name and constants."""
    return _FUNCTIONS.get(type(function).__name__) is type(function)


def _identity(cls: type[Any]) -> str:
    # Not the class object itself: a module that is reloaded defines an equal class anew.
    return f"{cls.__module__}.{cls.__qualname__}"


def _to_json(value: Any, name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_to_json(element, name) for element in value]
    if is_registered(value):
        return describe_function(value)
    raise TypeError(
        f"The constant {name!r} is a {type(value).__name__} and cannot be stored: "
        "use numbers, strings, booleans, None, tuples of those, or another registered function."
    )


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(element) for element in value)
    if isinstance(value, dict):
        return float(value["float"]) if "float" in value else restore_function(value)
    return value
