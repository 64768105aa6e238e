"""Whether rows are finite and inside a box, in few passes over the numbers.

Reductions of flags to one per row are slow on the CPU, those of numbers are not. So the smallest distance to an edge
is computed for each row, and only that is compared.
"""

from __future__ import annotations

import torch as th
from torch import Tensor


def distance_to_edge(rows: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The distance ``(B,)`` of each of ``rows (B, O)`` to the nearest edge of the box from ``low`` to ``high``.

    Its edges are ``(O,)``, or ``(B, O)`` for a box of each row's own.

    Zero on an edge and negative outside, exactly: a difference of two numbers has the right sign. NaN, of which
    every comparison is false, for a row with a NaN and for one that is infinite where the box is.
    """
    return th.minimum(rows - low, high - rows).amin(1)


def finite_rows(rows: Tensor) -> Tensor:
    """Which of ``rows (B, O)`` are finite throughout, ``(B,)`` bool."""
    # A finite number minus itself is zero, anything else is NaN.
    return (rows - rows).sum(1) == 0
