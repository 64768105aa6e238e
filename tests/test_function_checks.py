"""Known functions are called before they are needed, and compared with what an environment gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import EnsembleDynamics, Transitions
from mbrl_wrappers.function_checks import MAX_COMPARED, Confusion, check_functions, disagreement

OBS = spaces.Box(-np.inf, np.inf, (2,))
ACTION = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 4.0], np.float32))


def model(reward_fn: Any = None, termination_fn: Any = None, action_space: Any = ACTION) -> EnsembleDynamics:
    return EnsembleDynamics(
        OBS, action_space, reward_fn=reward_fn, termination_fn=termination_fn, hidden=(4,), device="cpu"
    )


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda o, a, n: np.abs(np.asarray(n)[:, 0]), TypeError, "got ndarray: compute with torch"),
        (lambda o, a, n: -1.0, TypeError, r"got float.*torch.full"),
        (lambda o, a, n: None, TypeError, "got NoneType"),
        (lambda o, a, n: n[:, :1], ValueError, r"shape \(B,\).*got \(3, 1\)"),
        (lambda o, a, n: n[:, 0].sum(), ValueError, r"got \(\)"),
        (lambda o, a, n: n[0], ValueError, r"got \(2,\)"),  # as long as an observation, and not as the batch
        (lambda o, a, n: n[:, 0].squeeze(), ValueError, r"\(B,\) = \(1,\).*got \(\)"),
        (lambda o, a, n: n[:, 7], ValueError, "IndexError"),
        (lambda o, a: n, ValueError, "TypeError"),  # noqa: F821
        (lambda o, a, n: n[:, 0] * 1j, TypeError, "real numbers"),
    ],
)
def test_a_reward_of_another_kind_is_refused(
    function: Callable[..., Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s)reward_fn.*{message}"):
        check_functions(model(function), th.tensor([[1.0, 2.0]]))


def test_a_reward_that_is_not_finite_for_a_step_that_never_happened_is_no_fault() -> None:
    check_functions(model(lambda o, a, n: (n - o)[:, 0].abs().log()), th.tensor([[1.0, 2.0]]))


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda o, a, n: o.sub_(1)[:, 0], "obs"),
        (lambda o, a, n: a.sub_(1)[:, 0], "action"),
        (lambda o, a, n: n.sub_(1)[:, 0], "next_obs"),
    ],
)
def test_a_function_that_changes_what_it_is_given_is_refused(function: Callable[..., Any], what: str) -> None:
    with pytest.raises(ValueError, match=f"reward_fn changes {what} in place"):
        check_functions(model(function), th.tensor([[1.0, 2.0]]))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda o, a, n: False, TypeError, "got bool"),
        (lambda o, a, n: np.asarray(n)[:, 0] > 0, TypeError, "got ndarray"),
        (lambda o, a, n: n[:, 0], TypeError, "must return bool, got torch.float32"),  # 0.3 would be taken for true
        (lambda o, a, n: n > 0, ValueError, r"got \(3, 2\)"),
    ],
)
def test_a_termination_of_another_kind_is_refused(
    function: Callable[..., Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"(?s)termination_fn.*{message}"):
        check_functions(model(termination_fn=function), th.zeros(1, 2))


@pytest.mark.parametrize("action_space", [ACTION, spaces.Discrete(2)])
def test_functions_are_called_with_real_observations_and_environment_actions(action_space: Any) -> None:
    calls = []

    def spy(obs: th.Tensor, action: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        calls.append((obs, action, next_obs))
        return obs[:, 0].double()

    obs = th.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=th.float64)
    check_functions(model(spy, action_space=action_space), obs)
    assert [call[0].tolist() for call in calls] == [[[1, 2], [3, 4], [1, 2]], [[1, 2]]]
    for before, action, after in calls:
        assert before.dtype == after.dtype == th.float32
        if action_space is ACTION:
            assert action.tolist() == [[0.0, 2.0]] * len(before)
        else:
            assert action.tolist() == [0] * len(before)
    check_functions(model(), obs)  # nothing known, nothing called


def rows(reward: list[float], terminated: list[bool] | None = None) -> Transitions:
    """Rows whose observation is ``[i, 0]``, whose action is ``[2, 4]`` in environment units, and that go on by one."""
    count = len(reward)
    obs = th.stack([th.arange(count).float(), th.zeros(count)], 1)
    flags = th.tensor(terminated or [False] * count)
    return Transitions(obs, th.ones(count, 2), th.tensor(reward), obs + th.tensor([1.0, 0.0]), flags, flags)


def test_a_reward_that_agrees_says_nothing() -> None:
    found = disagreement(
        model(lambda o, a, n: o[:, 0] + 10 * a[:, 0] + 100 * a[:, 1] + 1000 * n[:, 0]),
        rows([1420 + 1001.0 * i for i in range(8)]),
    )
    assert found.reward_error == 0
    assert found.sentences == ()


def test_a_reward_that_differs_is_told_with_numbers() -> None:
    found = disagreement(model(lambda o, a, n: 2 * o[:, 0]), rows([0.0, 1.0, 2.0, 3.0]))
    assert found.reward_error == 1.5
    (sentence,) = found.sentences
    assert "over 4 real transitions it predicts 3 on average; the environment gave 1.5" in sentence
    assert "standard deviation 1.12" in sentence
    assert "differ by 1.5 on average and by 3 at most" in sentence


@pytest.mark.parametrize(
    ("reward", "wrong"),
    [
        ([1.0] * 1000, False),
        ([1.0] * 999 + [-9.0], True),  # a penalty that is rare
        ([1.0 + 1e-7 * i for i in range(100)], False),  # rounding
        ([1000.0 + 0.1 * (i % 2) for i in range(100)], True),  # all that varies is missed
    ],
)
def test_rare_and_small_differences(reward: list[float], wrong: bool) -> None:
    value = 1000.0 if reward[0] == 1000 else 1.0
    found = disagreement(model(lambda o, a, n: th.full((len(o),), value)), rows(reward))
    assert (len(found.sentences) == 1) == wrong


def test_a_reward_that_is_not_a_number_does_not_agree() -> None:
    assert disagreement(model(lambda o, a, n: o[:, 0] * th.nan), rows([0.0, 1.0])).reward_text is not None


def test_terminations_are_counted() -> None:
    true = [True, True, True, False, False, False]
    found = disagreement(model(termination_fn=lambda o, a, n: n[:, 0] > 2), rows([0.0] * 6, true))
    assert found.terminations == Confusion(1, 3, 0, 2)
    (sentence,) = found.sentences
    assert (
        "of 6 real transitions its predictions miss 2 of 3 true terminations and report 3 that did not happen"
        in sentence
    )
    assert disagreement(model(termination_fn=lambda o, a, n: n[:, 0] < 3.5), rows([0.0] * 6, true)).sentences == ()


@pytest.mark.parametrize(("shift", "wrong"), [(0.99, False), (1.01, True)])
def test_a_fiftieth_of_the_rewards_deviation_is_noise(shift: float, wrong: bool) -> None:
    real = [100.0 * (i % 2) for i in range(10)]  # the deviation is 50
    found = disagreement(model(lambda o, a, n: o[:, 0] % 2 * 100 + shift), rows(real))
    assert (found.reward_text is not None) == wrong


def test_of_many_rows_some_are_compared_from_the_first_to_the_last() -> None:
    count = 2 * MAX_COMPARED + 1
    found = disagreement(
        model(lambda o, a, n: th.zeros(len(o)), termination_fn=lambda o, a, n: o[:, 0] > count - 5),
        rows([0.0] * (count - 1) + [7.0]),
    )
    assert found.rows == MAX_COMPARED + 1
    assert found.reward_error == pytest.approx(7 / found.rows)
    assert found.terminations == Confusion(0, 2, found.rows - 2, 0)
