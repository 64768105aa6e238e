"""Tests of what a plan leaves to the next one: shifting, filling up, replacing rows."""

from __future__ import annotations

import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers import WarmStart
from tests.controllers.linear import linear_problem
from tests.controllers.shooting.test_distributions import problem_of

LOPSIDED = spaces.Box(-1.0, 3.0, (1,))


def ramp(rows: int, count: int, length: int) -> th.Tensor:
    """Sequences whose entries are 1, 2, 3, ... along time, plus tenths per sequence."""
    return (1 + th.arange(length) + 0.1 * th.arange(rows * count)[:, None]).view(rows, count, length, 1)


def start_of(rows: int = 2, length: int = 4) -> WarmStart:
    return WarmStart(
        ramp(rows, 1, length)[:, 0], th.ones(rows, dtype=th.bool), ramp(rows, 3, length), ramp(rows, 2, length)
    )


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 6), steps=st.integers(0, 8))
def test_shifting_drops_what_was_executed_and_fills_up_with_the_middle(length: int, steps: int) -> None:
    start = start_of(length=length)
    shifted = start.shifted(steps, problem_of(LOPSIDED, length))
    for before, after in zip(
        (start.actions[:, None], start.elites, start.proposals),
        (shifted.actions[:, None], shifted.elites, shifted.proposals),
        strict=True,
    ):
        assert before is not None
        assert after is not None
        left = max(0, length - steps)
        assert after.shape == before.shape
        assert after[:, :, :left].equal(before[:, :, steps:])
        assert (after[:, :, left:] == 0).all(), "the middle of any bounded range is model action 0"


def test_the_middle_of_a_half_bounded_range_is_not_zero() -> None:
    problem = problem_of(spaces.Box(2.0, float("inf"), (1,)), 3)
    assert start_of(1, 3).shifted(2, problem).actions.flatten().tolist() == [3, 2, 2]


def test_one_hot_rows_are_filled_up_with_the_last() -> None:
    problem = problem_of(spaces.Discrete(3), 3)
    actions = th.eye(3)[None]
    start = WarmStart(actions, th.ones(1, dtype=th.bool))
    assert start.shifted(2, problem).actions[0].argmax(-1).tolist() == [2, 2, 2]
    assert start.shifted(3, problem).actions[0].argmax(-1).tolist() == [2, 2, 2]
    assert start.extended(5, problem).actions[0].argmax(-1).tolist() == [0, 1, 2, 2, 2]


def test_cutting_and_extending() -> None:
    problem = linear_problem(4)
    start = start_of()
    assert start.cut(2).actions.equal(start.actions[:, :2])
    back = start.cut(2).extended(4, problem)
    assert back.actions[0].flatten().tolist() == [1, 2, 0, 0]
    assert start.extended(2, problem).actions.equal(start.actions), "nothing is ever cut off by extending"
    assert back.elites is not None
    assert back.elites.shape == (2, 3, 4, 1)


def test_firsts_are_warm_start_elites_and_proposals_in_this_order() -> None:
    start = start_of(rows=1)
    firsts = start.firsts()
    assert firsts.shape == (1, 6, 4, 1)
    assert firsts[0, :, 0, 0].tolist() == pytest.approx([1, 1, 1.1, 1.2, 1, 1.1])
    assert start._replace(elites=None, proposals=None).firsts().equal(start.actions[:, None])


@pytest.mark.parametrize("had_elites", [True, False])
def test_only_the_replaced_rows_change(had_elites: bool) -> None:
    start = start_of(rows=3)._replace(known=th.tensor([True, False, False]))
    if not had_elites:
        start = start._replace(elites=None)
    new = WarmStart(-ramp(1, 1, 4)[:, 0], th.tensor([True]), -ramp(1, 3, 4))
    got = start.replaced(th.tensor([1]), new)
    assert got.known.tolist() == [True, True, False]
    assert got.actions[1].equal(new.actions[0])
    assert got.actions[[0, 2]].equal(start.actions[[0, 2]])
    assert got.elites is not None
    assert got.elites[1].equal(new.elites[0])  # type: ignore[index]
    wanted = start.elites if had_elites else start.actions[:, None].expand(-1, 3, -1, -1)
    assert got.elites[[0, 2]].equal(wanted[[0, 2]])  # type: ignore[index]
    assert start.actions.equal(ramp(3, 1, 4)[:, 0]), "a warm start is never changed in place"


@pytest.mark.parametrize("count", [2, 4])
def test_rows_that_stay_give_their_sequence_in_place_of_elites_of_another_number(count: int) -> None:
    start = start_of(rows=2)  # with three elites
    new = WarmStart(-ramp(1, 1, 4)[:, 0], th.tensor([True]), -ramp(1, count, 4))
    got = start.replaced(th.tensor([1]), new).elites
    assert got is not None
    assert got[0].equal(start.actions[:1].expand(count, -1, -1))
    assert got[1].equal(new.elites[0])  # type: ignore[index]
