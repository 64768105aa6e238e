"""The state of whatever goes on between calls, as nested plain values: the common language of ``state_dict()``.

Everything that holds state offers ``state_dict() -> StateDict`` and ``load_state_dict(state)``. A state holds tensors,
numpy arrays, :class:`Ring`, and the plain values of JSON, in dictionaries with text keys and lists. Nothing in it is an
object of a class of ours, so it can be written without pickle (:mod:`mbrl_wrappers.storage.state_file`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

StateDict = dict[str, Any]
"""Nested: Tensor, ndarray, Ring, bool, int, float, str, None, list of these, dict of these with text keys."""


class Stateful(Protocol):
    """What a run checkpoint can keep."""

    def state_dict(self) -> StateDict:
        """The state as nested plain values; a copy, or arrays that are not changed before it is written."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: if it is the state of something else; nothing is changed then.
        """
        ...


class Ring(NamedTuple):
    """The filled slots of a ring buffer, of which only those written since the last checkpoint are written again.

    Attributes:
        columns: arrays by name, the first axis of each the slots filled so far.
        written: slots written in the ring's whole life, overwritten ones included; the next goes to
            ``written % capacity``.
        capacity: slots of the full ring.
    """

    columns: Mapping[str, NDArray[Any]]
    written: int
    capacity: int

    @property
    def filled(self) -> int:
        """Slots that hold a row."""
        return min(self.written, self.capacity)


def require_keys(state: Mapping[str, Any], keys: Iterable[str], owner: str) -> None:
    """Check that ``state`` has exactly these keys.

    Raises:
        ValueError: if one is missing or unknown.
    """
    wanted, found = set(keys), set(state)
    if wanted != found:
        parts = [f"lacks {', '.join(sorted(wanted - found))}"] if wanted - found else []
        parts += [f"has the unknown {', '.join(sorted(found - wanted))}"] if found - wanted else []
        raise ValueError(f"This is no state of {owner}: it {' and '.join(parts)}.")
