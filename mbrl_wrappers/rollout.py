"""Branched rollouts: many short model trajectories from real states, in one call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.precision import model_dtype
from mbrl_wrappers.ranges import finite_rows
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.starts import check_starts
from mbrl_wrappers.types import DynamicsModel, Limits, RolloutPolicy, S, Transitions


class Rollout(NamedTuple):
    """What a branched rollout produced, ``R`` rows ordered by step and then by branch.

    Attributes:
        transitions: the rows; ``last`` marks the end of a branch by termination, by length or before a dropped row.
        branch: ``(R,)`` int64, the start row each transition descends from.
        step: ``(R,)`` int64, 0 at the start row.
        num_dropped: predictions that were not finite or outside the limits, or followed an action that was not finite;
            each ended its branch and is not stored.
    """

    transitions: Transitions
    branch: Tensor
    step: Tensor
    num_dropped: int


@th.no_grad()
def branched_rollout(
    model: DynamicsModel[Any],
    policy: RolloutPolicy,
    starts: Tensor,
    length: int,
    *,
    generator: Generator,
    limits: Limits | None = None,
) -> Rollout:
    """Roll ``length`` steps of ``policy`` inside ``model`` from each start (MBPO, Janner et al. 2019, algorithm 2).

    A branch ends with a predicted termination, which is stored, or with an invalid prediction, which is not. Finished
    branches leave the batch, so that later steps cost only the living. The end of a branch by length is a truncation:
    its row is not terminated, and a learner bootstraps from its ``next_obs``.

    Args:
        model: any dynamics model.
        policy: chooses model actions ``(B, A)`` from observations ``(B, O)``.
        starts: ``(B, O)`` observations in raw units, e.g. drawn from a replay buffer.
        length: steps per branch, ``k >= 1``.
        generator: source of every draw, on the model's device.
        limits: range that predictions must lie in; by default the model's own ``limits`` where it has them.

    Raises:
        ValueError: for starts of the wrong shape, none, or not finite, for a length below 1, and for a model whose
            predictions have other shapes than they should.
    """
    size = model.observation_space.shape[0]
    check_starts(model, starts)
    at_least("length", length)
    limits = limits or getattr(model, "limits", None) or Limits.none(size)
    obs = starts.to(model.device, model_dtype(model))
    branch = th.arange(len(obs), device=obs.device)
    state = model.reset(obs, generator=generator)
    steps: list[_StoredStep] = []
    num_dropped = 0
    for number in range(length):
        action = policy(obs, generator=generator)
        state, prediction = model.step(state, action, generator=generator)
        prediction = prediction.checked(len(obs), size, obs.dtype)
        valid = limits.accepts(prediction) & finite_rows(action)
        row = Transitions(
            obs=obs,
            action=action,
            reward=prediction.reward,
            next_obs=prediction.next_obs,
            terminated=prediction.terminated,
            last=th.zeros_like(prediction.terminated),  # known once the whole branch is
        )
        steps.append(_rows_where(valid, _StoredStep(row, branch)))
        num_dropped += len(branch) - len(steps[-1].branch)
        if number == length - 1:
            break
        alive = valid & ~prediction.terminated
        if not alive.any():
            break
        obs, branch, state = _rows_where(alive, _Living(prediction.next_obs, branch, state))
    return _assemble(steps, num_dropped, len(starts))


class _StoredStep(NamedTuple):
    """What one step stores: a transition of each valid row, and the branch it belongs to."""

    transitions: Transitions
    branch: Tensor


class _Living(NamedTuple):
    """What the next step goes on from."""

    obs: Tensor
    branch: Tensor
    state: Any


def _rows_where(mask: Tensor, rows: S) -> S:
    """``rows`` where ``mask (B,)`` is set, which mostly is everywhere."""
    return rows if mask.all() else take_rows(rows, mask.nonzero().squeeze(1))


def _assemble(steps: list[_StoredStep], num_dropped: int, num_branches: int) -> Rollout:
    """Concatenate the steps and mark the last row of each branch."""
    if len(steps) == 1:
        transitions, branch = steps[0]
        transitions = transitions._replace(last=th.ones_like(transitions.last))
        return Rollout(transitions, branch, th.zeros_like(branch), num_dropped)
    rows = [step.transitions for step in steps]
    branch = th.cat([step.branch for step in steps])
    number = th.cat([th.full_like(step.branch, index) for index, step in enumerate(steps)])
    # A branch's rows sit at consecutive steps from 0, so its last one has the highest step.
    final = th.full((num_branches,), -1, device=number.device).scatter_reduce_(0, branch, number, "amax")
    transitions = Transitions(*(th.cat(column) for column in zip(*rows, strict=True)))
    return Rollout(transitions._replace(last=number == final[branch]), branch, number, num_dropped)
