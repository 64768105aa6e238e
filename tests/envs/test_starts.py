from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from mbrl_wrappers.envs import ModelVectorEnv, UniformStarts, start_sampler
from mbrl_wrappers.replay import TransitionStore
from tests.envs.paths import counting_model
from tests.oracle import OracleEnv

RNG = np.random.default_rng


def test_a_function_is_called_with_count_and_stream() -> None:
    sample = start_sampler(lambda n, rng: rng.normal(size=(n, 3)), 3)
    np.testing.assert_array_equal(sample(4, RNG(1)), RNG(1).normal(size=(4, 3)))


@pytest.mark.parametrize("kind", [np.asarray, th.as_tensor, np.ndarray.tolist])
def test_an_array_gives_its_own_rows_uniformly(kind) -> None:
    rows = np.arange(12.0).reshape(4, 3)
    drawn = start_sampler(kind(rows), 3)(4000, RNG(0))
    values, counts = np.unique(drawn[:, 0], return_counts=True)
    np.testing.assert_array_equal(values, rows[:, 0])
    assert counts.min() > 900
    np.testing.assert_array_equal(drawn[:, 1:], drawn[:, :1] + [1, 2])


def test_an_array_is_copied() -> None:
    rows = np.zeros((2, 3))
    sample = start_sampler(rows, 3)
    rows[:] = 7
    assert not sample(2, RNG(0)).any()


def test_a_buffer_hands_out_its_observations() -> None:
    env = OracleEnv()
    store = TransitionStore(10, env.observation_space, env.action_space)
    sample = start_sampler(store, 3)
    with pytest.raises(ValueError, match="empty"):
        sample(1, RNG(0))
    store.add(np.ones(3), np.zeros(2), 0.0, np.zeros(3), False, False)
    np.testing.assert_array_equal(sample(2, RNG(0)), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("starts", "error", "message"),
    [
        (np.zeros(3), ValueError, r"obs\[None\]"),
        (np.zeros((2, 4)), ValueError, r"\(n, 3\), got \(2, 4\)"),
        (np.zeros((0, 3)), ValueError, "empty"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), ValueError, "row 1, index 1 is nan"),
        (np.array([["a", "b", "c"]]), ValueError, "numbers"),
        ("starts.npy", TypeError, "function"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_unusable_starts_are_refused_at_once(starts, error, message) -> None:
    with pytest.raises(error, match=message):
        start_sampler(starts, 3)


def test_a_function_that_ignores_the_count_is_named() -> None:
    sample = start_sampler(lambda n, rng: np.zeros((5, 3)), 3)
    with pytest.raises(ValueError, match=r"starts function must give observations of shape \(2, 3\), got \(5, 3\)"):
        sample(2, RNG(0))


def test_a_box_is_filled_uniformly_between_its_edges() -> None:
    box = UniformStarts([-1, 2, 5], np.array([1.0, 4.0, 5.0]))
    drawn = start_sampler(box, 3)(40_000, RNG(0))
    assert drawn.shape == (40_000, 3)
    assert (drawn >= box.low).all()
    assert (drawn <= box.high).all()
    np.testing.assert_allclose(drawn.mean(0), [0, 3, 5], atol=0.02)
    np.testing.assert_allclose(drawn.std(0), [2 / 12**0.5, 2 / 12**0.5, 0], atol=0.01)
    np.testing.assert_array_equal(box(5, RNG(3)), box(5, RNG(3)))
    assert abs(np.corrcoef(drawn[:, :2].T)[0, 1]) < 0.02
    assert box == UniformStarts((-1.0, 2.0, 5.0), (1.0, 4.0, 5.0))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([0.0], [1.0, 2.0], "one number for each dimension"),
        ([], [], "one number for each dimension"),
        ([0.0, 1.0], [1.0, 0.5], "low at most high"),
        ([0.0], [np.inf], "finite"),
        ([np.nan], [1.0], "finite"),
        ([-1e39], [1e39], "finite"),
        (0.0, 1.0, "one number for each dimension"),
        (["a"], [1.0], "one number for each dimension"),
        ([[0.0]], [[1.0]], "one number for each dimension"),
    ],
)
def test_a_box_that_is_none_is_refused(low: Any, high: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniformStarts(low, high)


def test_a_box_of_another_size_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="2 dimensions and an observation 3"):
        start_sampler(UniformStarts([0, 0], [1, 1]), 3)


class Shelf:
    """Numbered observations; counts how often it is asked."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.calls = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def sample_observations(self, n: int, rng: np.random.Generator) -> np.ndarray:
        raise AssertionError("one row at a time")

    def observations_at(self, index: np.ndarray) -> np.ndarray:
        self.calls += 1
        return self.rows[index]


KINDS = {
    "array": lambda: np.arange(30.0).reshape(10, 3),
    "box": lambda: UniformStarts([0.0, -1.0, 5.0], [1.0, 1.0, 9.0]),
    "function": lambda: lambda n, rng: rng.normal(size=(n, 3)),
    "buffer": lambda: Shelf(np.arange(30.0).reshape(10, 3)),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_each_stream_gives_its_own_start_whoever_is_beside_it(make) -> None:
    sample = start_sampler(make(), 3)
    together = sample.each([RNG(seed) for seed in range(40)])
    assert together.shape == (40, 3)
    alone = [sample.each([RNG(seed)])[0] for seed in range(40)]
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(together[:, 0])) >= 8


@pytest.mark.parametrize("kind", ["array", "buffer"])
def test_each_row_is_as_likely_as_any_other(kind) -> None:
    drawn = start_sampler(KINDS[kind](), 3).each([RNG(seed) for seed in range(3000)])
    values, counts = np.unique(drawn[:, 0], return_counts=True)
    np.testing.assert_array_equal(values, np.arange(0.0, 30.0, 3.0))
    assert counts.min() > 230


def test_a_buffer_is_asked_once_for_all_rows_that_begin() -> None:
    shelf = Shelf(np.zeros((5, 1), np.float32))
    env = ModelVectorEnv(counting_model(), shelf, 50, horizon=1)
    env.reset(seed=0)
    env.step(np.zeros((50, 1)))
    assert shelf.calls == 2


def test_a_function_that_errs_for_one_row_is_named() -> None:
    sample = start_sampler(lambda n, rng: np.full((n, 3), rng.choice([0.0, np.nan])), 3)
    with pytest.raises(ValueError, match="starts function gave a non-finite observation"):
        sample.each([RNG(seed) for seed in range(20)])
    with pytest.raises(ValueError, match=r"shape \(1, 3\), got \(2, 3\)"):
        start_sampler(lambda n, rng: np.zeros((2, 3)), 3).each([RNG(0), RNG(1)])
