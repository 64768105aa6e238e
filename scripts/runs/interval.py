"""Interquartile mean and its stratified-bootstrap interval.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A point estimate with the ends of its interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: npt.ArrayLike, axis: int = -1) -> FloatArray:
    r"""The mean of the middle half of the scores.

    Of ``n`` scores, :math:`\lfloor n/4 \rfloor` are dropped at each end, so up to three scores it is the plain mean.

    Args:
        scores: scores of which none may be missing.
        axis: the axis to reduce.

    Raises:
        ValueError: if there is no score or one is not finite.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=axis)
    count = ordered.shape[axis]
    if count == 0 or not np.isfinite(ordered).all():
        raise ValueError("The interquartile mean needs at least one score, and all of them finite.")
    cut = count // 4
    middle: FloatArray = np.take(ordered, np.arange(cut, count - cut), axis=axis).mean(axis=axis)
    return middle


def stratified_bootstrap(
    scores: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Interval:
    """The interquartile mean of runs by tasks, with a percentile-bootstrap interval.

    Seeds are drawn with replacement inside each task, so that every resample holds every task.

    Args:
        scores: ``(seeds,)`` of one task or ``(seeds, tasks)``.
        level: coverage of the interval.
        resamples: how many resamples.
        seed: of the resampling.

    Raises:
        ValueError: if ``scores`` has another shape, or holds no score or one that is not finite.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise ValueError(f"scores must be (seeds,) or (seeds, tasks), got shape {table.shape}.")
    value = float(interquartile_mean(table.ravel()))
    seeds, tasks = table.shape
    rows = np.random.default_rng(seed).integers(seeds, size=(resamples, seeds, tasks))
    drawn = table[rows, np.arange(tasks)].reshape(resamples, -1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(interquartile_mean(drawn), [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))
