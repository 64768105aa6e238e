"""The fence around the global random streams."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch as th

from mbrl_wrappers.seeding import fenced_global_streams, global_stream_states


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(th.rand(()))  # noqa: NPY002


@pytest.mark.parametrize("seed", [3, None])
def test_streams_inside_begin_at_the_seed_or_where_they_are_and_go_on_outside_as_if_nothing_had_been(seed):
    before = global_stream_states()
    with fenced_global_streams(seed):
        inside = draws()
        assert global_stream_states() != before
    assert global_stream_states() == before
    with fenced_global_streams(seed):
        assert draws() == inside
    with fenced_global_streams(4):
        assert all(one != other for one, other in zip(draws(), inside, strict=True))
    outside = draws()
    assert (outside == inside) == (seed is None)


@pytest.mark.parametrize("which", range(3))
def test_a_draw_from_any_stream_changes_the_states(which):
    with fenced_global_streams(0):
        before = global_stream_states()
        (random.random, np.random.random, lambda: th.rand(()))[which]()
        assert global_stream_states() != before


def test_the_streams_are_restored_after_an_error():
    before = global_stream_states()
    with pytest.raises(ZeroDivisionError), fenced_global_streams(0):
        1 / (draws()[0] * 0)
    assert global_stream_states() == before
