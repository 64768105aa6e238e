from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch as th
from torch import Tensor

from controllers.trajectory.box_qp import free_solve, solve_box_qp


def by_enumeration(hessian: Tensor, gradient: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The best feasible point over all ways to hold entries at a bound, ``(A,)``."""
    best, least = None, np.inf
    for held in itertools.product((None, 0, 1), repeat=len(gradient)):
        x = th.stack([0 * low[i] if side is None else (low, high)[side][i] for i, side in enumerate(held)])
        free = [i for i, side in enumerate(held) if side is None]
        if free:
            x[free] = th.linalg.solve(hessian[free][:, free], -(gradient + hessian @ x)[free])
        value = float(0.5 * x @ hessian @ x + gradient @ x)
        if ((x >= low - 1e-12) & (x <= high + 1e-12)).all() and value < least:
            best, least = x, value
    assert best is not None
    return best


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_solution_is_that_of_trying_every_face(size: int) -> None:
    generator = th.Generator().manual_seed(size)
    root = th.randn(40, size, size, generator=generator, dtype=th.float64)
    hessian = root @ root.mT + 0.05 * th.eye(size, dtype=th.float64)
    gradient = 3 * th.randn(40, size, generator=generator, dtype=th.float64)
    low = -th.rand(40, size, generator=generator, dtype=th.float64)
    high = th.rand(40, size, generator=generator, dtype=th.float64)
    high[3] = low[3]  # no width
    x, free = solve_box_qp(hessian, gradient, low, high)
    wanted = th.stack([by_enumeration(*row) for row in zip(hessian, gradient, low, high, strict=True)])
    th.testing.assert_close(x, wanted, rtol=0, atol=1e-9)
    inside = (wanted > low + 1e-9) & (wanted < high - 1e-9)
    assert (free == inside).all()
    assert (x >= low).all()
    assert (x <= high).all()


def test_infinite_bounds_leave_the_newton_step() -> None:
    hessian, gradient = th.diag_embed(th.tensor([[2.0, 4.0]])).double(), th.tensor([[1.0, 1.0]]).double()
    edge = th.full((1, 2), th.inf, dtype=th.float64)
    x, free = solve_box_qp(hessian, gradient, -edge, edge)
    assert x.tolist() == [[-0.5, -0.25]]
    assert free.all()
    x, free = solve_box_qp(hessian, gradient, th.tensor([[-0.25, -th.inf]]).double(), edge)
    assert x.tolist() == [[-0.25, -0.25]]
    assert free.tolist() == [[False, True]]


def test_held_entries_have_no_gain() -> None:
    hessian = th.tensor([[[2.0, 1.0], [1.0, 4.0]]]).double()
    right = th.ones(1, 2, 3, dtype=th.float64)
    assert free_solve(hessian, right, th.tensor([[True, False]])).tolist() == [[[0.5] * 3, [0.0] * 3]]
