"""Functions are stored by name and constants; what cannot be stored says so."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mbrl_wrappers.storage.stored_functions import describe_function, is_registered, register_function, restore_function


@register_function
@dataclass(frozen=True)
class Inner:
    """A function inside a function."""

    scale: float = 2.0


@register_function
@dataclass(frozen=True)
class Outer:
    """A constant of every kind that is allowed."""

    flag: bool = True
    count: int = 3
    label: str = "inf"
    nothing: None = None
    limits: tuple[float, float] = (0.7, float("inf"))
    low: float = float("-inf")
    nested: tuple[tuple[int, ...], ...] = ((1, 2), (3,))
    inner: Inner = Inner(0.1)

    def __call__(self) -> None:
        """Do nothing."""


def test_constants_round_trip_through_strict_json() -> None:
    function = Outer(low=-1 / 3)
    described = json.loads(json.dumps(describe_function(function), allow_nan=False))
    restored = restore_function(described)
    assert restored == function
    assert isinstance(restored, Outer)
    assert isinstance(restored.limits, tuple)
    assert isinstance(restored.inner, Inner)
    assert restored.flag is True


def test_numpy_numbers_become_numbers() -> None:
    described = describe_function(Inner(np.float32(0.1)))  # type: ignore[arg-type]
    assert described == {"name": "Inner", "constants": {"scale": float(np.float32(0.1))}}


def test_what_a_constructor_does_not_take_is_not_stored() -> None:
    @register_function
    @dataclass(frozen=True)
    class Derived:
        weight: float
        doubled: float = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "doubled", 2 * self.weight)

    described = describe_function(Derived(3.0))  # type: ignore[arg-type]
    assert described == {"name": "Derived", "constants": {"weight": 3.0}}
    assert restore_function(described).doubled == 6.0  # type: ignore[union-attr]


def test_none_is_none() -> None:
    assert describe_function(None) is None
    assert restore_function(None) is None


def test_an_unregistered_function_is_named_but_not_rebuilt() -> None:
    described = describe_function(np.sum)
    assert described == {"name": "sum", "constants": None}
    with pytest.raises(ValueError, match=r"'sum', which is not stored.*reward_fn="):
        restore_function(described)


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(ValueError, match="'Elsewhere', which is not registered here: import"):
        restore_function({"name": "Elsewhere", "constants": {}})


@pytest.mark.parametrize("constant", [[1, 2], {"a": 1}, np.zeros(3), lambda: None])
def test_constants_that_are_not_plain_are_refused(constant: Any) -> None:
    with pytest.raises(TypeError, match="constant 'scale' is a .* cannot be stored"):
        describe_function(Inner(constant))  # type: ignore[arg-type]


def test_only_frozen_dataclasses_are_registered() -> None:
    class Plain:
        pass

    @dataclass
    class Mutable:
        weight: float = 1.0

    for cls in (Plain, Mutable):
        with pytest.raises(TypeError, match="must be a @dataclass"):
            register_function(cls)


def test_a_name_belongs_to_one_class() -> None:
    def other() -> type[Any]:
        @dataclass(frozen=True)
        class Inner:
            pass

        return Inner

    with pytest.raises(ValueError, match="'Inner' is taken"):
        register_function(other())
    assert register_function(Inner) is Inner
    assert not is_registered(other()())
