"""Nested values that compare with ``==``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch as th

from mbrl_wrappers.comparable import comparable


@dataclass
class Point:
    x: Any


SAME = [
    lambda: np.arange(2000.0),
    lambda: {"a": [np.zeros(3), (1, "b")], "nan": float("nan")},
    lambda: Point(np.array([1.0, np.nan])),
    lambda: th.arange(3),
    lambda: np.random.default_rng(0).bit_generator.state,
    lambda: np.array([np.zeros(2), None], object),
]
DIFFERENT = [
    (np.zeros(3), np.zeros(3, np.float32)),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    (np.arange(2000.0), np.append(np.arange(1999.0), -1)),
    ([1, 2], (1, 2)),
    ({"a": np.zeros(2)}, {"a": np.ones(2)}),
    (Point(1), Point(2)),
    (1.0, 1.0 + 1e-15),
    (np.random.default_rng(0).bit_generator.state, np.random.default_rng(1).bit_generator.state),
]


@pytest.mark.parametrize("make", SAME)
def test_equal_values_made_twice_compare_equal(make: Any) -> None:
    assert comparable(make()) == comparable(make())


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_differs_somewhere_compares_different(one: Any, other: Any) -> None:
    assert comparable(one) != comparable(other)
