"""Exact planning on a known or counted Markov decision process: value iteration and backward induction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.tabular_data import table_rows

ROUNDING = 1e-6
"""By how much the probabilities of a pair may sum to more than 1."""


class TabularMDP(NamedTuple):
    """States and actions counted from 0, row ``s * A + a`` for each pair.

    Attributes:
        transition: ``(S * A, S)``, the probability to arrive at a state and go on; what is missing to 1 terminates.
        reward: ``(S, A)``, expected, that of terminating steps included.
        allowed: ``(S, A)`` bool, the pairs that may be chosen.
        first_state: number of the first state in the environment.
        first_action: number of the first action.
    """

    transition: csr_array
    reward: NDArray[np.float64]
    allowed: NDArray[np.bool_]
    first_state: int = 0
    first_action: int = 0

    def check(self) -> None:
        """Raise a ``ValueError`` unless shapes agree, rewards are finite and probabilities sum to at most 1."""
        shape = (self.reward.size, len(self.reward))
        if self.transition.shape != shape or self.allowed.shape != self.reward.shape:
            raise ValueError(
                f"Rewards of shape {self.reward.shape} need transitions of shape {shape} and a mask of that shape, "
                f"got {self.transition.shape} and {self.allowed.shape}."
            )
        unpaid = np.argwhere(~np.isfinite(self.reward))
        if len(unpaid):
            state, action = unpaid[0]
            raise ValueError(f"reward[{state}, {action}] is {self.reward[state, action]}: rewards must be finite.")
        total = self.transition.sum(1)
        if not (total <= 1 + ROUNDING).all() or not (self.transition.data >= 0).all():
            raise ValueError("The probabilities of a pair must be at least 0 and at most 1 in sum.")

    def lookahead(self, value: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
        r"""``(S, A)``: :math:`r(s, a) + \gamma \sum_{s'} p(s' \mid s, a)\,V(s')`, and minus infinity if not allowed."""
        q = self.reward + gamma * (self.transition @ value).reshape(self.reward.shape)
        return np.where(self.allowed, q, -np.inf)

    def best(self, q: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(S,)``: the highest value of each row, and 0 where no action is allowed."""
        return np.where(self.allowed.any(1), q.max(1), 0.0)


@dataclass(frozen=True)
class TabularSolution:
    """Optimal values, and a policy that acts by them: it has SB3's ``predict`` and so fits ``evaluate_policy``.

    Attributes:
        q: ``(S, A)``, minus infinity where an action is not allowed.
        value: ``(S,)``.
        policy: ``(S,)`` int64, the first best action in the environment's numbers.
        iterations: sweeps that it took.
        residual: the largest change of a value in the last sweep.
        first_state: number of the state in row 0.
    """

    q: NDArray[np.float64]
    value: NDArray[np.float64]
    policy: NDArray[np.int64]
    iterations: int
    residual: float
    first_state: int = 0

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[np.int64], Any]:
        """The best action for one state's number or a row of them ``(N,)``.

        Raises:
            ValueError: for a number that is no state's, or an array of another shape.
        """
        if np.ndim(observation) > 1:
            raise ValueError(f"Give one state or a row of them (N,), got an array of shape {np.shape(observation)}.")
        numbered = spaces.Discrete(len(self.policy), start=self.first_state)
        return np.asarray(self.policy[table_rows(observation, numbered, "state")]), state


def value_iteration(
    mdp: TabularMDP, gamma: float = 0.99, *, tolerance: float = 1e-10, max_iterations: int = 100_000
) -> TabularSolution:
    r"""Optimal values of a discounted, or surely ending, decision process (Sutton and Barto 2018, section 4.4).

    .. math:: V(s) \leftarrow \max_a r(s, a) + \gamma \sum_{s'} p(s' \mid s, a)\,V(s')

    A terminating step has no successor, so nothing follows it.

    Args:
        mdp: probabilities and rewards.
        gamma: discount in [0, 1].
        tolerance: stop when no value changes by more in a sweep.
        max_iterations: give up after so many sweeps.

    Raises:
        ValueError: for impossible numbers, or when the values do not settle.
    """
    mdp.check()
    within("gamma", gamma, 0.0, 1.0)
    value = np.zeros(len(mdp.reward))
    for iteration in range(1, at_least("max_iterations", max_iterations) + 1):
        q = mdp.lookahead(value, gamma)
        updated = mdp.best(q)
        residual = float(np.abs(updated - value).max(initial=0.0))
        value = updated
        if residual <= tolerance:
            policy = q.argmax(1).astype(np.int64) + mdp.first_action
            return TabularSolution(q, value, policy, iteration, residual, mdp.first_state)
    raise ValueError(
        f"Values still change by {residual:g} after {max_iterations} sweeps: with gamma={gamma} this takes more "
        "max_iterations, or a smaller gamma if episodes need not end."
    )


def backward_induction(
    mdp: TabularMDP, horizon: int, gamma: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    r"""Optimal values and actions with a time limit (Puterman 1994, section 4.5).

    .. math:: V_k(s) = \max_a r(s, a) + \gamma \sum_{s'} p(s' \mid s, a)\,V_{k-1}(s'), \quad V_0 = 0

    Args:
        mdp: probabilities and rewards.
        horizon: ``H``, steps until the limit.
        gamma: discount in [0, 1].

    Returns:
        ``(H + 1, S)`` values with ``k = 0 ... H`` steps to go, and ``(H, S)`` int64 actions in the environment's
        numbers, row ``k - 1`` with ``k`` steps to go.

    Raises:
        ValueError: for impossible numbers.
    """
    mdp.check()
    within("gamma", gamma, 0.0, 1.0)
    values = np.zeros((at_least("horizon", horizon) + 1, len(mdp.reward)))
    actions = np.zeros((horizon, len(mdp.reward)), np.int64)
    for k in range(1, horizon + 1):
        q = mdp.lookahead(values[k - 1], gamma)
        values[k], actions[k - 1] = mdp.best(q), q.argmax(1) + mdp.first_action
    return values, actions


def policy_value(mdp: TabularMDP, policy: NDArray[np.int64], horizon: int, gamma: float = 1.0) -> NDArray[np.float64]:
    """Expected return of a fixed policy over ``horizon`` steps, ``(S,)``.

    Args:
        mdp: probabilities and rewards.
        policy: ``(S,)`` actions in the environment's numbers.
        horizon: steps until the limit.
        gamma: discount in [0, 1].

    Raises:
        ValueError: for impossible numbers, or a policy that is not one action for each state.
    """
    mdp.check()
    within("gamma", gamma, 0.0, 1.0)
    states = np.arange(len(mdp.reward))
    if np.shape(policy) != states.shape:
        raise ValueError(f"policy must hold one action for each of {len(states)} states, got shape {np.shape(policy)}.")
    index = table_rows(policy, spaces.Discrete(mdp.reward.shape[1], start=mdp.first_action), "action")
    rows, reward = mdp.transition[states * mdp.reward.shape[1] + index], mdp.reward[states, index]
    value = np.zeros(len(states))
    for _ in range(at_least("horizon", horizon)):
        value = reward + gamma * (rows @ value)
    return value
