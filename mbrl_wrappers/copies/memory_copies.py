"""Copies of arrays and tensors: those that show one memory show one memory in the copy, too."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import numpy as np
import torch as th
from numpy.typing import NDArray

Array = NDArray[Any]

_MISSING = object()


class Copier(Protocol):
    """What copies the objects that an array or a tensor leads to.

    Attributes:
        memo: by ``id`` of the original, its copy; see ``copy.deepcopy``.
    """

    memo: dict[Any, Any]

    def copy(self, value: Any) -> Any:
        """The copy of ``value``."""
        ...

    def by_its_class(self, value: Any) -> Any:
        """The copy that the class of ``value`` makes."""
        ...


def copy_array(copier: Copier, value: Array) -> Array:
    """An array; a view becomes the same view of the copy of the array that owns the memory.

    Raises:
        TypeError: the memory belongs to something that a copy cannot have twice.
    """
    if type(value) is not np.ndarray:
        tagged: Array = copy_array(copier, np.asarray(value)).view(type(value))
        if hasattr(value, "__dict__"):
            vars(tagged).update({name: copier.copy(item) for name, item in vars(value).items()})
        return tagged
    owner = memory_owner(value)
    if not (value.flags.writeable or owner.flags.writeable) and not value.dtype.hasobject:
        return value
    if owner.base is not None:
        return _borrowed(copier, value, owner)
    if owner is value:
        return _owned(copier, value)
    known = copier.memo.get(id(owner), _MISSING)
    if known is _MISSING:
        known = copier.memo[id(owner)] = _owned(copier, owner)
    return _window(value, _address(owner), dense(np.asarray(known)))


def _owned(copier: Copier, value: Array) -> Array:
    twin = np.array(value, order="K")
    if value.dtype == object:
        copier.memo[id(value)] = twin  # it may contain itself
        for place, item in enumerate(dense(twin)):
            dense(twin)[place] = copier.copy(item)
    return twin


def _borrowed(copier: Copier, value: Array, owner: Array) -> Array:
    """An array over memory that numpy did not take."""
    base: Any = owner.base.obj if isinstance(owner.base, memoryview) else owner.base
    if type(base).__name__ == "PyCapsule":
        raise TypeError(
            "it is an array over the memory of another object (MjData, for example), and in a copy it would go on "
            "showing the original. Read it from its owner in each step, or keep np.array(...) of it"
        )
    if isinstance(base, th.Tensor):
        twin = copier.copy(base).detach()
        storage = th.empty(0, dtype=th.uint8).set_(twin.untyped_storage())
        return _window(value, base.untyped_storage().data_ptr(), storage.numpy())
    try:
        start = _address(np.frombuffer(base, np.uint8))
    except (TypeError, ValueError):  # no buffer: whoever made the array keeps no other way to its memory
        return _owned(copier, value)
    return _window(value, start, np.frombuffer(copier.copy(base), np.uint8))


def copy_tensor(copier: Copier, value: th.Tensor) -> th.Tensor:
    """A tensor; those that share memory do so in the copy, which is not so after ``copy.deepcopy`` of a parameter."""
    kind = type(value)
    simple = kind in (th.Tensor, th.nn.Parameter) and value.layout == th.strided and value.is_leaf
    if not simple or value.is_conj() or value.is_neg():
        copied: th.Tensor = copier.by_its_class(value)
        return copied
    storage = value.untyped_storage()
    memory = copier.memo.get(("memory", storage._cdata))
    if memory is None:
        memory = copier.memo["memory", storage._cdata] = storage.clone()
    twin = th.empty(0, dtype=value.dtype, device=value.device)
    twin.set_(memory, value.storage_offset(), value.size(), value.stride())
    twin.requires_grad_(value.requires_grad)
    if kind is th.nn.Parameter:
        twin = th.nn.Parameter(twin, value.requires_grad)
    twin.grad = copier.copy(value.grad)
    vars(twin).update({name: copier.copy(item) for name, item in vars(value).items()})
    return twin


def copy_void(copier: Copier, value: np.void) -> np.void:
    """A row of a structured array."""
    if value.base is not None:
        raise TypeError("it is a row of a structured array, and in a copy it would be a row of no array")
    return copy.copy(value)


def memory_owner(view: Array) -> Array:
    """The array that ``view`` is a view of in the end; ``as_strided`` puts an object of its own in between."""
    while True:
        base: Any = view.base
        if not isinstance(base, np.ndarray) and hasattr(base, "__array_interface__"):
            base = getattr(base, "base", None)
        if not isinstance(base, np.ndarray):
            return view
        view = base


def _address(array: Array) -> int:
    """Where the first element of an array lies."""
    return int(array.__array_interface__["data"][0])


def dense(owner: Array) -> Array:
    """All elements of an array without gaps, in the order of memory: a view."""
    return owner.transpose(np.argsort(np.negative(owner.strides), kind="stable")).reshape(-1)


def _window(view: Array, start: int, memory: Array) -> Array:
    """The array that lies in ``memory`` as ``view`` lies in the memory that starts at address ``start``."""
    offset = _address(view) - start
    if view.size == 0:
        return view.copy()
    if view.dtype.hasobject:
        twin: Array = np.lib.stride_tricks.as_strided(memory[offset // memory.itemsize :], view.shape, view.strides)
    else:
        twin = np.ndarray(view.shape, view.dtype, memory.data, offset, view.strides)
    if not view.flags.writeable:
        twin.flags.writeable = False
    return twin
