"""The weights of an ensemble at their best, member by member."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import Tensor


class BestWeights:
    """The best weights of each member so far, kept and restored member by member.

    Args:
        parameters: what is trained, each with the member axis first.
        errors: holdout error of each member with the present weights, ``(E,)``.
        min_improvement: relative fall that :meth:`update` reports as an improvement.
    """

    def __init__(self, parameters: Sequence[Tensor], errors: Tensor, min_improvement: float) -> None:
        self._parameters = list(parameters)
        self._min_improvement = min_improvement
        self._kept = [parameter.detach().clone() for parameter in parameters]
        self.errors = errors.clone()
        self._reference = errors.clone()

    @th.no_grad()
    def update(self, errors: Tensor) -> bool:
        """Keep the weights of every member that became better; say whether any did so by enough to go on."""
        better = errors < self.errors  # a NaN is not better
        if better.any():
            for kept, parameter in zip(self._kept, self._parameters, strict=True):
                kept[better] = parameter[better]
            self.errors[better] = errors[better]
        # Measured from the last error that counted, so that many small gains add up to one.
        enough = errors < (1 - self._min_improvement) * self._reference
        self._reference[enough] = errors[enough]
        return bool(enough.any())

    @th.no_grad()
    def restore(self, members: Tensor | None = None) -> None:
        """Put the kept weights of ``members (E,)`` bool back, by default those of all."""
        for kept, parameter in zip(self._kept, self._parameters, strict=True):
            parameter.copy_(kept if members is None else th.where(_along(members, kept), kept, parameter))


def _along(members: Tensor, rows: Tensor) -> Tensor:
    """``members (E,)`` in a shape that broadcasts over ``rows (E, ...)``."""
    return members.reshape(-1, *([1] * (rows.ndim - 1)))
