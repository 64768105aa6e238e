"""Quadratic programs in a box: a batch of small ones at once, by projected Newton steps."""

from __future__ import annotations

import torch as th
from torch import Tensor

MAX_STEPS = 50
HALVINGS = 12


def solve_box_qp(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    r"""Minimise :math:`\frac12 x^\top Q x + q^\top x` subject to :math:`l \le x \le h`.

    Projected Newton (Bertsekas 1982; Tassa, Mansard and Todorov 2014, section III.C): entries at a bound
    whose gradient points out of the box are fixed, a Newton step is taken in the others, projected onto the box, and
    shortened until the objective falls.

    Args:
        hessian: ``(N, A, A)`` positive definite.
        gradient: ``(N, A)``.
        low: ``(N, A)``, may be minus infinity.
        high: ``(N, A)``, not below ``low``.

    Returns:
        The minimiser ``(N, A)``, and which of its entries are free, ``(N, A)`` bool: not fixed at a bound.
    """
    x = -solve(hessian, gradient[..., None])[..., 0]
    if ((x > low) & (x < high)).all():
        return x, th.ones_like(x, dtype=th.bool)
    x = x.clamp(low, high)
    held = _held(x, _slope(hessian, gradient, x), low, high)
    if x.shape[1] == 1:
        return x, ~held
    for _ in range(MAX_STEPS):
        slope = _slope(hessian, gradient, x)
        held = _held(x, slope, low, high)
        step = _newton(hessian, slope, held)
        moving = step.abs().amax(1) > 1e-12 * (1 + x.abs().amax(1))
        if not moving.any():
            break
        x = _shortened(hessian, gradient, x, th.where(moving[:, None], step, 0), low, high)
    return x, ~held


def free_solve(hessian: Tensor, right: Tensor, free: Tensor) -> Tensor:
    """Solve ``Q_ff y_f = right_f`` for ``right (N, A, M)`` with ``y`` zero in the entries that are not free."""
    if not free.all():
        both = free[:, :, None] & free[:, None, :]
        hessian = th.where(both, hessian, th.diag_embed((~free).to(hessian)))
        right = th.where(free[..., None], right, 0)
    return solve(hessian, right)


def solve(matrices: Tensor, right: Tensor) -> Tensor:
    """``Q^-1 right`` for ``Q (N, A, A)`` and ``right (N, A, M)``.

    One action is the common case, and a division spares it the threads that linear algebra starts for a batch.
    """
    if matrices.shape[-1] == 1:
        return right / matrices
    solution: Tensor = th.linalg.solve(matrices, right)
    return solution


def _slope(hessian: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
    return gradient + (hessian @ x[..., None])[..., 0]


def _held(x: Tensor, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return ((x <= low) & (slope >= 0)) | ((x >= high) & (slope <= 0))


def _newton(hessian: Tensor, slope: Tensor, held: Tensor) -> Tensor:
    return -free_solve(hessian, slope[..., None], ~held)[..., 0]


def _shortened(hessian: Tensor, gradient: Tensor, x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The best of ``x + step / 2^j`` projected onto the box, and of ``x`` itself."""
    sizes = 0.5 ** th.arange(HALVINGS, dtype=x.dtype, device=x.device)
    tried = (x + sizes[:, None, None] * step).clamp(low, high)
    tried = th.cat([tried, x[None]])  # (J, N, A)
    value = 0.5 * (tried * (hessian @ tried[..., None])[..., 0]).sum(2) + (gradient * tried).sum(2)
    place = value.argmin(0)
    return tried[place, th.arange(len(x), device=x.device)]
