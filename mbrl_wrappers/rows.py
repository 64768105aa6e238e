"""Row-wise operations on model states: NamedTuples of ``(B, ...)`` tensors, nested or not.

What is no tensor is held as :class:`mbrl_wrappers.objects.Objects`, a column of ``B`` rows like any other. States are
never mutated, so each function returns a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch as th
from torch import Tensor

from mbrl_wrappers.objects import Objects

S = TypeVar("S")


def map_tensors(function: Callable[..., Tensor], state: S, *others: S) -> S:
    """Apply ``function`` to each tensor of ``state`` (and to the matching ones of ``others``).

    A function that moves whole rows also moves those of :class:`Objects`.
    """
    if isinstance(state, Tensor):
        return cast(S, function(state, *others))
    if isinstance(state, Objects):
        return cast(S, state.map_rows(function, *cast(Any, others)))
    parts = cast(tuple[Any, ...], state)
    fields = [map_tensors(function, *group) for group in zip(parts, *cast(Any, others), strict=True)]
    return cast(S, type(parts)(*fields))


def tensors_of(state: object) -> list[Tensor]:
    """The tensors of ``state`` from the first field to the last.

    Raises:
        TypeError: for a state that holds :class:`Objects`.
    """
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    if _holds_objects(state):
        raise TypeError(f"A {type(state).__name__} holds objects that are no tensors, so it cannot be exported.")
    map_tensors(note, state)
    return found


def with_tensors(state: S, tensors: Iterable[Tensor]) -> S:
    """``state`` with the tensors that :func:`tensors_of` gave of one of its kind, on its own devices.

    Raises:
        ValueError: if their number, shapes or dtypes differ.
    """
    own, given = tensors_of(state), list(tensors)
    here, there = ([(tuple(each.shape), each.dtype) for each in group] for group in (own, given))
    if here != there:
        raise ValueError(f"The tensors {there} are not those of a {type(state).__name__}, which has {here}.")
    rest = iter(given)
    return map_tensors(lambda tensor: next(rest).to(tensor.device, copy=True), state)


def _holds_objects(state: object) -> bool:
    return isinstance(state, Objects) or (isinstance(state, tuple) and any(map(_holds_objects, state)))


def take_rows(state: S, index: Tensor) -> S:
    """The rows ``index`` (int64 indices or a bool mask) of every tensor."""
    return map_tensors(lambda tensor: tensor[index], state)


def put_rows(state: S, index: Tensor, rows: S) -> S:
    """A copy of ``state`` whose rows ``index`` are replaced by ``rows``; all other rows are untouched."""

    def put(tensor: Tensor, new: Tensor) -> Tensor:
        where = index.nonzero().squeeze(1) if index.dtype == th.bool else index
        return tensor.index_copy(0, where, new.to(tensor.dtype))

    return map_tensors(put, state, rows)


def num_rows(state: object) -> int:
    """The number of rows ``B`` of a state."""
    first = state
    while not isinstance(first, Tensor | Objects):
        first = cast(tuple[Any, ...], first)[0]
    return len(first)
