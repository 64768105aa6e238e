"""Branched rollouts: many short model trajectories from real states, in one call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.types import DynamicsModel, Limits, RolloutPolicy, Transitions


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
        limits: range in which predictions are believed; default the model's own ``limits`` when it has them.

    Raises:
        ValueError: for starts of the wrong shape, none, or not finite, for a length below 1, and for a model whose
            predictions have other shapes than they should.
    """
    size = model.observation_space.shape[0]
    if starts.ndim != 2 or starts.shape[1] != size:
        raise ValueError(f"starts must have shape (B, {size}) as the model's observations, got {tuple(starts.shape)}.")
    if not len(starts):
        raise ValueError("starts is empty: there is no state to branch from.")
    at_least("length", length)
    if not starts.isfinite().all():
        raise ValueError("starts must be finite: remove rows with NaN or infinity before branching from them.")
    limits = limits or getattr(model, "limits", None) or Limits.none(size)
    obs = starts.to(model.device, th.float32)
    branch = th.arange(len(obs), device=obs.device)
    state = model.reset(obs, generator=generator)
    steps: list[tuple[Transitions, Tensor]] = []
    num_dropped = 0
    for _ in range(length):
        if not len(obs):
            break
        action = policy(obs, generator=generator)
        state, prediction = model.step(state, action, generator=generator)
        prediction = prediction.checked(len(obs), size)
        valid = limits.valid(prediction) & action.isfinite().all(1)
        row = Transitions(
            obs=obs,
            action=action,
            reward=prediction.reward,
            next_obs=prediction.next_obs,
            terminated=prediction.terminated,
            last=th.zeros_like(prediction.terminated),  # known once the whole branch is
        )
        obs, alive = prediction.next_obs, valid & ~prediction.terminated
        if alive.all():
            steps.append((row, branch))
            continue
        num_dropped += int((~valid).sum())
        steps.append((Transitions(*(column[valid] for column in row)), branch[valid]))
        obs, branch, state = obs[alive], branch[alive], take_rows(state, alive)
    return _assemble(steps, num_dropped, len(starts))


def _assemble(steps: list[tuple[Transitions, Tensor]], num_dropped: int, num_branches: int) -> Rollout:
    """Concatenate the steps and mark the last row of each branch."""
    rows = [step[0] for step in steps]
    branch = th.cat([step[1] for step in steps])
    number = th.cat([th.full_like(ids, index) for index, (_, ids) in enumerate(steps)])
    # A branch's rows sit at consecutive steps from 0, so its last one has the highest step.
    final = th.full((num_branches,), -1, device=number.device).scatter_reduce_(0, branch, number, "amax")
    transitions = Transitions(*(th.cat(column) for column in zip(*rows, strict=True)))
    return Rollout(transitions._replace(last=number == final[branch]), branch, number, num_dropped)
