r"""Derivatives of dynamics and reward along a trajectory, by automatic or by finite differences.

All steps of all problems are one batch. A step is two functions of :math:`z = (x, u)`, state coordinates and model
action: :math:`f(z)`, the coordinates after it, and :math:`g(z)`, its reward. The value at the horizon counts as part of
the last reward, :math:`g_{H-1} = r + \gamma V(\mathrm{next\_obs})`, so it needs no derivatives of its own.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch as th
from torch import Tensor

from controllers.trajectory.coordinates import Trajectory, VectorProblem
from mbrl_wrappers.rows import take_rows

Derivatives = Literal["auto", "finite", "autograd"]
"""Automatic differentiation where gradients flow through the model in its state and its action, else differences."""


class Expansion(NamedTuple):
    """The step at each time in coordinates ``z = (x, u)``, of size ``D = X + A``, as a cost to be minimised.

    Attributes:
        jacobian: ``(H, N, X, D)`` of the next state's coordinates.
        gradient: ``(H, N, D)`` of minus the reward.
        hessian: ``(H, N, D, D)`` of minus the reward, positive semidefinite.
        known: ``(H, N)`` bool, where the derivatives are those of a step; elsewhere they are zero, because the step
            does not count or has no finite derivatives.
    """

    jacobian: Tensor
    gradient: Tensor
    hessian: Tensor
    known: Tensor

    @property
    def is_flat(self) -> Tensor:
        """Where gradients and Hessians of all steps are zero, ``(N,)`` bool."""
        return (self.gradient == 0).all(2).all(0) & (self.hessian == 0).flatten(2).all(2).all(0)


class _Batch(NamedTuple):
    """Where derivatives are taken: states of ``H N`` rows, ``z (H N, D)``, rows of the last step ``(H N,)`` bool."""

    states: Any
    z: Tensor
    last: Tensor

    def take(self, rows: Tensor) -> _Batch:
        """The rows ``(M,)`` int64."""
        return _Batch(take_rows(self.states, rows), self.z[rows], self.last[rows])


def expand(task: VectorProblem, trajectory: Trajectory, method: Literal["finite", "autograd"]) -> Expansion:
    """Expand every step of ``trajectory`` (``N`` rows).

    Finite differences replace automatic derivatives in the rows where these are not finite: torch's second derivative
    of a norm is NaN at zero. Derivatives are zero where a step does not count (after a termination, or failed), and
    where finite differences are not finite either, which ``known`` says. The Hessian of the cost is projected onto the
    positive semidefinite matrices (negative eigenvalues become zero).
    """
    horizon, count, size = trajectory.vectors.shape
    batch = _batch(task, trajectory, method)
    parts = (_automatic if method == "autograd" else _finite)(task, batch, size)
    counts = trajectory.counts.flatten()
    missing = (counts & ~_finite_throughout(parts)).nonzero().squeeze(1)
    if method == "autograd" and len(missing):
        other = _batch(task, trajectory, "finite").take(missing)
        jacobian, gradient, hessian = (
            part.index_copy(0, missing, found.to(part))
            for part, found in zip(parts, _finite(task, other, size), strict=True)
        )
        parts = (jacobian, gradient, hessian)
        batch = batch._replace(z=batch.z.index_copy(0, missing, other.z))
    known = counts & _finite_throughout(parts)
    jacobian, gradient, hessian = (
        th.where(known.view(-1, *[1] * (part.ndim - 1)), part, 0).to(th.float64) for part in parts
    )
    # The point of expansion was moved inside the bounds: back to the actions that were taken.
    back = (trajectory.actions.flatten(0, 1) - batch.z[:, size:]).to(hessian)
    gradient = gradient + (hessian[..., size:] @ back[..., None])[..., 0]
    expansion = Expansion(jacobian, -gradient, nearest_positive(-hessian), known)
    return Expansion(*(part.unflatten(0, (horizon, count)) for part in expansion))


def _batch(task: VectorProblem, trajectory: Trajectory, method: Literal["finite", "autograd"]) -> _Batch:
    """The points of a trajectory, actions so far inside the bounds that derivatives can be taken there."""
    z = th.cat([trajectory.vectors, _inside(task, trajectory.actions, _margin(task, method))], 2)  # (H, N, D)
    last = th.zeros(z.shape[:2], dtype=th.bool, device=z.device)
    last[-1] = task.problem.terminal_value is not None
    return _Batch(trajectory.states, z.flatten(0, 1), last.flatten())


def _finite_throughout(parts: tuple[Tensor, ...]) -> Tensor:
    """Rows ``(B,)`` in which all of ``parts (B, ...)`` are finite."""
    return th.stack([part.isfinite().flatten(1).all(1) for part in parts]).all(0)


def choose_method(task: VectorProblem, derivatives: Derivatives) -> Literal["finite", "autograd"]:
    """What ``derivatives`` means for this model, after a trial at the start.

    Raises:
        TypeError: automatic derivatives were asked for and no gradient flows through the model.
    """
    if derivatives == "finite":
        return "finite"
    z = th.cat([task.vector(task.start), task.problem.middle.to(task.dtype).expand(task.num_problems, -1)], 1)
    wants_value = task.problem.terminal_value is not None
    first = th.zeros(1, dtype=th.int64, device=z.device)
    last = th.full((1,), wants_value, device=z.device)
    batch = _Batch(take_rows(task.start, first), z[first], last)
    try:
        _automatic(task, batch, task.vector(task.start).shape[1])
    except (RuntimeError, TypeError) as error:  # what torch raises where a graph is cut
        if derivatives == "auto":
            return "finite"
        raise TypeError(
            f"No gradient flows through {type(task.model).__name__} ({error}): use derivatives='finite', or a model "
            "whose step is differentiable in its state and its action."
        ) from error
    return "autograd"


def nearest_positive(matrices: Tensor) -> Tensor:
    """The nearest positive semidefinite matrices ``(..., D, D)`` in the Frobenius norm; those that are one stay."""
    symmetric = (matrices + matrices.mT) / 2
    values, vectors = th.linalg.eigh(symmetric)
    clipped = (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mT
    return th.where(values[..., :1, None] < 0, clipped, symmetric)


def _evaluate(task: VectorProblem, states: Any, z: Tensor, last: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """``f (B, X)`` and ``g (B,)`` at ``z (B, D)``."""
    size = z.shape[1] - len(task.low)
    step = task.step(task.moved(states, z[:, :size]), z[:, size:], task.generator(), groups)
    if not last.any():
        return step.vector, step.reward
    value = task.problem.discount * task.problem.end_values(step.next_obs[last])
    return step.vector, step.reward.index_add(0, last.nonzero()[:, 0], value.to(step.reward))


# --- automatic --------------------------------------------------------------------------------------------------------


@th.enable_grad()
def _automatic(task: VectorProblem, batch: _Batch, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Jacobian ``(B, X, D)``, gradient ``(B, D)`` and Hessian ``(B, D, D)``: one backward pass per row of each.

    Rows do not depend on each other, so the gradient of a sum over rows holds each row's own.
    """
    z = batch.z.detach().requires_grad_()
    following, gain = _evaluate(task, batch.states, z, batch.last, groups=1)
    if not (following.requires_grad and gain.requires_grad):
        what = "next state" if gain.requires_grad else "reward"
        raise TypeError(f"its {what} does not depend on state and action in a way that torch can follow")
    jacobian = [_gradient(following[:, i].sum(), z) for i in range(size)]
    gradient = _gradient(gain.sum(), z, create_graph=True)
    if gradient.requires_grad:
        hessian = [_gradient(gradient[:, i].sum(), z) for i in range(z.shape[1])]
    else:  # linear
        hessian = [th.zeros_like(z)] * z.shape[1]
    return th.stack(jacobian, 1).detach(), gradient.detach(), th.stack(hessian, 1).detach()


def _gradient(total: Tensor, z: Tensor, create_graph: bool = False) -> Tensor:
    (found,) = th.autograd.grad(total, z, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return th.zeros_like(z) if found is None else found


# --- finite differences -----------------------------------------------------------------------------------------------


def _steps(task: VectorProblem) -> tuple[float, float]:
    r"""Relative steps of first and second differences.

    They are near their optimum :math:`\epsilon^{1/3}` and :math:`\epsilon^{1/4}` (Nocedal and Wright 2006, section
    8.1), but smaller for first ones in float64, where contacts bend the dynamics more than rounding blurs them.
    """
    return (1e-6, 1e-4) if task.precision == th.float64 else (5e-3, 2e-2)


def _finite(task: VectorProblem, batch: _Batch, size: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Central differences, all in one call of the model with :math:`D^2 + 3 D + 1` rows per step.

    .. math:: \partial_i f \approx \frac{f(z + h e_i) - f(z - h e_i)}{2 h}, \quad
              \partial_{ij} g \approx \frac{g_{+i+j} - g_{+i} - g_{+j} + 2 g - g_{-i} - g_{-j} + g_{-i-j}}{2 h^2}
    """
    rows, dims = batch.z.shape
    small, large = _steps(task)
    unit = th.eye(dims, dtype=batch.z.dtype, device=batch.z.device)
    first, second = th.triu_indices(dims, dims, 1, device=batch.z.device)
    pairs = unit[first] + unit[second]  # (D (D - 1) / 2, D)
    offsets = th.cat(
        [small * unit, -small * unit, large * unit, -large * unit, large * pairs, -large * pairs, 0 * unit[:1]]
    )
    scale = batch.z.abs().clamp(min=1)  # (B, D)
    groups = len(offsets)
    points = (batch.z + offsets[:, None] * scale).flatten(0, 1)  # (M B, D)
    each = th.arange(rows, device=batch.z.device).repeat(groups)
    following, gain = _evaluate(task, take_rows(batch.states, each), points, batch.last.repeat(groups), groups)
    following, gain = following.view(groups, rows, size).double(), gain.view(groups, rows).double()
    places = points.view(groups, rows, dims).double()
    axes = th.arange(dims, device=batch.z.device)
    # The actual distance of two points after rounding.
    width = (places[:dims] - places[dims : 2 * dims])[axes, :, axes]  # (D, B)
    jacobian = ((following[:dims] - following[dims : 2 * dims]) / width[..., None]).permute(1, 2, 0)
    gradient = ((gain[:dims] - gain[dims : 2 * dims]) / width).t()
    up, down, both_up, both_down, centre = gain[2 * dims :].split([dims, dims, len(pairs), len(pairs), 1])
    step = large * scale.double().t()  # (D, B)
    hessian = th.diag_embed(((up - 2 * centre + down) / step.square()).t())
    mixed = both_up - up[first] - up[second] + 2 * centre - down[first] - down[second] + both_down
    hessian[:, first, second] = (mixed / (2 * step[first] * step[second])).t()
    hessian[:, second, first] = hessian[:, first, second]
    return jacobian, gradient, hessian


# --- bounds -----------------------------------------------------------------------------------------------------------


def _margin(task: VectorProblem, method: str) -> float:
    """How far from a bound derivatives are taken: a model may clip actions there, and rounding may clip them early."""
    if method == "finite":
        return _steps(task)[1]
    return 1e-9 if task.precision == th.float64 and task.dtype == th.float64 else 1e-5


def _inside(task: VectorProblem, actions: Tensor, margin: float) -> Tensor:
    """Actions ``(..., A)`` at least ``margin`` (relative above 1) from each bound, in the middle of a narrower box."""
    room = th.minimum(margin * actions.abs().clamp(min=1) * 1.01, (task.high - task.low) / 2)
    return th.maximum(th.minimum(actions, task.high - room), task.low + room)
