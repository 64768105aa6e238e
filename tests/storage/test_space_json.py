"""Spaces survive a round trip through JSON, bit for bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from mbrl_wrappers.storage.space_json import space_from_json, space_to_json


def _odd_bounds(dtype: Any) -> spaces.Box:
    low = np.array([-np.inf, -0.0, np.finfo(dtype).tiny, -1 / 3], dtype=dtype)
    high = np.array([np.inf, 0.0, 0.1, np.finfo(dtype).max], dtype=dtype)
    return spaces.Box(low, high, dtype=dtype)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,), np.float32),
        spaces.Box(-np.inf, np.inf, (17,), np.float64),
        spaces.Box(np.float32(0.1), np.inf, (2, 3), np.float32),
        spaces.Box(0, 255, (4, 4, 3), np.uint8),
        spaces.Box(0, 2**63 - 2, (1,), np.int64),
        spaces.Box(-np.inf, np.inf, (2,), np.int32),
        spaces.Box(0.0, 1.0, (), np.float32),
        spaces.Box(np.array([0.0, -0.0]), np.ones(2), dtype=np.float64),
        _odd_bounds(np.float16),
        _odd_bounds(np.float32),
        _odd_bounds(np.float64),
    ],
    ids=repr,
)
def test_box_round_trips_exactly(space: spaces.Box) -> None:
    text = json.dumps(space_to_json(space), allow_nan=False)
    restored = space_from_json(json.loads(text))
    assert isinstance(restored, spaces.Box)
    assert restored == space
    assert restored.dtype == space.dtype
    assert restored.low.tobytes() == space.low.tobytes()
    assert restored.high.tobytes() == space.high.tobytes()
    np.testing.assert_array_equal(restored.bounded_below, space.bounded_below)
    np.testing.assert_array_equal(restored.bounded_above, space.bounded_above)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.Discrete(3, start=-7),
        spaces.Discrete(2, start=5),
        spaces.Discrete(4, start=2**63 - 4),
        spaces.Discrete(127, start=-128, dtype=np.int8),
    ],
)
def test_discrete_round_trips(space: spaces.Discrete) -> None:
    restored = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert restored == space
    assert restored.dtype == space.dtype


def test_equal_bounds_are_written_once() -> None:
    described = space_to_json(spaces.Box(-1, 1, (1000, 1000), np.float32))
    assert described["low"] == -1.0
    assert len(json.dumps(described)) < 100


def test_other_spaces_are_refused() -> None:
    for space in (spaces.MultiBinary(3), spaces.MultiDiscrete([2, 2]), spaces.Box(-1, 1, (2,), np.longdouble)):
        with pytest.raises(TypeError, match="only Discrete and Box"):
            space_to_json(space)


_BOX = space_to_json(spaces.Box(-1, 1, (2,), np.float32))


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"type": "Tuple", "dtype": "float32"},
        {**_BOX, "shape": [10**9, 10**9]},  # must be refused before memory is taken
        {**_BOX, "shape": [-1]},
        {**_BOX, "shape": [1.5]},
        {**_BOX, "low": [0, 0, 0]},
        {**_BOX, "low": "zero"},
        {**_BOX, "low": 2},
        {**_BOX, "dtype": "no such dtype"},
        {**_BOX, "dtype": "float128"},
        {**_BOX, "dtype": "bool"},
        {**_BOX, "dtype": ["float32"]},
        {**_BOX, "dtype": None},
        {**_BOX, "shape": [True]},
        {**_BOX, "shape": None},
        {**_BOX, "shape": 2},
        {**_BOX, "shape": "2"},
        {**_BOX, "low": "inf"},
        {**_BOX, "high": "-inf"},
        {**_BOX, "low": True},
        {**_BOX, "low": None},
        {**_BOX, "low": [0.0, None]},
        {**_BOX, "low": float("nan")},
        {**_BOX, "high": float("inf")},
        {**_BOX, "high": 1e300},  # infinite in float32
        {**_BOX, "high": 10**400},
        {**_BOX, "high": 0.1},  # no number of float32
        {**_BOX, "low": 0, "high": 2.5, "dtype": "int32"},
        {**_BOX, "low": -1, "high": 2, "dtype": "uint8"},
        {**_BOX, "low": 0, "high": 256, "dtype": "uint8"},
        {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": "4", "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": True, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": 4.0, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": -4, "start": 0, "dtype": "int64"},
        {"type": "Discrete", "n": 4, "start": 0.5, "dtype": "int64"},
        {"type": "Discrete", "n": 4, "start": True, "dtype": "int64"},
        {"type": "Discrete", "n": 4, "start": 2**63 - 3, "dtype": "int64"},
        {"type": "Discrete", "n": 4, "start": -1, "dtype": "uint8"},
        {"type": "Discrete", "n": 128, "start": -100, "dtype": "int8"},
        {"type": "Discrete", "n": 4, "start": 0, "dtype": "float32"},
        {"type": "MultiDiscrete", "nvec": [10**12], "start": [0], "dtype": "int64"},
    ],
)
def test_wrong_descriptions_are_value_errors(described: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        space_from_json(described)
