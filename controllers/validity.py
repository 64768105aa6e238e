"""Which predictions a plan may rely on: finite ones, inside the limits of the model."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import Tensor

from mbrl_wrappers.ranges import finite_rows
from mbrl_wrappers.types import DynamicsModel, Limits, Prediction

SLACK = 0.1
"""How far beyond a start outside of the limits predictions may lie, as a share of the width of the limits."""


def limits_from(model: DynamicsModel[Any], start: Tensor | None) -> Limits | None:
    """The model's ``limits`` as they are now, widened to contain all of ``start (N, O)``; None where it has none.

    Widening lets plans from a start outside of the limits be valid: they may lead back or go on along the edge, and
    :data:`SLACK` allows for the noise and the momentum of the first steps.
    """
    limits: Limits | None = getattr(model, "limits", None)
    if limits is None or start is None:
        return limits
    return _widened(limits, *th.aminmax(start, dim=0))


def limits_of_rows(model: DynamicsModel[Any], start: Tensor | None, rows: Tensor) -> Limits | None:
    """Limits for rows that begin at ``start[rows]``, each widened to contain its own start and no other.

    Args:
        model: whose limits.
        start: ``(N, O)``, or None for starts without observations.
        rows: ``(B,)`` int64.

    Returns:
        Limits of observations of shape ``(B, O)`` where a start lies outside, else ``(O,)``; None for a model without.
    """
    limits: Limits | None = getattr(model, "limits", None)
    if limits is None or start is None or bool(limits.contains(start).all()):
        return limits
    widened = _widened(limits, start, start)
    return widened._replace(obs_low=widened.obs_low[rows], obs_high=widened.obs_high[rows])


def _widened(limits: Limits, low: Tensor, high: Tensor) -> Limits:
    obs_low, obs_high = limits.obs_low.to(low), limits.obs_high.to(high)
    slack = SLACK * (obs_high - obs_low)
    return limits._replace(
        obs_low=th.where(low < obs_low, low - slack, obs_low),
        obs_high=th.where(high > obs_high, high + slack, obs_high),
    )


def valid_rows(prediction: Prediction, limits: Limits | None) -> Tensor:
    """Which rows of a prediction are finite and inside ``limits``; ``(B,)`` bool, or ``(B, T)`` of whole sequences."""
    next_obs, reward = prediction.next_obs.detach(), prediction.reward.detach()
    flat = Prediction(next_obs.flatten(0, -2), reward.flatten(), prediction.terminated.flatten())
    if limits is None:
        valid = flat.reward.isfinite() & finite_rows(flat.next_obs)
    else:
        valid = limits.accepts(flat)
    return valid.view(reward.shape)
