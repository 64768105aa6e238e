"""Iterative LQR: Riccati passes along a trajectory that is rolled out anew after each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch as th
from torch import Generator, Tensor

from controllers.plan import Plan, WarmStart
from controllers.problem import PlanningProblem
from controllers.trajectory.coordinates import Choose, Trajectory, VectorProblem, open_loop, roll_out
from controllers.trajectory.derivatives import Derivatives, Expansion, choose_method, expand
from controllers.trajectory.lqr import Regulator
from controllers.trajectory.plans import finished
from controllers.trajectory.riccati import ChangeBounds, Gains, backward
from mbrl_wrappers.checks import at_least, within

ActionLimits = Literal["box_qp", "clamp"]
"""How bounds enter the backward pass: solved for, or ignored there and enforced by clamping in the rollout.

With ``"clamp"`` a plan that stands at a bound is never reported as converged.
"""

# Convergence is judged only up to this damping: more makes the predicted improvement too small.
UNDAMPED = 1e-5


@dataclass(frozen=True)
class Damping:
    r"""The schedule of the ridge :math:`\mu` on the curvature in the actions.

    As in Tassa, Erez and Todorov 2012, section II.F, but from zero: a step that failed raises it and one that worked
    lowers it, faster each time in a row: by ``factor``, its square, its cube and so on.

    Attributes:
        minimum: the smallest value above zero.
        maximum: a problem that needs more is given up.
        factor: of one change.
    """

    minimum: float = 1e-6
    maximum: float = 1e10
    factor: float = 2.0

    def __post_init__(self) -> None:
        within("minimum", self.minimum, 1e-300)
        within("maximum", self.maximum, self.minimum)
        within("factor", self.factor, 1 + 1e-6)


class Ridge(NamedTuple):
    """The ridge ``value (N,)`` and by how much it was last multiplied, ``change (N,)``."""

    value: Tensor
    change: Tensor

    def raised(self, where: Tensor, damping: Damping) -> Ridge:
        """More of it in the problems ``where (N,)`` bool."""
        change = (self.change * damping.factor).clamp(min=damping.factor)
        value = (self.value * change).clamp(min=damping.minimum)
        return Ridge(th.where(where, value, self.value), th.where(where, change, self.change))

    def lowered(self, where: Tensor, damping: Damping) -> Ridge:
        """Less of it in the problems ``where (N,)`` bool."""
        change = (self.change / damping.factor).clamp(max=1 / damping.factor)
        value = self.value * change
        value = th.where(value < damping.minimum, 0, value)
        return Ridge(th.where(where, value, self.value), th.where(where, change, self.change))


class _Iterate(NamedTuple):
    """Where the search stands: one row per problem.

    Attributes:
        nominal: the trajectory to improve.
        ridge: the damping.
        active: ``(N,)`` bool, not yet decided.
        converged: ``(N,)`` bool.
        steps: ``(N,)`` int64, improvements made.
    """

    nominal: Trajectory
    ridge: Ridge
    active: Tensor
    converged: Tensor
    steps: Tensor


@dataclass(frozen=True)
class ILQR:
    r"""Iterative LQR with bounded actions (Tassa, Erez and Todorov 2012; Tassa, Mansard and Todorov 2014).

    Each iteration expands dynamics and reward along the current trajectory (the dynamics to first order), solves the
    quadratic problem backwards for changes :math:`k_t` and gains :math:`K_t`, and rolls out

    .. math:: u_t = \mathrm{clip}\big(\hat u_t + \alpha k_t + K_t (x_t - \hat x_t)\big)

    for all step sizes :math:`\alpha = 10^{0 \dots -3}` at once. The best rollout is taken if it scores higher than the
    current one, so the plan is never worse than the warm start where the model is deterministic; otherwise the damping
    grows. ``problem.particles`` and ``problem.risk`` are ignored, and all passes see the same draws; a stochastic model
    is best given as its mean.

    The score is that of :class:`~controllers.PlanningProblem` for one row per problem: nothing counts after a
    termination, and derivatives past one are zero. So gradients do not show whether avoiding a termination would score
    higher. Where the start terminates or fails early, the trajectory of the linear regulator about the first state is
    tried as well, with feedback, so that an unstable system is held where it can be. It is taken if it scores higher:
    set ``terminal_reward`` so that a failure scores low.

    A problem has *converged* when the quadratic model, hardly damped, predicts an improvement of less than
    ``tolerance`` times one plus the absolute score. That is a stationary point and may be a local optimum only. It has
    not converged when iterations or damping run out, when its score is not finite, or when a step has no finite
    derivatives: then the plan is the best rollout so far, at worst the warm start or the middle of the range.

    A start at which nothing changes the score to first order, such as a pendulum that hangs still, is left by noise of
    ``jitter``, once, unless the reward is constant; if that leads nowhere better the start is kept.

    Attributes:
        iterations: backward passes at most.
        tolerance: relative improvement that is not worth another step.
        derivatives: see :data:`~controllers.trajectory.derivatives.Derivatives`; finite differences cost
            :math:`D^2 + 3 D + 1` transitions per step, :math:`D` being coordinates and actions together.
        limits: see :data:`ActionLimits`.
        step_sizes: rollouts per line search.
        damping: its schedule.
        jitter: deviation of the noise that leaves a stationary start, in model actions.
    """

    iterations: int = 50
    tolerance: float = 1e-7
    derivatives: Derivatives = "auto"
    limits: ActionLimits = "box_qp"
    step_sizes: int = 10
    damping: Damping = Damping()
    jitter: float = 0.1

    def __post_init__(self) -> None:
        at_least("iterations", self.iterations)
        at_least("step_sizes", self.step_sizes)
        within("tolerance", self.tolerance, 0)
        within("jitter", self.jitter, 0)
        for name, values in (("derivatives", Derivatives), ("limits", ActionLimits)):
            if getattr(self, name) not in get_args(values):
                raise ValueError(f"{name} must be one of {get_args(values)}, got {getattr(self, name)!r}.")

    @th.no_grad()
    def plan(
        self, problem: PlanningProblem[Any], warm_start: WarmStart | Tensor | None = None, *, generator: Generator
    ) -> Plan:
        """Plan for every start; see :class:`~controllers.plan.Planner`. Elites and proposals are other starts to try.

        Raises:
            TypeError: for Discrete actions, for a model whose state has no coordinates, and for automatic derivatives
                of a model that no gradient flows through.
        """
        task = VectorProblem(problem, self, generator)
        method = choose_method(task, self.derivatives)
        warm = task.warm_start(warm_start)
        candidates = open_loop(task, task.within_bounds(warm.firsts()))
        warm_value = candidates.scores[: task.num_problems]
        invalid = int((~candidates.scores.isfinite()).sum())
        start = _best(candidates, task.num_problems)
        if start.ends_early.any():
            held = Regulator.about(task, task.vector(task.start), method).follow_model(task)
            start = start.merge(held, held.scores > start.scores)
        search, shaken = _begun(task, start), th.zeros_like(warm.known)
        expansion = expand(task, start, method)
        for iteration in range(self.iterations):
            search, gains = self._solved(task, search, expansion)
            if iteration == 0:
                search, shaken = self._shaken(task, search, expansion, generator)
                if shaken.any():
                    expansion = expand(task, search.nominal, method)
                    search, gains = self._solved(task, search, expansion)
            if not search.active.any():
                break
            candidates = roll_out(task, self._line(task, search.nominal, gains), self.step_sizes)
            invalid += int((~candidates.scores.isfinite()).sum())
            search, moved = self._moved(search, _best(candidates, task.num_problems))
            if moved.any():
                expansion = expand(task, search.nominal, method)
        back = shaken & (search.nominal.scores <= start.scores)
        final = search.nominal.merge(start, back) if back.any() else search.nominal
        return finished(
            task,
            warm,
            final.actions.transpose(0, 1),
            final.scores,
            candidates.actions.unflatten(1, (-1, task.num_problems)).permute(2, 1, 0, 3),
            candidates.scores.view(-1, task.num_problems).t(),
            warm_value=warm_value,
            num_invalid=invalid,
            converged=search.converged | back,
            iterations=int(search.steps.max()),
        )

    def _solved(self, task: VectorProblem, search: _Iterate, expansion: Expansion) -> tuple[_Iterate, Gains]:
        """The gains along the current trajectory, and what they say about convergence."""
        ridge, active, actions = search.ridge, search.active, search.nominal.actions
        bounds = None
        if self.limits == "box_qp":
            bounds = ChangeBounds(*((edge - actions).double() for edge in (task.low, task.high)))
        while True:
            gains = backward(expansion, task.problem.discount, ridge.value, bounds=bounds)
            singular = active & ~gains.solved
            if not singular.any():
                break
            ridge = ridge.raised(singular, self.damping)
            active = active & (ridge.value <= self.damping.maximum)
        scores = search.nominal.scores.double()
        noise = 10 * float(th.finfo(task.precision).eps)
        enough = gains.improvement > max(self.tolerance, noise) * (1 + scores.abs())
        known = (expansion.known | ~search.nominal.counts).all(0)
        settled = active & ~enough & known & scores.isfinite() & (ridge.value <= UNDAMPED)
        search = search._replace(ridge=ridge, active=active & ~settled, converged=search.converged | settled)
        return search, gains

    def _shaken(
        self, task: VectorProblem, search: _Iterate, expansion: Expansion, generator: Generator
    ) -> tuple[_Iterate, Tensor]:
        """The search restarted from noisy actions in problems with a stationary start, and which problems these are."""
        still = search.converged & ~expansion.is_flat
        if not still.any() or not self.jitter:
            return search, th.zeros_like(still)
        actions = search.nominal.actions  # (H, N, A)
        noise = th.randn(actions.shape, generator=generator, dtype=actions.dtype, device=actions.device)
        noisy = (actions + self.jitter * noise).clamp(task.low, task.high)
        other = open_loop(task, noisy.transpose(0, 1)[:, None])
        still = still & other.scores.isfinite()
        search = search._replace(
            nominal=search.nominal.merge(other, still),
            active=search.active | still,
            converged=search.converged & ~still,
        )
        return search, still

    def _moved(self, search: _Iterate, best: Trajectory) -> tuple[_Iterate, Tensor]:
        """The search after a line search whose winners are ``best``, and where it moved."""
        better = search.active & (best.scores > search.nominal.scores)
        ridge = search.ridge.lowered(better, self.damping).raised(search.active & ~better, self.damping)
        search = search._replace(
            nominal=search.nominal.merge(best, better) if better.any() else search.nominal,
            ridge=ridge,
            active=search.active & (ridge.value <= self.damping.maximum),
            steps=search.steps + better,
        )
        return search, better

    def _line(self, task: VectorProblem, nominal: Trajectory, gains: Gains) -> Choose:
        """The feedback around ``nominal`` with each step size, from 1 down to 0.001."""
        alphas = th.logspace(0, -3, self.step_sizes, dtype=task.dtype, device=task.problem.device)
        change = alphas[:, None, None] * gains.feedforward[:, None].to(task.dtype)  # (H, P, N, A)
        feedback = gains.feedback.to(task.dtype)

        def choose(t: int, vector: Tensor) -> Tensor:
            away = vector.view(*change.shape[1:3], -1) - nominal.vectors[t]  # (P, N, X)
            wanted = nominal.actions[t] + change[t] + (feedback[t] @ away[..., None])[..., 0]
            wanted = th.where(wanted.isfinite(), wanted, nominal.actions[t])
            return wanted.clamp(task.low, task.high).flatten(0, 1)

        return choose


def _begun(task: VectorProblem, start: Trajectory) -> _Iterate:
    """The search before its first step."""
    count, device = task.num_problems, task.problem.device
    ridge = Ridge(*(th.full((count,), value, dtype=th.float64, device=device) for value in (0.0, 1.0)))
    active = th.ones(count, dtype=th.bool, device=device)
    steps = th.zeros(count, dtype=th.int64, device=device)
    return _Iterate(start, ridge, active, ~active, steps)


def _best(candidates: Trajectory, count: int) -> Trajectory:
    """The best candidate of each of ``count`` problems."""
    place = candidates.scores.view(-1, count).argmax(0)
    return candidates.take(place * count + th.arange(count, device=place.device))
