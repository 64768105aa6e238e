from __future__ import annotations

from typing import NamedTuple

import pytest
import torch as th

from mbrl_wrappers.objects import Objects
from mbrl_wrappers.rows import map_tensors, num_rows, put_rows, take_rows


class Inner(NamedTuple):
    names: Objects[str]


class State(NamedTuple):
    inner: Inner
    values: th.Tensor


def make(names: str) -> State:
    return State(Inner(Objects(names)), th.arange(len(names)) * 10)


def shown(state: State) -> tuple[str, list[int]]:
    return "".join(state.inner.names), state.values.tolist()


@pytest.mark.parametrize("index", [th.tensor([2, 0, 0]), th.tensor([True, False, True])])
def test_rows_of_objects_are_taken_like_those_of_tensors(index):
    names, values = shown(take_rows(make("abc"), index))
    assert names == "".join("abc"[value // 10] for value in values)
    assert len(values) == len(names) == (3 if index.dtype == th.int64 else 2)


def test_objects_are_shared_and_not_copied():
    thing = object()
    rows = take_rows(Inner(Objects([thing])), th.zeros(3, dtype=th.int64))  # type: ignore[list-item]
    assert [row is thing for row in rows.names] == [True] * 3


def test_any_function_that_moves_rows_moves_objects():
    assert shown(map_tensors(lambda t: t.repeat_interleave(2, 0), make("ab"))) == ("aabb", [0, 0, 10, 10])
    assert shown(map_tensors(lambda *t: th.cat(t), make("ab"), make("xyz"))) == ("abxyz", [0, 10, 0, 10, 20])


@pytest.mark.parametrize("index", [th.tensor([2, 0]), th.tensor([True, False, True])])
def test_put_rows_replaces_those_rows_and_leaves_the_state_as_it_was(index):
    before, rows = make("abc"), make("xy")
    after = put_rows(before, index, rows)
    assert shown(after) == (("ybx", [10, 10, 0]) if index.dtype == th.int64 else ("xby", [0, 10, 10]))
    assert shown(before) == ("abc", [0, 10, 20])


def test_objects_that_no_row_holds_any_more_are_let_go():
    state = make("abc")
    for name in "defgh":
        state = put_rows(state, th.tensor([0]), make(name))
    assert shown(state)[0] == "hbc"
    assert len(state.inner.names._table) == 3


def test_rows_are_counted_by_objects_too():
    assert num_rows(make("abcd")) == 4
    assert num_rows(th.zeros(2, 5)) == 2
