"""Following a path on a real environment: linear-quadratic feedback around a timed reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_discrete_are

from controllers.motion.space import Points
from controllers.motion.timing import Reference
from mbrl_wrappers.checks import at_least, within


class LinearDynamics(NamedTuple):
    """:math:`x' = A x + B u` per step, with ``x`` the place and then the speed: ``a (2D, 2D)``, ``b (2D, A)``."""

    a: Points
    b: Points

    @classmethod
    def double_integrator(cls, dimensions: int, seconds: float, strength: float = 1.0) -> LinearDynamics:
        """A point mass that a unit action accelerates by ``strength``; exact where actions stay constant in a step."""
        one, none = np.eye(dimensions), np.zeros((dimensions, dimensions))
        a = np.block([[one, seconds * one], [none, one]])
        return cls(a, strength * np.concatenate([seconds**2 / 2 * one, seconds * one]))

    @classmethod
    def fitted(cls, states: Points, actions: Points, next_states: Points) -> LinearDynamics:
        """The least-squares fit to steps ``(B, 2D)``, ``(B, A)``, ``(B, 2D)``.

        Raises:
            ValueError: when the steps do not determine it.
        """
        inputs = np.concatenate([states, actions], 1).astype(np.float64)
        solution, _, rank, _ = np.linalg.lstsq(inputs, np.asarray(next_states, np.float64), rcond=None)
        found: Points = solution.astype(np.float64)
        if rank < inputs.shape[1]:
            raise ValueError(
                f"{len(inputs)} steps of rank {rank} do not determine {inputs.shape[1]} columns: take "
                "more, and varied, steps."
            )
        return cls(found[: states.shape[1]].T, found[states.shape[1] :].T)


def lqr_gain(dynamics: LinearDynamics, state_cost: ArrayLike, action_cost: ArrayLike) -> Points:
    r"""The gain ``(A, X)`` of :math:`u = -K x` that minimises :math:`\sum x^T Q x + u^T R u` over an infinite horizon.

    :math:`K = (R + B^T P B)^{-1} B^T P A` with :math:`P` the solution of the discrete Riccati equation.

    Args:
        dynamics: linear.
        state_cost: ``(X,)`` diagonal of :math:`Q`.
        action_cost: ``(A,)`` diagonal of :math:`R`.
    """
    a, b = dynamics
    q, r = np.diag(np.asarray(state_cost, np.float64)), np.diag(np.asarray(action_cost, np.float64))
    value = solve_discrete_are(a, b, q, r)
    gain: Points = np.linalg.solve(r + b.T @ value @ b, b.T @ value @ a).astype(np.float64)
    return gain


@dataclass(frozen=True)
class TrackingCosts:
    """What the tracker minimises.

    Attributes:
        place: weight of a squared distance from the reference.
        speed: weight of a squared difference in speed.
        action: weight of a squared correction.
    """

    place: float = 100.0
    speed: float = 1.0
    action: float = 0.1

    def __post_init__(self) -> None:
        within("place", self.place, 0)
        within("speed", self.speed, 0)
        if not within("action", self.action, 0):
            raise ValueError("action must be above 0: corrections that cost nothing have no limit.")


class PathTracker:
    r"""Follows a timed path; a drop-in for an agent's ``predict``.

    .. math:: u_k = u^{ref}_k - K\,(x - x^{ref}_k), \qquad
              B u^{ref}_k \approx x^{ref}_{k+1} - A x^{ref}_k

    with :math:`K` of :func:`lqr_gain`. The clock :math:`k` is an index into the reference: at each call it moves to the
    one of the next ``window`` steps whose place is nearest to the observed one, and never back. So the reference waits
    when the environment falls behind.

    Args:
        reference: from :meth:`controllers.motion.timing.Pace.reference`.
        dynamics: of place and speed, per step of the environment.
        action_space: the environment's; actions are clipped to it.
        costs: see :class:`TrackingCosts`.
        window: how far ahead the clock may jump.
        observe: takes place and speed ``(2D,)`` from an observation; by default its first entries, or those of
            ``observation["observation"]``.

    Raises:
        ValueError: when sizes do not fit each other.
    """

    def __init__(
        self,
        reference: Reference,
        dynamics: LinearDynamics,
        action_space: spaces.Box,
        *,
        costs: TrackingCosts | None = None,
        window: int = 10,
        observe: Callable[[Any], Points] | None = None,
    ) -> None:
        size = 2 * reference.places.shape[1]
        if dynamics.a.shape != (size, size) or dynamics.b.shape != (size, *action_space.shape):
            raise ValueError(
                f"A path of {size // 2} coordinates needs dynamics of {size} states and actions {action_space.shape}; "
                f"got {dynamics.a.shape} and {dynamics.b.shape}."
            )
        costs = costs or TrackingCosts()
        weights = np.repeat([costs.place, costs.speed], size // 2)
        self.action_space, self.window = action_space, at_least("window", window)
        self.gain = lqr_gain(dynamics, weights, np.full(action_space.shape, costs.action))
        self.states = np.concatenate([reference.places, reference.speeds], 1)
        following = np.concatenate([self.states[1:], self.states[-1:]])
        wanted = following - self.states @ dynamics.a.T
        self.actions: Points = np.linalg.lstsq(dynamics.b, wanted.T, rcond=None)[0].T.astype(np.float64)
        self._observe = observe or _first_entries(size)

    def __len__(self) -> int:
        return len(self.states)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[Any], int]:
        """The action to take, and the clock to pass to the next call.

        Args:
            observation: one observation of a single environment.
            state: what the previous call returned; None at first.
            episode_start: whether the episode begins with this observation.
            deterministic: accepted for Stable-Baselines3's sake.

        Raises:
            ValueError: for an observation that is not finite or too short.
        """
        here = np.asarray(self._observe(observation), np.float64)
        if here.shape != self.states.shape[1:] or not np.isfinite(here).all():
            raise ValueError(
                f"The tracker needs place and speed, {self.states.shape[1:]} finite numbers, got {here}: pass observe= "
                "to say where they are in an observation."
            )
        begins = state is None or bool(np.any(episode_start))
        clock = 0 if begins else int(state)
        ahead = self.states[clock : clock + self.window + 1]
        places = slice(0, len(here) // 2)
        nearest = clock + int(np.linalg.norm(ahead[:, places] - here[places], axis=1).argmin())
        action = self.actions[nearest] - self.gain @ (here - self.states[nearest])
        low, high = self.action_space.low, self.action_space.high
        return np.clip(action, low, high).astype(self.action_space.dtype), nearest


def _first_entries(size: int) -> Callable[[Any], Points]:
    def observe(observation: Any) -> Points:
        entries = observation["observation"] if isinstance(observation, dict) else observation
        return np.asarray(entries, np.float64)[..., :size]

    return observe
