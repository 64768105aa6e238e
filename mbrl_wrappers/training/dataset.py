"""Splitting transitions into training and holdout rows, and drawing bootstrap batches from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.precision import observation_dtype
from mbrl_wrappers.types import Transitions

MIN_ROWS = 10

# The share of rows that is held out falls, as there are more of them, to this part of what it is at first.
SMALLEST_SHARE = 0.25

# Scaled actions may leave [-1, 1] by the rounding of bounds in float32.
ACTION_TOLERANCE = 1e-3


class FittedModel(Protocol):
    """What a check of rows asks of the model that learns from them."""

    @property
    def obs_size(self) -> int:
        """``O``."""
        ...

    @property
    def action_size(self) -> int:
        """``A``."""
        ...

    @property
    def action_bounds(self) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest model action, each ``(A,)``, where they are known."""
        ...

    @property
    def device(self) -> th.device:
        """Where the weights live."""
        ...

    @property
    def dtype(self) -> th.dtype:
        """That of the weights."""
        ...


class Split(NamedTuple):
    """Row indices, both int64 on the CPU: ``train (n,)`` and ``holdout (m,)``, disjoint."""

    train: Tensor
    holdout: Tensor


def split_holdout(row_ids: Tensor, ratio: float, max_holdout: int, *, seed: int) -> Split:
    r"""Draw a random holdout: at least one row, at most ``max_holdout``, never all.

    Row number :math:`i` is kept from training when its own draw :math:`u_i` of one seeded stream is small,

    .. math:: u_i < \max\big(\min(\rho, n_{max} / (i + 1)), \rho / 4\big),

    with ``ratio`` :math:`\rho` and ``max_holdout`` :math:`n_{max}`. Other rows and earlier fits play no part. So a row
    that was kept from training in one fit is kept from it in all, also by a trainer that is made anew or when a ring of
    rows has wrapped around, and a warm-started model never learned from its holdout. Of the rows that are kept, those
    with the smallest draws are the holdout; the others are not used. The share falls as rows grow in number so that
    these stay few. One of the first :data:`MIN_ROWS` rows is always kept; should no row be, because ``row_ids`` begin
    later, the one with the smallest draw is.

    Args:
        row_ids: ``(B,)`` int64, what identifies a row from fit to fit: its number in order of collection.
        ratio: share of the first rows.
        max_holdout: rows held out at most.
        seed: of the stream.
    """
    ids = row_ids.numpy()
    stream = np.random.default_rng(seed).random(max(int(ids.max()) + 1, MIN_ROWS))
    draws = stream[ids]
    kept = draws < np.maximum(np.minimum(ratio, max_holdout / (ids + 1)), SMALLEST_SHARE * ratio)
    kept |= ids == stream[:MIN_ROWS].argmin()
    order = np.argsort(draws, kind="stable")
    ranked = order[kept[order]]  # the rows that are kept, by their draws
    if not len(ranked):
        kept[order[0]], ranked = True, order[:1]
    elif len(ranked) == len(ids):
        kept[order[-1]], ranked = False, ranked[:-1]
    return Split(th.as_tensor(np.flatnonzero(~kept)), th.as_tensor(np.sort(ranked[:max_holdout])))


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


def training_rows(transitions: Transitions, model: FittedModel) -> Transitions:
    """The rows as ``model`` learns from them, on its device: numbers float32, flags bool.

    Observations stay float64 where float32 would lose their changes.

    Raises:
        TypeError: for columns that are not tensors.
        ValueError: for too few rows, a column of the wrong shape, numbers that are not finite in float32, or actions
            that are not model actions.
    """
    for name, column in zip(Transitions._fields, transitions, strict=True):
        if not isinstance(column, Tensor):
            raise TypeError(
                f"Transitions.{name} must be a torch tensor, got {type(column).__name__}. Make them of numpy arrays "
                "with Transitions.from_numpy(..., codec=model.codec), which scales the actions of the environment, or "
                "keep them in a TransitionStore."
            )
    count = transitions.num_rows
    if count < MIN_ROWS:
        raise ValueError(
            f"Need at least {MIN_ROWS} transitions to fit a model and hold some out, got {count}. "
            "Collect more real steps before the first fit."
        )
    widths = {"obs": (model.obs_size,), "next_obs": (model.obs_size,), "action": (model.action_size,)}
    for name, column in zip(Transitions._fields, transitions, strict=True):
        shape = (count, *widths.get(name, ()))
        if tuple(column.shape) != shape:
            raise ValueError(f"Transitions.{name} must have shape {shape} for this model, got {tuple(column.shape)}.")
    dtypes = dict.fromkeys(Transitions._fields, model.dtype) | {"terminated": th.bool, "last": th.bool}
    if transitions.obs.dtype == transitions.next_obs.dtype == th.float64:
        kept = observation_dtype(transitions.obs.cpu().numpy(), transitions.next_obs.cpu().numpy())
        dtypes |= dict.fromkeys(("obs", "next_obs"), th.float64 if kept is np.float64 else model.dtype)
    columns = zip(transitions, dtypes.values(), strict=True)
    rows = Transitions(*(column.to(model.device, dtype) for column, dtype in columns))
    _check_numbers(rows)
    _check_actions(rows.action, model)
    return rows


def _check_numbers(rows: Transitions) -> None:
    columns = {**rows._asdict(), "change of the observation": rows.next_obs - rows.obs}
    for name in ("obs", "action", "reward", "next_obs", "change of the observation"):
        values: Tensor = columns[name]
        finite = values.reshape(len(values), -1).float().isfinite().all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise ValueError(
                f"Transition {row} has a non-finite {name}: {values[row].tolist()}. Drop it before fitting."
            )


def _check_actions(action: Tensor, model: FittedModel) -> None:
    """Refuse rows that hold actions of the environment, which would be scaled once too few."""
    bounds = model.action_bounds
    if bounds is None:
        return
    low, high = (edge.to(action) for edge in bounds)
    outside = ((action < low - ACTION_TOLERANCE) | (action > high + ACTION_TOLERANCE)) & (high > low)
    outside = outside.any(1)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"Transition {row} has the action {action[row].tolist()}, outside of the model actions {low.tolist()} to "
            f"{high.tolist()}. Scale actions of the environment first: model.codec.from_env(actions), or make the rows "
            "with Transitions.from_numpy(..., codec=model.codec)."
        )


def checked_row_ids(row_ids: Tensor | None, count: int) -> Tensor:
    """``row_ids`` on the CPU as int64, by default the positions ``0 ... count - 1``.

    Raises:
        ValueError: unless there is one whole number of at least 0 for each row.
    """
    if row_ids is None:
        return th.arange(count)
    ids = th.as_tensor(row_ids).cpu()
    if tuple(ids.shape) != (count,) or ids.is_floating_point() or ids.dtype == th.bool or bool((ids < 0).any()):
        raise ValueError(
            f"row_ids must be {count} whole numbers of at least 0, one for each transition, got {ids.dtype} of shape "
            f"{tuple(ids.shape)}."
        )
    return ids.long()
