"""Cells of a Box: numbers, edges, refusals."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from mbrl_wrappers.tasks import TabularObservation
from tests.oracle import OracleEnv


def mountain(**arguments: Any) -> TabularObservation:
    return TabularObservation(gymnasium.make("MountainCar-v0"), **arguments)


def test_cells_are_numbered_row_major() -> None:
    env = mountain(bins=[3, 2], low=[0.0, 0.0], high=[3.0, 2.0])
    assert env.observation_space == spaces.Discrete(6)
    points = np.array([[0.5, 0.5], [0.5, 1.5], [1.5, 0.5], [2.5, 1.5], [1.0, 1.0]])
    assert env.cells(points).tolist() == [0, 1, 2, 5, 3]  # an edge belongs to the bin above
    assert env.cells(np.array([[-9.0, 9.0], [9.0, -9.0]])).tolist() == [1, 4]  # outside counts as outermost


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version:UserWarning")
def test_bounds_of_the_space_are_the_default() -> None:
    env = mountain(bins=4)
    np.testing.assert_allclose(env.edges[0], [-0.75, -0.3, 0.15], atol=1e-6)
    check_env(env, skip_render_check=True)
    obs, _ = env.reset(seed=0)
    assert obs == env.cells(env.unwrapped.state[None])[0]  # type: ignore[attr-defined]


def test_bins_by_data_hold_equally_many() -> None:
    data = np.random.default_rng(0).exponential(size=(1000, 2))
    env = mountain(bins=[4, 5], data=data)
    assert np.bincount(env.cells(data)).sum() == 1000
    assert np.bincount(np.searchsorted(env.edges[0], data[:, 0], "right")).tolist() == [250] * 4
    flat = np.column_stack([np.zeros(9), np.arange(9.0)])
    assert mountain(bins=[4, 3], data=flat).shape == (2, 3)  # one repeated value has one edge


def test_one_bin_leaves_a_dimension_out() -> None:
    env = TabularObservation(gymnasium.make("CartPole-v1"), [1, 1, 6, 6], low=[-1, -1, -0.2, -2], high=[1, 1, 0.2, 2])
    assert env.observation_space == spaces.Discrete(36)
    assert env.cells(np.array([[-9.0, 5.0, 0.0, 0.0], [9.0, 5.0, 0.0, 0.0]])).tolist() == [21, 21]


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        ("CartPole-v1", {"bins": 4}, "pass finite low and high"),
        ("MountainCar-v0", {"bins": [4]}, "one for each of the 2 dimensions"),
        ("MountainCar-v0", {"bins": 0}, "bins must be an integer of at least 1"),
        ("MountainCar-v0", {"low": 1, "high": 0}, "must be below high"),
        ("MountainCar-v0", {"bins": 10_000}, "use fewer"),
        ("MountainCar-v0", {"data": np.zeros((3, 5))}, r"shape \(B, 2\)"),
        ("MountainCar-v0", {"data": np.zeros((3, 2)), "low": 0}, "not both"),
    ],
)
def test_what_cannot_be_cut_is_refused(make: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TabularObservation(gymnasium.make(make), **arguments)


def test_unbounded_and_numbered_observations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bounds \[-inf, inf\]"):
        TabularObservation(OracleEnv())
    with pytest.raises(TypeError, match="one-dimensional float Box"):
        TabularObservation(gymnasium.make("FrozenLake-v1"))


def test_nan_has_no_cell() -> None:
    """Sorted behind everything, it was numbered as the topmost bin."""
    env = mountain(bins=10)
    with pytest.raises(ValueError, match="NaN in dimension 0"):
        env.observation(np.array([np.nan, 0.0], np.float32))
    with pytest.raises(ValueError, match="Observation 2 has NaN in dimension 1"):
        env.cells(np.array([[0.0, 0.0], [0.1, 0.0], [0.1, np.nan]]))
    assert env.cells(np.array([[np.inf, 0.0], [-np.inf, 0.0]])).tolist() == [95, 5]
