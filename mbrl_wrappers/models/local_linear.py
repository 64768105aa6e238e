"""Time-varying linear-Gaussian dynamics: what MBA imagines with, and what iLQR solves without a network."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.spaces import ActionCodec, AnySpace, check_action_space, check_observation_space
from mbrl_wrappers.storage.checkpoint import register_model, resolve_device
from mbrl_wrappers.storage.space_json import space_from_json, space_to_json
from mbrl_wrappers.storage.stored_functions import describe_function, restore_function
from mbrl_wrappers.types import Limits, NotFitted, Prediction, RewardFn, TerminationFn


class LocalLinearState(NamedTuple):
    """``obs (B, O)`` and the ``time (B,)`` int64 in the episode that a row is at."""

    obs: Tensor
    time: Tensor


class LinearPieces(NamedTuple):
    """What is fitted: ``K`` pieces of ``window`` time steps each, over inputs ``z`` (standardised observation, action).

    Attributes:
        change: ``(K, O, O + A + 1)``, the change of the observation per input and, last, a constant.
        noise: ``(K, O, O)``, lower triangular factor of the covariance of what is left.
        reward: ``(K, F)``, weights of the quadratic features of the inputs; ``(K, 0)`` where the reward is known.
        center: ``(K, O)``, mean of the observations that belong to a piece.
        whitening: ``(K, O, O)``, maps the distance to ``center`` to one of unit variance.
        log_volume: ``(K,)``, half the log-determinant of the covariance of those observations.
        obs_mean: ``(O,)``, of all rows.
        obs_std: ``(O,)``.
    """

    change: Tensor
    noise: Tensor
    reward: Tensor
    center: Tensor
    whitening: Tensor
    log_volume: Tensor
    obs_mean: Tensor
    obs_std: Tensor


@register_model("local-linear")
class LocalLinearModel:
    r"""Linear-Gaussian dynamics whose coefficients change with the time in the episode.

    .. math:: s_{t+1} = s_t + W_k z_t + \epsilon, \quad z_t = (\bar s_t, a_t, 1), \quad
              \epsilon \sim \mathcal{N}(0, \Sigma_k), \quad k = \lfloor t / w \rfloor

    with standardised observation :math:`\bar s`, refitted as recent episodes change (Levine and Abbeel 2014, "Learning
    neural network policies with guided policy search under unknown dynamics", section 3; in MBA, Gu et al. 2016,
    section 5). The reward is a given function, or a quadratic of :math:`(\bar s, a)` per piece. A trajectory begins at
    the piece under whose observations its start is most likely, since a start alone does not tell the time.

    The model is good near recent episodes only: give it short branches. It is fitted by
    :class:`~mbrl_wrappers.training.local_linear_trainer.LocalLinearTrainer`.

    Args:
        observation_space: one-dimensional float Box.
        action_space: the environment's Box or Discrete space.
        window: time steps ``w`` of one piece.
        reward_fn: known reward in environment units; learned when None.
        termination_fn: known termination in environment units; None says that episodes never terminate.
        device: as in SB3.

    Attributes:
        pieces: what was fitted; None before the first fit.

    Raises:
        TypeError: for a space that models cannot use.
        ValueError: for a window below 1.
    """

    def __init__(
        self,
        observation_space: AnySpace,
        action_space: AnySpace,
        *,
        window: int = 10,
        reward_fn: RewardFn | None = None,
        termination_fn: TerminationFn | None = None,
        device: str | th.device = "auto",
    ) -> None:
        self.observation_space = check_observation_space(observation_space)
        self.codec = ActionCodec(check_action_space(action_space))
        self.action_space: AnySpace = action_space
        self.window = at_least("window", window)
        self.reward_fn, self.termination_fn = reward_fn, termination_fn
        self.device = resolve_device(device)
        self.limits = Limits.none(self.observation_space.shape[0])
        self.pieces: LinearPieces | None = None

    @property
    def action_bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest model action, each ``(A,)``."""
        return self.codec.bounds

    def inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """``z`` without its constant, ``(B, O + A)``."""
        pieces = self._fitted()
        return th.cat([(obs - pieces.obs_mean) / pieces.obs_std, action], 1)

    def piece(self, time: Tensor) -> Tensor:
        """The piece ``(B,)`` that each ``time (B,)`` belongs to; the last one goes on."""
        return (time // self.window).clamp(max=len(self._fitted().change) - 1)

    # --- predicting -------------------------------------------------------------------------------------------------

    def reset(self, obs: Tensor, *, generator: Generator) -> LocalLinearState:
        """Start one trajectory per row of ``obs (B, O)`` in the middle of the most likely piece.

        Raises:
            ValueError: for observations of another shape, and before the first fit.
        """
        size = self.observation_space.shape[0]
        if obs.ndim != 2 or obs.shape[1] != size:
            raise ValueError(f"obs must have shape (B, {size}), got {tuple(obs.shape)}.")
        pieces, obs = self._fitted(), obs.to(self.device, th.float32)
        away = th.einsum("kij,bkj->bki", pieces.whitening, obs.detach()[:, None] - pieces.center)
        likely = (0.5 * away.square().sum(2) + pieces.log_volume).argmin(1)
        return LocalLinearState(obs, likely * self.window + self.window // 2)

    def step(
        self, state: LocalLinearState, action: Tensor, *, generator: Generator
    ) -> tuple[LocalLinearState, Prediction]:
        """Advance every row with model actions ``(B, A)``; differentiable in state and action."""
        pieces, piece = self._fitted(), self.piece(state.time)
        action = action.to(self.device, th.float32)
        inputs = self.inputs(state.obs, action)
        with_constant = th.cat([inputs, th.ones_like(inputs[:, :1])], 1)
        drawn = th.randn(state.obs.shape, generator=generator, device=self.device)
        change = th.einsum("bof,bf->bo", pieces.change[piece], with_constant)
        next_obs = state.obs + change + th.einsum("bij,bj->bi", pieces.noise[piece], drawn)
        reward = (pieces.reward[piece] * quadratic_features(inputs)).sum(1) if self.reward_fn is None else None
        if self.reward_fn is not None or self.termination_fn is not None:
            env_action = self.codec.decode(action)
        if self.reward_fn is not None:
            reward = self.reward_fn(state.obs, env_action, next_obs)
        terminated = th.zeros(len(next_obs), dtype=th.bool, device=self.device)
        if self.termination_fn is not None:
            terminated = self.termination_fn(state.obs, env_action, next_obs)
        assert reward is not None
        return LocalLinearState(next_obs, state.time + 1), Prediction(next_obs, reward, terminated)

    def _fitted(self) -> LinearPieces:
        if self.pieces is None:
            raise NotFitted("LocalLinearModel was never fitted: LocalLinearTrainer(model).fit(transitions) first.")
        return self.pieces

    def state_vector(self, state: LocalLinearState) -> Tensor:
        """The observation ``(B, O)``; the time is left out, as it cannot be differentiated."""
        return state.obs

    def with_state_vector(self, state: LocalLinearState, vector: Tensor) -> LocalLinearState:
        """``state`` at the observation ``vector (B, O)``, at the same time."""
        return state._replace(obs=vector.to(self.device, th.float32))

    # --- saving -----------------------------------------------------------------------------------------------------

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """JSON configuration and tensors; functions are stored when they come from the task registry."""
        config = {
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "window": self.window,
            "reward": describe_function(self.reward_fn),
            "termination": describe_function(self.termination_fn),
        }
        tensors = {f"limits.{name}": value for name, value in self.limits._asdict().items()}
        return config, tensors | {f"pieces.{name}": value for name, value in self._fitted()._asdict().items()}

    @classmethod
    def from_checkpoint(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        *,
        device: str | th.device = "auto",
        reward_fn: RewardFn | None = None,
        termination_fn: TerminationFn | None = None,
    ) -> LocalLinearModel:
        """Rebuild a saved model; functions that were the user's own must be passed again."""
        model = cls(
            space_from_json(config["observation_space"]),
            space_from_json(config["action_space"]),
            window=config["window"],
            reward_fn=reward_fn or restore_function(config["reward"]),
            termination_fn=termination_fn or restore_function(config["termination"]),
            device=device,
        )
        model.limits = Limits(*(tensors[f"limits.{name}"].to(model.device) for name in Limits._fields))
        model.pieces = LinearPieces(*(tensors[f"pieces.{name}"].to(model.device) for name in LinearPieces._fields))
        return model


def quadratic_features(inputs: Tensor) -> Tensor:
    """All products of two of ``inputs (B, n)`` and a constant 1: ``(B, (n + 1)(n + 2) / 2)``."""
    extended = th.cat([inputs, th.ones_like(inputs[:, :1])], 1)
    first, second = th.triu_indices(extended.shape[1], extended.shape[1], device=inputs.device)
    return extended[:, first] * extended[:, second]
