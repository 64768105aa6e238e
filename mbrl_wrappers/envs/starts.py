"""Where imagined branches begin: a function, an array of observations, or a buffer of real data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch as th
from numpy.typing import NDArray

StartSampler: TypeAlias = Callable[[int, np.random.Generator], NDArray[Any]]
"""``sampler(n, rng) -> (n, O)``: start observations in environment units, drawn with ``rng`` alone."""


@runtime_checkable
class ObservationSource(Protocol):
    """A buffer of real data that hands out observations, ``(n, O)``."""

    def sample_observations(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Draw ``n`` stored observations with ``rng``."""
        ...


@runtime_checkable
class NumberedObservations(ObservationSource, Protocol):
    """A buffer whose observations can also be asked for by number, so that many rows take one call."""

    def __len__(self) -> int:
        """How many observations are stored."""
        ...

    def observations_at(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """The observations ``(n, O)`` of the numbers ``index (n,)``, each below the length."""
        ...


class RowStarts(Protocol):
    """Draws starts: many from one stream, or one from each of many streams."""

    def __call__(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """``n`` start observations ``(n, O)``, drawn with ``rng`` alone."""
        ...

    def each(self, rngs: Sequence[np.random.Generator]) -> NDArray[Any]:
        """One start observation for each of the streams ``rngs``, drawn with it alone: ``(n, O)``."""
        ...


Starts: TypeAlias = StartSampler | ObservationSource | NDArray[Any] | th.Tensor
"""What branches and model environments take as ``starts``."""


@dataclass(frozen=True, init=False)
class UniformStarts:
    """Observations drawn uniformly from a box, whether a policy has been there or not.

    In Dyna the choice of where imagined experience begins is *search control* (Sutton and Barto 2018, section 8.2);
    this is the one that covers every state alike (section 8.6). It suits observations of few dimensions whose
    every combination is a state of the task: not those with a sine and a cosine of one angle.

    Args:
        low: lower edges ``(O,)``.
        high: upper edges ``(O,)``.

    Raises:
        ValueError: for edges that differ in number, are not finite, or cross.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        try:
            edges = np.array([low, high], np.float64)
        except (TypeError, ValueError):
            edges = np.zeros(0)
        if edges.ndim != 2 or not edges.shape[1]:
            raise ValueError(f"low and high need one number for each dimension, got {low!r} and {high!r}.")
        if not (np.abs(edges) < np.finfo(np.float32).max).all() or (edges[0] > edges[1]).any():
            raise ValueError(f"Each edge must be finite and low at most high, got {low!r} and {high!r}.")
        object.__setattr__(self, "low", tuple(edges[0].tolist()))
        object.__setattr__(self, "high", tuple(edges[1].tolist()))

    def __call__(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """``n`` observations ``(n, O)``."""
        return self._between(rng.random((n, len(self.low))))

    def each(self, rngs: Sequence[np.random.Generator]) -> NDArray[Any]:
        """One observation for each stream, ``(n, O)``."""
        return self._between(np.array([rng.random(len(self.low)) for rng in rngs]))

    def _between(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        low = np.array(self.low)
        starts: NDArray[np.float64] = low + (np.array(self.high) - low) * share
        return starts


def start_sampler(starts: Starts, obs_dim: int) -> RowStarts:
    """Turn any kind of starts into one checked sampler.

    Args:
        starts: a callable ``(n, rng) -> (n, O)``, an object with ``sample_observations(n, rng)`` (both replay buffers
            of this project have it), or observations ``(M, O)`` from which rows are drawn uniformly, with replacement.
        obs_dim: ``O``.

    Returns:
        A sampler whose result is checked for shape and finiteness at each call.

    Raises:
        TypeError: if ``starts`` is none of the three.
        ValueError: for an array of the wrong shape, an empty one, or one that is not finite; later, when called,
            if the callable or the buffer returns such an array.
    """
    if isinstance(starts, UniformStarts):
        if len(starts.low) != obs_dim:
            raise ValueError(f"The box of starts has {len(starts.low)} dimensions and an observation {obs_dim}.")
        return starts
    if isinstance(starts, NumberedObservations):
        return _Numbered(starts, obs_dim)
    if isinstance(starts, ObservationSource):
        return _Checked(starts.sample_observations, obs_dim, f"{type(starts).__name__}.sample_observations")
    if callable(starts):
        return _Checked(starts, obs_dim, "the starts function")
    return _rows_of(starts, obs_dim)  # checked once


def check_observations(obs: object, rows: int | None, obs_dim: int, name: str) -> NDArray[Any]:
    """Return ``obs`` as a finite float array ``(rows, O)`` or raise a ``ValueError`` that names the culprit.

    Args:
        obs: an array or tensor.
        rows: the expected number of rows; ``None`` accepts any.
        obs_dim: ``O``.
        name: what to call it in the message.
    """
    array = np.asarray(obs.detach().cpu() if isinstance(obs, th.Tensor) else obs)
    wanted = f"({'n' if rows is None else rows}, {obs_dim})"
    if array.ndim != 2 or array.shape[1] != obs_dim or (rows is not None and len(array) != rows):
        hint = " One observation is obs[None]." if array.shape == (obs_dim,) else ""
        raise ValueError(f"{name} must give observations of shape {wanted}, got {array.shape}.{hint}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must give numbers, got dtype {array.dtype}.")
    finite = np.isfinite(array)
    if not finite.all():
        row, index = np.argwhere(~finite)[0]
        raise ValueError(f"{name} gave a non-finite observation: row {row}, index {index} is {array[row, index]}.")
    return array


# Classes and not closures: environments are pickled, by vector environments of processes and by deepcopy.


@dataclass(frozen=True)
class _Checked:
    """A user's sampler, whose every draw is checked. It is called once per stream, since it may draw anything."""

    draw: StartSampler
    obs_dim: int
    name: str

    def __call__(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        return check_observations(self.draw(n, rng), n, self.obs_dim, self.name)

    def each(self, rngs: Sequence[np.random.Generator]) -> NDArray[Any]:
        drawn = [np.asarray(self.draw(1, rng)) for rng in rngs]
        for start in drawn:
            if start.shape != (1, self.obs_dim):
                check_observations(start, 1, self.obs_dim, self.name)
        return check_observations(np.concatenate(drawn), len(rngs), self.obs_dim, self.name)


@dataclass(frozen=True)
class _Numbered:
    """A buffer's observations, each as likely as any other, with replacement."""

    source: NumberedObservations
    obs_dim: int

    def __call__(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        return self._checked(self.source.sample_observations(n, rng))

    def each(self, rngs: Sequence[np.random.Generator]) -> NDArray[Any]:
        return self._checked(self.source.observations_at(_one_of(len(self.source), rngs)))

    def _checked(self, drawn: object) -> NDArray[Any]:
        return check_observations(drawn, None, self.obs_dim, type(self.source).__name__)


@dataclass(frozen=True)
class _StoredRows:
    """Rows ``(M, O)`` drawn uniformly, with replacement."""

    rows: NDArray[Any]

    def __call__(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        drawn: NDArray[Any] = self.rows[rng.integers(len(self.rows), size=n)]
        return drawn

    def each(self, rngs: Sequence[np.random.Generator]) -> NDArray[Any]:
        drawn: NDArray[Any] = self.rows[_one_of(len(self.rows), rngs)]
        return drawn


def _one_of(count: int, rngs: Sequence[np.random.Generator]) -> NDArray[np.int64]:
    """A number below ``count`` from each stream, ``(n,)``."""
    # A float takes a twentieth of the time of an integer; that one number is likelier by 2**-53 does not matter.
    return (count * np.array([rng.random() for rng in rngs])).astype(np.int64)


def _rows_of(starts: object, obs_dim: int) -> RowStarts:
    if not isinstance(starts, np.ndarray | th.Tensor | list | tuple):
        raise TypeError(
            f"starts must be a function (n, rng) -> (n, {obs_dim}), an array of observations (M, {obs_dim}) or a "
            f"buffer with sample_observations(n, rng); got {type(starts).__name__}."
        )
    rows = check_observations(starts, None, obs_dim, "starts").copy()
    if not len(rows):
        raise ValueError("starts is empty: a branch needs at least one observation to start from.")
    return _StoredRows(rows)
