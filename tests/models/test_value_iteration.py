"""Value iteration on decision processes made by hand: closed forms, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from mbrl_wrappers.models.value_iteration import TabularMDP, backward_induction, policy_value, value_iteration


def two_states(**changes: Any) -> TabularMDP:
    """Action 0 of either state stays and pays 1, 2; action 1 pays 0 and goes on to the other with probability 0.5."""
    stay_or_go = csr_array(np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 1.0], [0.5, 0.0]]))
    reward = np.array([[1.0, 0.0], [2.0, 0.0]])
    return TabularMDP(stay_or_go, reward, np.ones((2, 2), np.bool_), 1, 5)._replace(**changes)


def test_values_are_the_geometric_sums() -> None:
    solution = value_iteration(two_states(), 0.5, tolerance=1e-12)
    assert solution.value == pytest.approx([2.0, 4.0])  # 1 / (1 - 0.5) and 2 / (1 - 0.5)
    assert solution.q == pytest.approx(np.array([[2.0, 0.5 * 0.5 * 4.0], [4.0, 0.5 * 0.5 * 2.0]]))
    assert solution.policy.tolist() == [5, 5]
    assert solution.predict(np.array([1, 2]))[0].tolist() == [5, 5]


def test_sweeps_stop_when_no_value_changes_by_more_than_the_tolerance() -> None:
    ends = TabularMDP(csr_array((1, 1)), np.array([[3.0]]), np.ones((1, 1), np.bool_))
    exact = value_iteration(ends, 0.5, tolerance=0.0)
    assert (exact.iterations, exact.residual, exact.value.tolist()) == (2, 0.0, [3.0])
    assert value_iteration(ends, 0.5, tolerance=3.0).iterations == 1
    goes_on = ends._replace(transition=csr_array([[1.0]]))
    rough = value_iteration(goes_on, 0.5, tolerance=0.75)  # changes of 3, 1.5, 0.75
    assert (rough.iterations, rough.residual, rough.value.tolist()) == (3, 0.75, [5.25])


def test_a_time_limit_is_counted_down() -> None:
    values, actions = backward_induction(two_states(), 3, 0.5)
    assert values.tolist() == [[0.0, 0.0], [1.0, 2.0], [1.5, 3.0], [1.75, 3.5]]
    assert actions.tolist() == [[5, 5]] * 3
    assert policy_value(two_states(), np.array([6, 5]), 2, 0.5).tolist() == [0.5 * 0.5 * 2.0, 3.0]


def test_a_state_without_an_allowed_action_is_worth_nothing() -> None:
    allowed = np.array([[False, True], [False, False]])
    values, _ = backward_induction(two_states(allowed=allowed), 2)
    assert values.tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": np.array([[1.0, 0.0], [float("nan"), 0.0]])}, r"reward\[1, 0\] is nan: rewards must be finite"),
        ({"reward": np.array([[1.0, float("inf")], [0.0, 0.0]])}, r"reward\[0, 1\] is inf"),
        ({"reward": np.zeros((2, 3))}, "need transitions of shape"),
        ({"allowed": np.ones((2, 1), np.bool_)}, "mask of that shape"),
        ({"transition": csr_array(np.full((4, 2), 0.6))}, "at most 1 in sum"),
        ({"transition": csr_array(np.full((4, 2), -0.1))}, "at least 0"),
        ({"transition": csr_array(np.full((4, 2), float("nan")))}, "at most 1 in sum"),
    ],
)
def test_a_process_that_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    mdp = two_states(**changes)
    for use in (
        lambda: value_iteration(mdp, 0.5),
        lambda: backward_induction(mdp, 2),
        lambda: policy_value(mdp, np.array([5, 5]), 2),
    ):
        with pytest.raises(ValueError, match=words):
            use()


@pytest.mark.parametrize("policy", [[4, 5], [5, 7], [5], [5.0, 5.0], [[5, 5]]])
def test_a_policy_of_other_numbers_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match="policy must hold|action"):
        policy_value(two_states(), np.array(policy), 2)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_a_discount_lies_between_0_and_1(gamma: float) -> None:
    for use in (
        lambda: value_iteration(two_states(), gamma),
        lambda: backward_induction(two_states(), 2, gamma),
        lambda: policy_value(two_states(), np.array([5, 5]), 2, gamma),
    ):
        with pytest.raises(ValueError, match="gamma must be"):
            use()
