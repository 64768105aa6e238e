"""The backward pass: the best change of actions for a quadratic model of the problem."""

from __future__ import annotations

from typing import NamedTuple

import torch as th
from torch import Tensor

from controllers.trajectory.box_qp import free_solve, solve, solve_box_qp
from controllers.trajectory.derivatives import Expansion

# A curvature below this is rounding.
SMALLEST_PIVOT = 1e-9


class Gains(NamedTuple):
    r"""How actions should change: :math:`\delta u_t = k_t + K_t\,\delta x_t`.

    Attributes:
        feedforward: ``(H, N, A)``.
        feedback: ``(H, N, A, X)``.
        improvement: ``(N,)`` by how much the quadratic model says the score will rise.
        solved: ``(N,)`` bool, False where a step had no positive definite curvature in the action.
    """

    feedforward: Tensor
    feedback: Tensor
    improvement: Tensor
    solved: Tensor


class ChangeBounds(NamedTuple):
    """Bounds on the change of actions, ``low`` and ``high`` each ``(H, N, A)``."""

    low: Tensor
    high: Tensor


def backward(
    expansion: Expansion,
    discount: float,
    ridge: Tensor,
    *,
    bounds: ChangeBounds | None = None,
    defect: Tensor | None = None,
) -> Gains:
    r"""The discounted Riccati recursion (Tassa, Erez and Todorov 2012, equations 5, 6 and 11), from the last step back.

    With the value's gradient :math:`v` and Hessian :math:`V` of the next step, and the step's Jacobian
    :math:`F = (f_x, f_u)`,

    .. math:: q = \ell_z + \gamma F^\top (v + V d), \quad Q = \ell_{zz} + \gamma F^\top V F, \quad
              k, K = \arg\min_{\delta u} \tfrac12 \delta z^\top Q\,\delta z + q^\top \delta z + \tfrac\mu2 |\delta u|^2

    and :math:`v`, :math:`V` of this step follow by inserting :math:`k` and :math:`K` with the curvature as it is,
    without :math:`\mu`. With ``bounds`` the minimum is taken in the box, and entries at a bound have no feedback
    (Tassa, Mansard and Todorov 2014, section III).

    Args:
        expansion: of every step.
        discount: :math:`\gamma`.
        ridge: :math:`\mu`, ``(N,)``.
        bounds: bounds on the change of actions; None for none.
        defect: :math:`d`, ``(N, X)``: where the expansion's step leads, less where the next one was expanded; None for
            zero, as along a trajectory.
    """
    horizon, count, size, dims = expansion.jacobian.shape
    identity = th.eye(dims - size, dtype=th.float64, device=ridge.device)
    value, curvature = expansion.gradient.new_zeros(count, size), expansion.gradient.new_zeros(count, size, size)
    improvement, solved = expansion.gradient.new_zeros(count), th.ones(count, dtype=th.bool, device=ridge.device)
    regular = ridge.double()[:, None, None] * identity
    forward: list[tuple[Tensor, Tensor]] = []
    for t in reversed(range(horizon)):
        jacobian = expansion.jacobian[t]
        ahead = value if defect is None else value + (curvature @ defect[..., None])[..., 0]
        slope = expansion.gradient[t] + discount * (jacobian.mT @ ahead[..., None])[..., 0]
        whole = expansion.hessian[t] + discount * (jacobian.mT @ curvature @ jacobian)
        own, cross = whole[:, size:, size:], whole[:, size:, :size]
        damped, fine = _definite(own + regular, identity)
        solved = solved & fine
        here = None if bounds is None else (bounds.low[t], bounds.high[t])
        k, gain = _minimise(damped, slope[:, size:], cross, here)
        k, gain = th.where(fine[:, None], k, 0), th.where(fine[:, None, None], gain, 0)
        bent = slope[:, size:] + (own @ k[..., None])[..., 0]
        improvement = discount * improvement - ((slope[:, size:] + bent) * k).sum(1) / 2
        value = slope[:, :size] + (gain.mT @ bent[..., None] + cross.mT @ k[..., None])[..., 0]
        curvature = whole[:, :size, :size] + gain.mT @ own @ gain + gain.mT @ cross + cross.mT @ gain
        curvature = (curvature + curvature.mT) / 2
        forward.append((k, gain))
    feedforward, feedback = zip(*reversed(forward), strict=True)
    return Gains(th.stack(feedforward), th.stack(feedback), improvement, solved)


def _definite(matrices: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices ``(N, A, A)`` that are positive definite, identities for others, and which are, ``(N,)``."""
    if len(identity) == 1:
        fine = matrices[:, 0, 0] > SMALLEST_PIVOT
    else:
        factor, failed = th.linalg.cholesky_ex(matrices)
        fine = (failed == 0) & (factor.diagonal(dim1=1, dim2=2).amin(1) ** 2 > SMALLEST_PIVOT)
    return th.where(fine[:, None, None], matrices, identity), fine


def _minimise(
    curvature: Tensor, slope: Tensor, cross: Tensor, bounds: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """The change ``(N, A)`` that minimises the quadratic model, and its gain ``(N, A, X)`` on the state's change."""
    if bounds is None:
        both = solve(curvature, th.cat([slope[..., None], cross], 2))
        return -both[..., 0], -both[..., 1:]
    change, free = solve_box_qp(curvature, slope, *bounds)
    return change, -free_solve(curvature, cross, free)
