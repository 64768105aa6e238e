"""The ring of states keeps the newest and draws from all of them."""

from __future__ import annotations

import pytest
import torch as th
from torch import Tensor

from sb3_ext.agents.state_ring import StateRing


def rows(first: int, count: int, dtype: th.dtype = th.float32) -> Tensor:
    return th.arange(first, first + count, dtype=dtype)[:, None]


def stored(ring: StateRing) -> set[float]:
    return set(ring.sample(400, generator=th.Generator().manual_seed(0)).flatten().tolist())


def test_the_oldest_are_replaced() -> None:
    ring = StateRing(5)
    ring.push(rows(0, 3))
    assert (len(ring), stored(ring)) == (3, {0, 1, 2})
    ring.push(rows(3, 4))  # around the end
    assert (len(ring), stored(ring)) == (5, {2, 3, 4, 5, 6})
    ring.push(rows(7, 1))
    assert stored(ring) == {3, 4, 5, 6, 7}


def test_of_more_than_fit_the_last_are_kept() -> None:
    ring = StateRing(3)
    ring.push(rows(0, 8))
    assert (len(ring), stored(ring)) == (3, {5, 6, 7})
    ring.push(rows(8, 1))
    assert stored(ring) == {6, 7, 8}


def test_another_precision_starts_anew() -> None:
    ring = StateRing(4)
    ring.push(rows(0, 4))
    ring.push(rows(10, 2, th.float64))
    assert stored(ring) == {10, 11}
    assert ring.sample(1, generator=th.Generator()).dtype == th.float64


def test_rows_are_copies() -> None:
    ring, given = StateRing(4), rows(0, 2)
    ring.push(given)
    given.fill_(9)
    assert stored(ring) == {0, 1}


def test_wrong_use_is_told() -> None:
    with pytest.raises(ValueError, match="capacity"):
        StateRing(0)
    with pytest.raises(ValueError, match="empty"):
        StateRing(2).sample(1, generator=th.Generator())
