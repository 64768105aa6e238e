"""Models that are bound to live environments: which environments, and which of them a row belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor

AnyEnv = gymnasium.Env[Any, Any]

NOT_STORABLE = (
    "it is bound to live environments and has no parameters. Save what made the environments and build the model anew"
)
"""Why a model of this kind cannot be saved, as :func:`mbrl_wrappers.save` says it."""


def bound_envs(env: object, model: str) -> tuple[AnyEnv, ...]:
    """The environments behind ``env``: itself, the members of a sequence, or those of a vector environment's ``envs``.

    Raises:
        TypeError: there are none in this process.
        ValueError: they differ in their spaces.
    """
    if isinstance(env, gymnasium.Env):
        return (env,)
    members: Any = getattr(env, "envs", env)
    if not isinstance(members, Sequence) or not members or not all(isinstance(e, gymnasium.Env) for e in members):
        raise TypeError(
            f"{model} takes a gymnasium.Env, a list of them, or a vector environment that has them in this process "
            f"(DummyVecEnv, SyncVectorEnv), not {type(env).__name__}: the state of environments in other processes "
            "(SubprocVecEnv, AsyncVectorEnv) cannot be read."
        )
    first = members[0]
    for other in members[1:]:
        if (other.observation_space, other.action_space) != (first.observation_space, first.action_space):
            raise ValueError(f"All environments of one {model} must have the same spaces: {other} differs from {first}")
    return tuple(members)


def spaces_of(envs: Sequence[AnyEnv]) -> list[Any]:
    """The observation and action spaces of environments."""
    return [space for env in envs for space in (env.observation_space, env.action_space)]


def check_spaces(envs: Sequence[AnyEnv], before: list[Any]) -> None:
    """Compare the spaces of live environments with those that they had ``before``.

    Raises:
        ValueError: one has changed.
    """
    for number, (space, old) in enumerate(zip(spaces_of(envs), before, strict=True)):
        if space is not old and space != old:
            raise ValueError(
                f"The spaces of {envs[number // 2]} have changed since the model was built: build the model anew."
            )


def match_rows(obs: Tensor, live: NDArray[Any]) -> Tensor:
    """Which environment each row shows, ``(B,)`` int64.

    Rows in blocks of equal length, one block per environment, are tried first; otherwise the first environment that
    shows exactly this observation takes the row. Rows with more digits than float32
    holds are compared in float64, others in float32.

    Args:
        obs: ``(B, O)``.
        live: ``(n, O)`` the current observations of the environments.

    Raises:
        ValueError: for another shape, a row that no environment shows, or one that float32 does not tell apart.
    """
    if obs.ndim != 2 or obs.shape[1] != live.shape[1]:
        raise ValueError(
            f"Observations of shape (B, {live.shape[1]}) are needed, got {tuple(obs.shape)}: is this the model of "
            "another environment?"
        )
    given = obs.detach().cpu().numpy()
    rows = given.astype(np.float32)
    if np.array_equal(rows, given, equal_nan=True) or live.dtype != np.float64:
        shown = live.astype(np.float32)
    else:
        rows, shown = given, live
    count = len(shown)
    if len(rows) % count == 0 and _same(rows, shown.repeat(len(rows) // count, 0)).all():
        return th.arange(count).repeat_interleave(len(rows) // count)
    source = np.full(len(rows), -1)
    for number in reversed(range(count)):
        fits = _same(rows, shown[number])
        for row in np.flatnonzero(fits & (source >= 0)).tolist():
            if not _same(live[number], live[source[row]]):
                raise ValueError(
                    f"Row {row} fits environments {number} and {source[row]}, which show different observations "
                    "that are equal in float32: pass the observations in float64."
                )
        source[fits] = number
    if (source < 0).any():
        row = int(np.flatnonzero(source < 0)[0])
        largest = float(np.nanmin(np.abs(rows[row] - shown).max(1)))
        raise ValueError(
            f"Row {row} is the current observation of none of the {count} environments of this model (the nearest "
            f"differs by up to {largest:.3g}). The model reads the state of its live environments, so give it their "
            "latest observation: not one from before their last step or reset, not one of other environments "
            "(evaluation ones, or copies in the processes of a SubprocVecEnv), and not one that VecNormalize or "
            "another wrapper outside of them has changed."
        )
    return th.as_tensor(source)


def _same(rows: NDArray[Any], shown: NDArray[Any]) -> NDArray[np.bool_]:
    """Per row, whether all entries are equal; a NaN equals a NaN: an environment that diverged is recognised."""
    same: NDArray[np.bool_] = ((rows == shown) | (np.isnan(rows) & np.isnan(shown))).all(-1)
    return same
