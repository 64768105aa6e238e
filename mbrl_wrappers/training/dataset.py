"""Splitting transitions into training and holdout rows, and drawing bootstrap batches from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.types import Transitions

MIN_ROWS = 10


class Split(NamedTuple):
    """Row indices, both int64 on the CPU: ``train (n,)`` and ``holdout (m,)``, disjoint."""

    train: Tensor
    holdout: Tensor


def split_holdout(num_rows: int, ratio: float, max_holdout: int, *, seed: int) -> Split:
    """Draw a random holdout of ``ratio`` of the rows, at most ``max_holdout`` and at least one.

    Row ``i`` gets the ``i``-th number of one seeded stream, so while data are only appended a row that was held out in
    one fit is held out in the next: a warm-started model never saw its holdout, except for what a full cap releases.
    """
    draws = np.random.default_rng(seed).random(num_rows)
    count = min(max(round(ratio * num_rows), 1), max_holdout)
    order = np.argsort(draws, kind="stable")
    return Split(th.as_tensor(np.sort(order[count:])), th.as_tensor(np.sort(order[:count])))


def bootstrap_rows(train: Tensor, num_members: int, *, generator: Generator, resample: bool = True) -> Tensor:
    """The rows of each member ``(E, n)``: drawn with replacement once, or all rows for each when not ``resample``."""
    count = len(train)
    if not resample:
        return train.expand(num_members, count)
    return train[th.randint(count, (num_members, count), generator=generator)]


def shuffled_batches(rows: Tensor, batch_size: int, *, generator: Generator) -> Iterator[Tensor]:
    """One epoch: each member's rows ``(E, n)`` in its own order, in batches ``(E, <= batch_size)``."""
    order = th.rand(rows.shape, generator=generator).argsort(1)
    yield from rows.gather(1, order).split(batch_size, dim=1)


def check_transitions(transitions: Transitions) -> None:
    """Raise a ``ValueError`` that says what is wrong with data that cannot be learned from."""
    if transitions.num_rows < MIN_ROWS:
        raise ValueError(
            f"Need at least {MIN_ROWS} transitions to fit a model and hold some out, got {transitions.num_rows}. "
            "Collect more real steps before the first fit."
        )
    for name in ("obs", "action", "reward", "next_obs"):
        values: Tensor = getattr(transitions, name)
        finite = values.reshape(len(values), -1).isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise ValueError(
                f"Transition {row} has a non-finite {name}: {values[row].tolist()}. Drop it before fitting."
            )
