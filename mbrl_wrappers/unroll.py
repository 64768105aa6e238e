"""Unrolling a policy inside a model with gradients: the one loop that model-based policy updates share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.frozen_weights import FrozenWeights
from mbrl_wrappers.ranges import finite_rows
from mbrl_wrappers.rows import map_tensors, num_rows
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.starts import check_starts
from mbrl_wrappers.types import DifferentiablePolicy, DynamicsModel, Limits, Prediction, S


class Unrolled(NamedTuple):
    """``B`` trajectories of ``H`` steps, time first.

    A step is *valid* where its row was alive and its action and prediction are finite and inside the limits. Where a
    step is not valid, ``action``, ``reward`` and ``log_prob`` are zero and the observation after it repeats the one
    before it; none of these carries a gradient.

    Attributes:
        obs: ``(H + 1, B, O)``, the starts first. The observation after a termination is the terminal one.
        action: ``(H, B, A)`` model actions.
        reward: ``(H, B)``.
        alive: ``(H + 1, B)`` bool, rows that go on from this observation: neither terminated nor invalid before it.
        terminated: ``(H, B)`` bool, valid steps that the model says end the episode.
        log_prob: ``(H, B)`` of the actions; None for a deterministic policy.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    alive: Tensor
    terminated: Tensor
    log_prob: Tensor | None

    @property
    def valid(self) -> Tensor:
        """Which steps took place, ``(H, B)`` bool."""
        return self.alive[1:] | self.terminated


def unroll(
    model: DynamicsModel[S],
    policy: DifferentiablePolicy,
    starts: Tensor,
    horizon: int,
    *,
    generator: Generator,
    state: S | None = None,
    limits: Limits | None = None,
) -> Unrolled:
    r"""Follow ``policy`` for ``horizon`` steps inside ``model`` from each start.

    .. math:: a_t = \pi_\theta(s_t, \epsilon_t), \quad s_{t+1}, r_t = f(s_t, a_t, \xi_t)

    With the draws :math:`\epsilon, \xi` held fixed, all of it is a function of :math:`\theta` and of the starts. So the
    gradient of what is computed from the result is the pathwise one (Heess et al. 2015, "Learning continuous control
    policies by stochastic value gradients"; DHMBPO, Kubo et al. 2024). Under ``torch.no_grad()`` it is a sampler. The
    weights of the model are constants: no loss of the result gives them a gradient.

    Rows never leave the batch, unlike in :func:`mbrl_wrappers.rollout.branched_rollout`, so time is an axis. A row
    stops being alive after a predicted termination, and at a step that is not finite or outside the limits. That step's
    gradient is cut before it enters the model's inputs: neither the other rows nor the row's earlier steps get a
    NaN from it, where the model treats rows independently.

    Args:
        model: any dynamics model. The gradient is only as complete as its ``step`` is differentiable.
        policy: draws model actions ``(B, A)``.
        starts: ``(B, O)`` observations in raw units. They keep their dtype, unless the model has one (``obs_dtype``).
        horizon: steps ``H >= 0``.
        generator: source of every draw, on the model's device.
        state: the model's state of ``B`` rows in which ``starts`` was observed; None resets the model at ``starts``.
        limits: range that predictions must lie in; by default the model's own ``limits`` where it has them.

    Raises:
        ValueError: for starts of the wrong shape, none, or not finite, for a negative horizon, for a state of another
            number of rows, and for predictions, actions or log-probabilities of other shapes than they should have.
    """
    check_starts(model, starts)
    at_least("horizon", horizon, 0)
    size = model.observation_space.shape[0]
    limits = limits or getattr(model, "limits", None) or Limits.none(size)
    dtype = getattr(model, "obs_dtype", starts.dtype if starts.is_floating_point() else th.float32)
    obs = starts.to(model.device, dtype)
    weights = FrozenWeights(model)
    if state is None:
        state = weights.call(model.reset, obs.view_as(obs), generator=generator)
    elif num_rows(state) != len(obs):
        raise ValueError(f"state has {num_rows(state)} rows and starts has {len(obs)}: give one state per start.")
    steps: list[_UnrolledStep] = []
    alive = [th.ones(len(obs), dtype=th.bool, device=obs.device)]
    action_size = ActionCodec(model.action_space).size
    for _ in range(horizon):
        action, log_prob = _checked(policy.sample(obs, generator=generator), (len(obs), action_size))
        gate = _Gate()
        inputs = map_tensors(gate.admit, state), gate.admit(action)
        following, prediction = weights.call(model.step, *inputs, generator=generator)
        prediction = prediction.shaped((len(obs),), size)
        valid = gate.open_for(alive[-1] & _acceptable(limits, action, prediction, log_prob))
        steps.append(_kept(valid, _UnrolledStep(obs, action, prediction, log_prob)))
        obs, _, terminated = steps[-1].prediction
        alive.append(valid & ~terminated)
        state = _going_on(alive[-1], following, state)
    return _assembled(obs, steps, alive, action_size)


class _UnrolledStep(NamedTuple):
    """One step of all rows."""

    obs: Tensor
    action: Tensor
    prediction: Prediction
    log_prob: Tensor | None


class _Gate:
    """Passes tensors on unchanged; on the way back, only the gradient of rows that it is opened for.

    Whether a step is valid is known only after it was computed. A mask on its results is not enough then: the backward
    pass multiplies the zeros by the derivatives of a step that failed, and zero times infinity is NaN.
    """

    _open: Tensor

    def admit(self, rows: Tensor) -> Tensor:
        """``rows (B, ...)`` with a gradient that stops here where the gate is not opened."""
        if not (th.is_grad_enabled() and rows.requires_grad):
            return rows
        admitted = rows.view_as(rows)
        admitted.register_hook(self._let_through)
        return admitted

    def _let_through(self, gradient: Tensor | None) -> Tensor | None:
        # A derivative that is zero throughout may come as None.
        return None if gradient is None else th.where(_like(self._open, gradient), gradient, 0.0)

    def open_for(self, rows: Tensor) -> Tensor:
        """Let the gradient of ``rows (B,)`` bool pass, and return them."""
        self._open = rows
        return rows


def _like(rows: Tensor, other: Tensor) -> Tensor:
    """``rows (B,)`` with the number of axes of ``other (B, ...)``."""
    return rows.view(-1, *(1,) * (other.ndim - 1))


def _checked(drawn: tuple[Tensor, Tensor | None], shape: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """What a policy drew, after a look at its shapes: a ``(B, 1)`` log-probability would broadcast to ``(B, B)``."""
    action, log_prob = drawn
    if action.shape != shape:
        raise ValueError(f"The policy must draw actions of shape {shape}, got {tuple(action.shape)}.")
    if log_prob is not None and log_prob.shape != shape[:1]:
        raise ValueError(f"The policy's log-probabilities must have shape {shape[:1]}, got {tuple(log_prob.shape)}.")
    return action, log_prob


@th.no_grad()
def _acceptable(limits: Limits, action: Tensor, prediction: Prediction, log_prob: Tensor | None) -> Tensor:
    """Rows ``(B,)`` whose action and prediction are finite, and the prediction inside the limits."""
    fine = limits.accepts(prediction) & finite_rows(action)
    return fine if log_prob is None else fine & log_prob.isfinite()


def _kept(valid: Tensor, step: _UnrolledStep) -> _UnrolledStep:
    """``step`` where it is valid; elsewhere zeros, and the observation before it without its gradient."""
    (next_obs, reward, terminated), column = step.prediction, valid[:, None]
    reward = reward if reward.is_floating_point() else reward.to(step.obs.dtype)
    return _UnrolledStep(
        obs=step.obs,
        action=th.where(column, step.action, 0.0),
        prediction=Prediction(
            th.where(column, next_obs.to(step.obs.dtype), step.obs.detach()),
            th.where(valid, reward, 0.0),
            terminated & valid,
        ),
        log_prob=None if step.log_prob is None else th.where(valid, step.log_prob, 0.0),
    )


def _going_on(alive: Tensor, following: S, before: S) -> S:
    """The state that the next step starts from: rows that are not alive stay where they were."""
    return map_tensors(lambda new, old: th.where(_like(alive, new), new, old), following, before)


def _assembled(last_obs: Tensor, steps: Sequence[_UnrolledStep], alive: Sequence[Tensor], action_size: int) -> Unrolled:
    """The steps along a new first axis."""
    if not steps:
        action, number = last_obs.new_zeros(0, len(last_obs), action_size), last_obs.new_zeros(0, len(last_obs))
        return Unrolled(last_obs[None], action, number, th.stack([*alive]), number.bool(), number)
    log_probs = [step.log_prob for step in steps if step.log_prob is not None]
    return Unrolled(
        obs=th.stack([*(step.obs for step in steps), last_obs]),
        action=th.stack([step.action for step in steps]),
        reward=th.stack([step.prediction.reward for step in steps]),
        alive=th.stack([*alive]),
        terminated=th.stack([step.prediction.terminated for step in steps]),
        log_prob=th.stack(log_probs) if log_probs else None,
    )
