"""Branched rollouts: many short model trajectories from real states, in one call."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

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
        num_gated: steps that the gate did not let pass; each ended its branch and was not predicted.
        uncertainty: ``(R,)``, what the gate measured of each row; None without a gate.
    """

    transitions: Transitions
    branch: Tensor
    step: Tensor
    num_dropped: int
    num_gated: int = 0
    uncertainty: Tensor | None = None


class StepGate(Protocol):
    """What decides which steps of a branch may be taken, such as a :class:`~mbrl_wrappers.branch_gate.BranchGate`."""

    @property
    def penalty(self) -> float:
        """Reward taken off per unit of the measure."""
        ...

    def judge(self, obs: Tensor, action: Tensor, spent: Tensor, *, first: bool) -> tuple[Tensor, Tensor]:
        """Rows that pass, ``(B,)`` bool, and what was measured of each, ``(B,)``; see the gate."""
        ...


@th.no_grad()
def branched_rollout(
    model: DynamicsModel[Any],
    policy: RolloutPolicy,
    starts: Tensor,
    length: int,
    *,
    generator: Generator,
    limits: Limits | None = None,
    gate: StepGate | None = None,
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
        gate: ends a branch before a step that it does not let pass.

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
    num_dropped = num_gated = 0
    spent = th.zeros(len(obs), device=obs.device)
    for number in range(length):
        action = policy(obs, generator=generator)
        measure = spent
        if gate is not None:
            passed, measure = gate.judge(obs, action, spent, first=number == 0)
            taken = _rows_where(passed, _Taken(obs, action, branch, state, measure, spent + measure))
            num_gated += len(obs) - len(taken.obs)
            obs, action, branch, state, measure, spent = taken
            if not len(obs):
                break
        state, prediction = model.step(state, action, generator=generator)
        prediction = prediction.checked(len(obs), size, obs.dtype)
        valid = limits.accepts(prediction) & finite_rows(action)
        row = Transitions(
            obs=obs,
            action=action,
            reward=prediction.reward if gate is None else prediction.reward - gate.penalty * measure,
            next_obs=prediction.next_obs,
            terminated=prediction.terminated,
            last=th.zeros_like(prediction.terminated),  # known once the whole branch is
        )
        steps.append(_rows_where(valid, _StoredStep(row, branch, measure)))
        num_dropped += len(branch) - len(steps[-1].branch)
        if number == length - 1:
            break
        alive = valid & ~prediction.terminated
        if not alive.any():
            break
        obs, branch, state, spent = _rows_where(alive, _Living(prediction.next_obs, branch, state, spent))
    if not steps:
        steps.append(_nothing(obs, action, branch))
    rollout = _assemble(steps, num_dropped, len(starts))
    return rollout._replace(num_gated=num_gated) if gate is not None else rollout._replace(uncertainty=None)


class _StoredStep(NamedTuple):
    """What one step stores: a transition of each valid row, and the branch it belongs to."""

    transitions: Transitions
    branch: Tensor
    measure: Tensor


class _Living(NamedTuple):
    """What the next step goes on from."""

    obs: Tensor
    branch: Tensor
    state: Any
    spent: Tensor


class _Taken(NamedTuple):
    """The rows that a gate lets pass."""

    obs: Tensor
    action: Tensor
    branch: Tensor
    state: Any
    measure: Tensor
    spent: Tensor


def _rows_where(mask: Tensor, rows: S) -> S:
    """``rows`` where ``mask (B,)`` is set, which mostly is everywhere."""
    return rows if mask.all() else take_rows(rows, mask.nonzero().squeeze(1))


def _nothing(obs: Tensor, action: Tensor, branch: Tensor) -> _StoredStep:
    """A step that no row took."""
    none, flags = obs.new_zeros(0), th.zeros(0, dtype=th.bool, device=obs.device)
    return _StoredStep(Transitions(obs[:0], action[:0], none.float(), obs[:0], flags, flags), branch[:0], none.float())


def _assemble(steps: list[_StoredStep], num_dropped: int, num_branches: int) -> Rollout:
    """Concatenate the steps and mark the last row of each branch."""
    if len(steps) == 1:
        transitions, branch, measure = steps[0]
        transitions = transitions._replace(last=th.ones_like(transitions.last))
        return Rollout(transitions, branch, th.zeros_like(branch), num_dropped, uncertainty=measure)
    rows = [step.transitions for step in steps]
    branch = th.cat([step.branch for step in steps])
    number = th.cat([th.full_like(step.branch, index) for index, step in enumerate(steps)])
    # A branch's rows sit at consecutive steps from 0, so its last one has the highest step.
    final = th.full((num_branches,), -1, device=number.device).scatter_reduce_(0, branch, number, "amax")
    transitions = Transitions(*(th.cat(column) for column in zip(*rows, strict=True)))
    transitions = transitions._replace(last=number == final[branch])
    return Rollout(transitions, branch, number, num_dropped, uncertainty=th.cat([step.measure for step in steps]))
