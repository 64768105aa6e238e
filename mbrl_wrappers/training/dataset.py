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


def split_holdout(row_ids: Tensor, ratio: float, max_holdout: int, *, seed: int) -> Split:
    """Draw a random holdout of about ``ratio`` of the rows: at least one, at most ``max_holdout``, never all.

    A row is held out when its number of one seeded stream is small, whatever other rows there are. So a row that was
    held out in one fit is held out in the next, and a warm-started model never learned from its holdout. (When the cap
    is reached, rows leave the holdout for good.)

    Args:
        row_ids: ``(B,)`` int64, what identifies a row from fit to fit: its number in order of collection.
        ratio: share of the rows.
        max_holdout: the cap.
        seed: of the stream.
    """
    draws = np.random.default_rng(seed).random(int(row_ids.max()) + 1)[row_ids.numpy()]
    order = np.argsort(draws, kind="stable")
    count = min(max(int((draws < ratio).sum()), 1), max_holdout, len(row_ids) - 1)
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
    columns = {**transitions._asdict(), "change of the observation": transitions.next_obs - transitions.obs}
    for name in ("obs", "action", "reward", "next_obs", "change of the observation"):
        values: Tensor = columns[name]
        finite = values.reshape(len(values), -1).isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise ValueError(
                f"Transition {row} has a non-finite {name}: {values[row].tolist()}. Drop it before fitting."
            )
