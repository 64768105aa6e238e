"""The linear-quadratic regulator: one Riccati pass about one operating point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch as th
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_are
from torch import Generator, Tensor

from controllers.plan import Plan, WarmStart
from controllers.problem import PlanningProblem
from controllers.trajectory.coordinates import Trajectory, VectorProblem, open_loop, roll_out
from controllers.trajectory.derivatives import Derivatives, Expansion, choose_method, expand
from controllers.trajectory.plans import finished
from controllers.trajectory.riccati import Gains, backward
from mbrl_wrappers.checks import within
from mbrl_wrappers.rows import map_tensors

RIDGE = 1e-6


@dataclass(frozen=True)
class LQR:
    r"""Linearises the model and quadratises the reward about one operating point, and solves that problem exactly.

    With :math:`\delta z` the distance to the operating point in state coordinates and model actions, the model is
    :math:`\delta x' = F\,\delta z + d` and the reward a quadratic in :math:`\delta z`, the same at every step but for
    the value at the horizon. The finite-horizon Riccati recursion (:func:`~controllers.trajectory.riccati.backward`)
    runs in float64, and the plan is the actions that this regulator takes in the linear model. For linear dynamics
    and a concave quadratic reward they are the optimum; elsewhere negative curvature of the cost counts as zero.

    The recursion ignores bounds: actions are clamped to them while the linear model is followed, so a plan that
    runs into a bound need not be optimal (that of :class:`~controllers.ILQR` is). It also ignores terminations, though
    the plan's value counts nothing after one. A plan that fails in the model (a prediction is not finite, or outside of
    the model's limits) is replaced by the warm start, or by the middle of the action range. ``report.converged`` is
    None: there is nothing to converge.

    One row per problem is followed, ``problem.particles`` and ``problem.risk`` are ignored; a stochastic model is best
    given as its mean.

    Attributes:
        about: the state to linearise about: ``"zero"`` in all coordinates, each problem's ``"start"``, or coordinates
            ``(X,)``. The action there is the middle of the range.
        derivatives: see :data:`~controllers.trajectory.derivatives.Derivatives`.
    """

    about: Literal["zero", "start"] | tuple[float, ...] = "zero"
    derivatives: Derivatives = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.about, str):
            if self.about not in ("zero", "start"):
                raise ValueError(f"about must be 'zero', 'start' or a tuple of coordinates, got {self.about!r}.")
        else:
            object.__setattr__(self, "about", tuple(within("about", float(part), -np.inf) for part in self.about))
        if self.derivatives not in get_args(Derivatives):
            raise ValueError(f"derivatives must be one of {get_args(Derivatives)}, got {self.derivatives!r}.")

    @th.no_grad()
    def plan(
        self, problem: PlanningProblem[Any], warm_start: WarmStart | Tensor | None = None, *, generator: Generator
    ) -> Plan:
        """Plan for every start; see :class:`~controllers.plan.Planner`. The warm start is only scored.

        Raises:
            TypeError: for Discrete actions, and for a model whose state has no coordinates.
            ValueError: when ``about`` has another size than the state.
        """
        task = VectorProblem(problem, self, generator)
        warm = task.warm_start(warm_start)
        point = self._operating_point(task)
        regulator = Regulator.about(task, point, choose_method(task, self.derivatives))
        candidates = th.stack([warm.actions, regulator.follow_line(task).to(task.dtype)], 1)
        tried = open_loop(task, candidates)
        scores = tried.scores.view(2, -1).t()
        failed = ~scores[:, 1].isfinite()
        chosen = th.where(failed[:, None, None], warm.actions, candidates[:, 1])
        value = th.where(failed, scores[:, 0], scores[:, 1])
        return finished(task, warm, chosen, value, candidates, scores, warm_value=scores[:, 0])

    def _operating_point(self, task: VectorProblem) -> Tensor:
        """``(N, X)``."""
        start = task.vector(task.start)
        if self.about == "start":
            return start
        if self.about == "zero":
            return th.zeros_like(start)
        if len(self.about) != start.shape[1]:
            raise ValueError(
                f"about has {len(self.about)} coordinates and the state of this model has {start.shape[1]}."
            )
        return th.tensor(self.about, dtype=start.dtype, device=start.device).expand_as(start)


class Regulator(NamedTuple):
    """The solution of the linear-quadratic problem about one operating point.

    Attributes:
        point: ``(N, X)`` in coordinates.
        action: ``(A,)`` the middle of the range.
        expansion: of every step, there.
        defect: ``(N, X)`` where a step leads from there, less the point.
        gains: on the distance from there.
    """

    point: Tensor
    action: Tensor
    expansion: Expansion
    defect: Tensor
    gains: Gains

    @classmethod
    def about(cls, task: VectorProblem, point: Tensor, method: Literal["finite", "autograd"]) -> Regulator:
        """Expand and solve about ``point (N, X)``."""
        action, discount = task.problem.middle.to(task.dtype), task.problem.discount
        expansion, defect = _at_point(task, point, action, method)
        ridge = th.zeros(len(point), dtype=th.float64, device=point.device)
        gains = backward(expansion, discount, ridge, defect=defect)
        if not gains.solved.all():  # actions that nothing depends on
            gains = backward(expansion, discount, ridge + RIDGE * (~gains.solved), defect=defect)
        return cls(point, action, expansion, defect, gains)

    def follow_line(self, task: VectorProblem) -> Tensor:
        """The actions ``(N, H, A)`` taken in the linear model, within the bounds."""
        away, taken = (task.vector(task.start) - self.point).double(), []
        for t in range(task.horizon):
            action = self._action(task, t, away)
            z = th.cat([away, action - self.action], 1)
            away = (self.expansion.jacobian[t] @ z[..., None])[..., 0] + self.defect
            taken.append(action)
        return th.stack(taken, 1)

    def follow_model(self, task: VectorProblem) -> Trajectory:
        """The trajectories with feedback from what the model predicts, within the bounds."""
        return roll_out(task, lambda t, vector: self._action(task, t, vector - self.point).to(task.dtype), 1)

    def _action(self, task: VectorProblem, t: int, away: Tensor) -> Tensor:
        change = self.gains.feedforward[t] + (self.gains.feedback[t] @ away.double()[..., None])[..., 0]
        return task.within_bounds(self.action + change)


def _at_point(
    task: VectorProblem, point: Tensor, action: Tensor, method: Literal["finite", "autograd"]
) -> tuple[Expansion, Tensor]:
    """The expansion of all steps at ``point (N, X)`` and ``action (A,)``, and the defect ``(N, X)`` there.

    Only the last step differs, by the value at the horizon.
    """
    state, taken = task.moved(task.start, point), action.expand(len(point), -1)
    defect = (task.step(state, taken, task.generator()).vector - point).double()
    defect = th.where(defect.isfinite().all(1, keepdim=True), defect, 0)
    twice = map_tensors(lambda tensor: th.cat([tensor, tensor]), state)
    counts = th.ones(2, len(point), dtype=th.bool, device=point.device)
    vectors, actions = point.expand(2, -1, -1), taken.expand(2, -1, -1)
    ends = Trajectory(twice, vectors, actions, counts, point.new_zeros(len(point)))
    pair, before = expand(task, ends, method), task.horizon - 1
    return Expansion(*(th.cat([part[:1].expand(before, *part.shape[1:]), part[1:]]) for part in pair)), defect


def infinite_horizon_cost(
    a: NDArray[Any], b: NDArray[Any], q: NDArray[Any], r: NDArray[Any], *, discount: float = 1.0
) -> NDArray[np.float64]:
    r"""The matrix :math:`P` of the least cost from any start.

    .. math:: x_0^\top P x_0 = \min_u \sum_{t=0}^\infty \gamma^t (x_t^\top Q x_t + u_t^\top R u_t)

    It solves the discrete algebraic Riccati equation (Anderson and Moore 1990, chapter 2) for
    :math:`\sqrt\gamma A, \sqrt\gamma B`.

    Args:
        a: ``(X, X)``, the dynamics :math:`x' = A x + B u`.
        b: ``(X, A)``.
        q: ``(X, X)`` positive semidefinite.
        r: ``(A, A)`` positive definite.
        discount: :math:`\gamma` in [0, 1].

    Returns:
        ``(X, X)`` float64.

    Raises:
        ValueError: when no gain makes the cost finite: the system cannot be stabilised.
    """
    root = within("discount", discount, 0, 1) ** 0.5
    a, b, q, r = (np.atleast_2d(np.asarray(part, np.float64)) for part in (a, b, q, r))
    try:
        return np.asarray(solve_discrete_are(root * a, root * b, q, r), np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"The regulator of this system has no finite cost ({error}).") from error


def infinite_horizon_gain(
    a: NDArray[Any], b: NDArray[Any], q: NDArray[Any], r: NDArray[Any], *, discount: float = 1.0
) -> NDArray[np.float64]:
    r"""The gain :math:`K` of the best stationary feedback :math:`u = -K x`, see :func:`infinite_horizon_cost`.

    .. math:: K = (R + \gamma B^\top P B)^{-1}\,\gamma B^\top P A

    Returns:
        ``(A, X)`` float64.
    """
    p = infinite_horizon_cost(a, b, q, r, discount=discount)
    a, b, r = (np.atleast_2d(np.asarray(part, np.float64)) for part in (a, b, r))
    return np.asarray(np.linalg.solve(r + discount * b.T @ p @ b, discount * b.T @ p @ a), np.float64)
