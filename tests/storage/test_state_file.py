"""States as files: every kind of value comes back as it was, and what is none of them is named with its place."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.seeding import (
    global_streams_state,
    numpy_stream_state,
    set_global_streams_state,
    set_numpy_stream_state,
    set_torch_stream_state,
    torch_stream_state,
)
from mbrl_wrappers.states import Ring, require_keys
from mbrl_wrappers.storage.checkpoint import CheckpointError
from mbrl_wrappers.storage.file_format import write
from mbrl_wrappers.storage.state_file import KIND, read_state, write_state

STATE = {
    "weights": {"layer/0": th.arange(6.0).reshape(2, 3), "empty": th.zeros(0, 3), "scalar": th.tensor(2.5)},
    "arrays": [np.arange(4, dtype=np.uint8), np.array(True), np.array([[1.5, np.nan]])],
    "numbers": {"big": 2**127 + 1, "small": -3, "half": 0.1, "inf": math.inf, "nan": -math.inf, "yes": True},
    "text": "ü",
    "nothing": None,
    "map": {"tensor": "a text under a name that the format uses", "map": {}},
    "list": [],
}


def ordered(value: Any) -> Any:
    """``value`` with the keys of its dictionaries sorted, as a file has them."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(item) for item in value] if isinstance(value, list) else value


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_state(path, STATE, about={"step": 3})
    state, about, manifest = read_state(path)
    assert state.keys() == STATE.keys()
    assert comparable(ordered(state)) == comparable(ordered(STATE))
    assert about == {"step": 3}
    assert manifest.kind == KIND
    assert type(state["numbers"]["yes"]) is bool


def test_a_written_state_does_not_change_with_its_owner(tmp_path: Path) -> None:
    rows = np.arange(3.0)
    write_state(tmp_path / "state.safetensors", {"rows": rows})
    rows[:] = 7
    assert read_state(tmp_path / "state.safetensors")[0]["rows"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ((1, 2), "tuple"),
        (np.float32(1), "float32"),
        (np.array(["a"]), "array of <U1"),
        (Ring({}, 0, 1), "Ring"),
        (Path(), "Path"),
    ],
)
def test_other_values_are_refused_with_their_place(tmp_path: Path, value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"/outer/0/inner is of type \w*{kind}"):
        write_state(tmp_path / "state.safetensors", {"outer": [{"inner": value}]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "skeleton",
    [
        {"pickle": "x"},
        {"map": 3},
        {"map": {"a": {"tensor": "missing"}}},
        {"float": "1"},
        {"map": {}, "tensor": "a"},
        [1],
        {"map": {"a": {"array": ["unhashable"]}}},
    ],
)
def test_a_file_that_describes_no_state_is_refused(tmp_path: Path, skeleton: Any) -> None:
    write(tmp_path / "state.safetensors", KIND, {"about": {}, "state": skeleton}, {"a": th.zeros(1)})
    with pytest.raises(CheckpointError, match="not those of a state"):
        read_state(tmp_path / "state.safetensors")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    skeleton: Any = {"map": {}}
    for _ in range(80):
        skeleton = {"map": {"a": skeleton}}
    write(tmp_path / "state.safetensors", KIND, {"about": {}, "state": skeleton}, {})
    with pytest.raises(CheckpointError, match="nested"):
        read_state(tmp_path / "state.safetensors")


def test_a_model_file_is_no_state(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", "ensemble", {}, {})
    with pytest.raises(CheckpointError, match="no state"):
        read_state(tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_numpy_streams_go_on_where_they_were(tmp_path: Path, kind: Any) -> None:
    stream = np.random.Generator(kind(3))
    stream.integers(10, size=3, dtype=np.uint32)  # half of a 64-bit draw is kept for the next
    write_state(tmp_path / "state.safetensors", numpy_stream_state(stream))
    expected = stream.integers(1000, size=5, dtype=np.uint32).tolist(), stream.normal()
    other = np.random.Generator(kind(4))
    set_numpy_stream_state(other, read_state(tmp_path / "state.safetensors")[0])
    assert (other.integers(1000, size=5, dtype=np.uint32).tolist(), other.normal()) == expected


def test_legacy_numpy_and_torch_streams_go_on(tmp_path: Path) -> None:
    legacy, torch = np.random.RandomState(1), th.Generator().manual_seed(1)
    legacy.normal(), th.randn(3, generator=torch)
    write_state(
        tmp_path / "state.safetensors", {"legacy": numpy_stream_state(legacy), "torch": torch_stream_state(torch)}
    )
    expected = legacy.normal(), th.randn(3, generator=torch).tolist()
    state = read_state(tmp_path / "state.safetensors")[0]
    others = np.random.RandomState(2), th.Generator()
    set_numpy_stream_state(others[0], state["legacy"])
    set_torch_stream_state(others[1], state["torch"])
    assert (others[0].normal(), th.randn(3, generator=others[1]).tolist()) == expected


def test_the_global_streams_go_on_where_they_were(tmp_path: Path) -> None:
    before = global_streams_state()
    try:
        random.gauss(0, 1)
        write_state(tmp_path / "state.safetensors", global_streams_state())
        expected = random.gauss(0, 1), np.random.normal(), th.rand(2).tolist()  # noqa: NPY002
        set_global_streams_state(read_state(tmp_path / "state.safetensors")[0])
        assert (random.gauss(0, 1), np.random.normal(), th.rand(2).tolist()) == expected  # noqa: NPY002
    finally:
        set_global_streams_state(before)


def test_a_stream_of_another_kind_is_refused() -> None:
    state = numpy_stream_state(np.random.Generator(np.random.Philox(1)))
    with pytest.raises(ValueError, match="no state of the random stream"):
        set_numpy_stream_state(np.random.default_rng(0), state)
    with pytest.raises(ValueError, match="no state of a torch generator"):
        set_torch_stream_state(th.Generator(), th.zeros(3))
    with pytest.raises(ValueError, match="global random streams"):
        set_global_streams_state({"python": {}})


def test_keys_that_are_missing_or_unknown_are_named() -> None:
    require_keys({"a": 1}, ["a"], "a thing")
    with pytest.raises(ValueError, match="no state of a thing: it lacks b and has the unknown c"):
        require_keys({"a": 1, "c": 2}, ["a", "b"], "a thing")


def test_a_ring_knows_how_many_slots_it_fills() -> None:
    assert Ring({}, 3, 5).filled == 3
    assert Ring({}, 8, 5).filled == 5
