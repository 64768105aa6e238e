"""A limit on the memory that a model may take while it is rebuilt from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import Tensor
from torch.overrides import TorchFunctionMode

SLACK_ELEMENTS = 2**22
SLACK_TENSORS = 1024
COPIES = 8

_FACTORIES: frozenset[Callable[..., Any]] = frozenset(
    (
        *(th.empty, th.zeros, th.ones, th.full, th.eye),
        *(th.rand, th.randn, th.randint, th.randperm),
        *(th.arange, th.linspace, th.logspace),
        *(Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full),
    )
)


def _eye(rows: int, columns: int | None = None, **options: Any) -> Tensor:
    return th.empty(rows, rows if columns is None else columns, **options)


# On the meta device these would import a compiler first, which takes seconds; others of the same shape do not.
_SAME_SHAPE: dict[Callable[..., Any], Callable[..., Any]] = {th.randn: th.rand, th.eye: _eye}


@contextmanager
def allocation_limit(elements: int, tensors: int) -> Iterator[None]:
    """Raise where the block makes far more tensors than a file contains, before their memory is taken.

    A configuration of a few characters can ask for terabytes in one layer, or for a million layers. A model needs a few
    copies of its own tensors: one of initial weights, one that is loaded into them, perhaps one of the best so far. It
    may also need some that are not stored: ``SLACK_ELEMENTS`` (16 MiB in float32) in ``SLACK_TENSORS``.

    Args:
        elements: of all tensors in the file together.
        tensors: how many there are.

    Raises:
        ValueError: inside the block, when the new tensors pass a limit.
    """
    with _Counting(COPIES * elements + SLACK_ELEMENTS, COPIES * tensors + SLACK_TENSORS):
        yield


class _Counting(TorchFunctionMode):
    def __init__(self, max_elements: int, max_tensors: int) -> None:
        super().__init__()
        self._max_elements, self._max_tensors = max_elements, max_tensors
        self._elements = self._tensors = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            # On the meta device a tensor has a shape and no memory; generators and outputs have no place there.
            plain = {key: value for key, value in kwargs.items() if key not in ("generator", "out")}
            described = _SAME_SHAPE.get(func, func)(*args, **{**plain, "device": "meta"})
            self._elements += math.prod(described.shape)
            self._tensors += 1
            if self._elements > self._max_elements or self._tensors > self._max_tensors:
                raise ValueError(
                    f"The configuration in the file asks for more than {self._max_elements} tensor elements or "
                    f"{self._max_tensors} tensors, far beyond what the file holds: the file is corrupt or malicious."
                )
        return func(*args, **kwargs)
