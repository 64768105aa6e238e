"""A buffer that the machine can never hold is refused before it is made, and one that it may not hold is named."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from mbrl_wrappers import TransitionStore, available_memory
from mbrl_wrappers.available_memory import Memory, check_memory, memory
from sb3_ext import MixedReplayBuffer
from tests.memory import MEBIBYTE

BOX = spaces.Box(-1, 1, (100,), np.float64)
ROW_BYTES = 2 * 8 * 100 + 4 * 100


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with 1000 KiB of memory, of which 500 are free, and no container."""
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 500 kB\nHugePages_Total: 0\n")
    monkeypatch.setattr(available_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(available_memory, "_GROUPS", ((tmp_path / "max", tmp_path / "current"),))
    return tmp_path


def test_the_memory_of_this_machine_is_known() -> None:
    found = memory()
    assert found is not None
    assert 64 * MEBIBYTE < found.available <= found.total


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        (None, "", Memory(1_024_000, 512_000)),
        ("max", "5", Memory(1_024_000, 512_000)),
        ("300000", "100000", Memory(300_000, 200_000)),
        ("9000000", "8900000", Memory(1_024_000, 100_000)),
    ],
)
def test_a_container_has_what_it_is_given(machine: Path, limit: str | None, used: str, expected: Memory) -> None:
    if limit is not None:
        (machine / "max").write_text(limit)
        (machine / "current").write_text(used)
    assert memory() == expected


def test_a_system_that_does_not_say_refuses_nothing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "meminfo").write_text("nonsense")
    monkeypatch.delattr(available_memory.os, "sysconf")
    assert memory() is None
    check_memory(2**60, "A buffer", "lower it")


def test_more_than_there_is_is_refused_and_more_than_is_free_named(machine: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_memory(512_000, "A buffer", "lower it")
    with pytest.warns(UserWarning, match="A buffer takes 0.0 GiB when it is full, and .* free: .* lower it"):
        check_memory(512_001, "A buffer", "lower it")
    with pytest.raises(ValueError, match=r"this machine has 0\.0 GiB of memory in all: lower it\."):
        check_memory(1_024_001, "A buffer", "lower it")


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda rows: TransitionStore(rows, BOX, BOX), 1_024_000 // (ROW_BYTES + 6)),
        (lambda rows: MixedReplayBuffer(rows, BOX, BOX), 1_024_000 // (ROW_BYTES + 12)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*of memory are free", "ignore:This system does not have apparently enough memory")
def test_buffers_ask_before_they_are_made(machine: Path, make: Any, most: int) -> None:
    """The estimate is the bytes that the arrays have."""
    made = make(most)
    arrays = [array for array in vars(made).values() if isinstance(array, np.ndarray)]
    assert 0.99 * 1_024_000 < sum(array.nbytes for array in arrays) <= 1_024_000
    with pytest.raises(ValueError, match=rf"of {most + 1:,} transitions takes .*: lower (its capacity|buffer_size)"):
        make(most + 1)


def test_a_buffer_of_terabytes_is_refused_here_and_now() -> None:
    """What would be made without an error, and end the process when it is full."""
    for make in (lambda: TransitionStore(10**10, BOX, BOX), lambda: MixedReplayBuffer(10**10, BOX, BOX)):
        with pytest.raises(ValueError, match=r"of 10,000,000,000 transitions takes 1[89],\d\d\d\.\d GiB"):
            make()
