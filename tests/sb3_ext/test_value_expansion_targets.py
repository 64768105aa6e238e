"""Targets of MVE and STEVE against sums done by hand and against the real environment."""

from __future__ import annotations

import pytest
import torch as th
from torch import Tensor

from mbrl_wrappers.unroll import Unrolled
from sb3_ext.agents.value_expansion_targets import ExpandedValues, mve, not_imagined, steve

DISCOUNT = 0.5


def imagined(rewards: list[list[float]], *, log_prob: list[list[float]] | None = None) -> Unrolled:
    """Rows on a line that all survive: ``obs`` counts the steps, ``action`` is ten times that."""
    reward = th.tensor(rewards)  # (H, B)
    steps, rows = reward.shape
    count = th.arange(steps + 1.0)[:, None, None].expand(-1, rows, 1)
    alive = th.ones(steps + 1, rows, dtype=th.bool)
    logs = None if log_prob is None else th.tensor(log_prob)
    return Unrolled(count, 10 * count[:-1], reward, alive, th.zeros(steps, rows, dtype=th.bool), logs)


def test_mve_sums_rewards_and_ends_in_the_value() -> None:
    found = mve(imagined([[1.0], [2.0]]), th.tensor([[9.0], [9.0], [8.0]]), discount=0.5, alpha=0.0, every_step=True)
    assert found.value.tolist() == [1 + 0.5 * 2 + 0.25 * 8]
    assert found.rows.obs.flatten().tolist() == [0, 1]
    assert found.rows.action.flatten().tolist() == [0, 10]
    assert found.rows.target.tolist() == [4.0, 2 + 0.5 * 8]
    assert float(found.steps) == 2


def test_the_value_of_an_imagined_action_counts_the_entropy_of_later_actions_only() -> None:
    unrolled = imagined([[1.0], [2.0]], log_prob=[[-1.0], [-3.0]])
    found = mve(unrolled, th.tensor([[9.0], [9.0], [8.0]]), discount=0.5, alpha=2.0, every_step=True)
    second = 2 + 0.5 * 8  # of the action; the state's value adds its entropy, 2 * 3
    first = 1 + 0.5 * (second + 6)
    assert found.rows.target.tolist() == [first, second]
    assert found.value.tolist() == [first + 2]


def ended(unrolled: Unrolled, *, terminated: bool) -> Unrolled:
    """``unrolled`` of two steps whose second one terminates, or is refused."""
    alive, ends = unrolled.alive.clone(), unrolled.terminated.clone()
    alive[2], ends[1] = False, terminated
    reward = unrolled.reward if terminated else unrolled.reward * th.tensor([[1.0], [0.0]])
    return unrolled._replace(alive=alive, terminated=ends, reward=reward)


def test_a_termination_has_no_value_after_it_and_a_refused_step_never_took_place() -> None:
    values = th.tensor([[9.0], [6.0], [th.nan]])
    over = mve(ended(imagined([[1.0], [2.0]]), terminated=True), values, discount=0.5, alpha=0.0, every_step=True)
    assert over.value.tolist() == [1 + 0.5 * 2]
    assert over.rows.target.tolist() == [2.0, 2.0]
    assert float(over.refused) == 0
    refused = mve(ended(imagined([[1.0], [2.0]]), terminated=False), values, discount=0.5, alpha=0.0, every_step=True)
    assert refused.value.tolist() == [1 + 0.5 * 6]
    assert refused.rows.target.tolist() == [4.0]
    assert (float(refused.steps), float(refused.refused)) == (1, 1)


def two_members_two_critics(values: Tensor) -> ExpandedValues:
    """One start, one imagined step that members 0 and 1 reward by 1 and 3."""
    return steve(imagined([[1.0, 3.0]]), values, members=2, discount=DISCOUNT, alpha=0.0)


def test_the_weights_of_steve_for_two_horizons() -> None:
    # At the start the critics say 4 and 6, behind the step of member 0 they say 2 and 4, and behind that of member 1 6.
    values = th.tensor([[[4.0, 4.0], [2.0, 6.0]], [[6.0, 6.0], [4.0, 6.0]]])
    found = two_members_two_critics(values)
    # Candidates without a step: 4, 4, 6, 6, of variance 1. With one: 2, 3, 6, 6, of mean 17 / 4 and variance
    # (81 + 25 + 49 + 49) / 64 = 3.1875.
    share = (1 / 1.00000001) / (1 / 1.00000001 + 1 / 3.18750001)
    assert found.weights[:, 0].tolist() == pytest.approx([share, 1 - share], rel=1e-6)
    # The smallest critic says 4 at the start; after a step 1 + 1 and 3 + 3, of mean 4.
    assert float(found.value) == pytest.approx(share * 4 + (1 - share) * 4, rel=1e-6)
    # Another scale of the second critic moves both weight and value.
    other = two_members_two_critics(values + th.tensor([0.0, 2.0])[:, None, None])
    assert other.weights[0, 0] < found.weights[0, 0]


def test_steve_follows_the_candidates_that_agree() -> None:
    values = th.tensor([[[0.0, 0.0], [4.0, 0.0]], [[9.0, 9.0], [4.0, 0.0]]])
    found = two_members_two_critics(values)  # each member and critic says 3 with a step
    assert found.weights[:, 0].tolist() == pytest.approx([0, 1], abs=1e-6)
    assert float(found.value) == pytest.approx(3)


def test_members_of_one_start_stand_side_by_side() -> None:
    unrolled = imagined([[1.0, 1.0, 7.0, 7.0]])
    values = th.zeros(2, 2, 4)
    values[1, 0] = 1000  # no use without the step
    assert steve(unrolled, values, members=2, discount=0.5, alpha=0.0).value.tolist() == pytest.approx([1, 7], abs=1e-3)


def test_without_steps_both_return_the_values_to_the_last_bit() -> None:
    values = th.rand(3, 1, 7, generator=th.Generator().manual_seed(0)) * 100
    nothing = not_imagined(th.zeros(7, 2), 1)
    smallest = values.amin(0)[0]
    assert th.equal(mve(nothing, values.amin(0), discount=0.9, alpha=0.0, every_step=True).value, smallest)
    assert th.equal(steve(nothing, values, members=1, discount=0.9, alpha=0.0).value, smallest)
    sevenfold = not_imagined(th.zeros(49, 2), 1)
    repeated = values.repeat_interleave(7, 2)
    assert th.equal(steve(sevenfold, repeated, members=7, discount=0.9, alpha=0.0).value, smallest)
