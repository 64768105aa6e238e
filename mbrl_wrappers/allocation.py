"""A limit on the memory that a model may take while it is rebuilt from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch.overrides import TorchFunctionMode

SLACK_ELEMENTS = 2**26
COPIES = 8

_FACTORIES: frozenset[Callable[..., Any]] = frozenset(
    (th.empty, th.zeros, th.ones, th.full, th.rand, th.randn, th.randint, th.arange, th.eye, th.linspace)
)


@contextmanager
def allocation_limit(stored: int) -> Iterator[None]:
    """Refuse tensors far beyond the ``stored`` elements that a file holds, before their memory is taken.

    A configuration is a few characters and can ask for layers of terabytes. An honest model needs a few copies of
    its own tensors: one of initial weights, one that is loaded into them, perhaps one of the best so far.

    Raises:
        ValueError: inside the block, when the sum of all new tensors passes the limit.
    """
    with _Counting(COPIES * stored + SLACK_ELEMENTS):
        yield


class _Counting(TorchFunctionMode):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._taken = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            # On the meta device a tensor has a shape and no memory; generators and outputs have no place there.
            plain = {key: value for key, value in kwargs.items() if key not in ("generator", "out")}
            described = func(*args, **{**plain, "device": "meta"})
            self._taken += math.prod(described.shape)
            if self._taken > self._limit:
                raise ValueError(
                    f"The configuration in the file asks for more than {self._limit} tensor elements, "
                    "far beyond what the file holds: the file is corrupt or malicious."
                )
        return func(*args, **kwargs)
