"""Known reward and termination functions, called on a few rows and compared with what the environment gave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch as th
from torch import Tensor

from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.types import DynamicsModel, Transitions

MAX_COMPARED = 10_000
"""Rows compared at most, evenly spaced over all."""

NOISE_SHARE, ROUNDING = 0.02, 1e-5
"""A root mean square error up to this share of the rewards' deviation, or of their size, counts as agreement."""


class Confusion(NamedTuple):
    """Predicted against true terminations; a positive is a step that is predicted to end its episode."""

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    @classmethod
    def of(cls, predicted: Tensor, true: Tensor) -> Confusion:
        """Count two columns of flags ``(B,)``."""
        predicted, true = predicted.bool().cpu(), true.bool().cpu()
        counts = (predicted & true, predicted & ~true, ~predicted & ~true, ~predicted & true)
        return cls(*(int(count.sum()) for count in counts))

    @property
    def mismatches(self) -> int:
        """How many steps were judged wrongly."""
        return self.false_positives + self.false_negatives


def check_functions(model: DynamicsModel[Any], obs: Tensor) -> None:
    """Call the ``reward_fn`` and ``termination_fn`` of ``model``, where it has them, on one row and on a few.

    How many a few are is chosen so that it is neither the size of an observation nor that of an action, and a result
    of the wrong shape cannot pass for a right one.

    Args:
        model: any dynamics model.
        obs: real observations ``(N, O)``, at least one.

    Raises:
        TypeError: for a result that is no tensor, or a termination that is not bool.
        ValueError: for a result of another shape than ``(B,)``, on another device, and for a function that raises
            an error itself or changes what it is given. What it returns for a step that never happened may be
            infinite: :func:`disagreement` judges it on real steps.
    """
    codec = ActionCodec(model.action_space)
    few = next(rows for rows in (2, 3, 4) if rows not in (obs.shape[1], codec.size))
    for name in ("reward_fn", "termination_fn"):
        function = getattr(model, name, None)
        if function is None:
            continue
        for rows in (few, 1):
            before = obs[th.arange(rows) % len(obs)].to(model.device, th.float32)
            action = codec.decode(th.zeros(rows, codec.size, device=model.device))
            _check_result(name, function, before, action)


def _check_result(name: str, function: Callable[..., Any], obs: Tensor, action: Tensor) -> None:
    rows = len(obs)
    wanted = f"(B,) = ({rows},)"
    given = f"obs {tuple(obs.shape)}, action {tuple(action.shape)} and next_obs {tuple(obs.shape)}"
    given_tensors = obs, action, obs.clone()
    before = [tensor.clone() for tensor in given_tensors]
    try:
        result: object = function(*given_tensors)
    except Exception as error:
        raise ValueError(
            f"{name} failed when it was called on {rows} real observations ({given}, all torch tensors): "
            f"{type(error).__name__}: {error}"
        ) from error
    for what, tensor, kept in zip(("obs", "action", "next_obs"), given_tensors, before, strict=True):
        if not th.equal(tensor, kept):
            raise ValueError(
                f"{name} changes {what} in place, and with it what the model predicts: compute with a copy, as in "
                f"{what} - 1 or {what}.clone()."
            )
    if not isinstance(result, Tensor):
        raise TypeError(
            f"{name} must return a torch tensor of shape {wanted}, got {type(result).__name__}: compute with torch "
            "instead of numpy, and return one value per row, torch.full((len(obs),), value) for a constant."
        )
    if result.shape != (rows,):
        raise ValueError(f"{name} must return shape {wanted} for {given}, got {tuple(result.shape)}.")
    if result.device.type != obs.device.type:
        raise ValueError(f"{name} got tensors on {obs.device} and returned one on {result.device}: move it there.")
    if name == "termination_fn" and result.dtype != th.bool:
        raise TypeError(f"termination_fn must return bool, got {result.dtype}: compare, as in next_obs[:, 0] > 1.")
    if name == "reward_fn" and result.is_complex():
        raise TypeError(f"reward_fn must return real numbers, got {result.dtype}.")


@dataclass(frozen=True)
class Disagreement:
    """What known functions say of real transitions, beside what the environment gave.

    Attributes:
        rows: how many transitions were compared.
        reward_error: mean absolute difference; None without a reward function.
        reward_text: a sentence with the numbers when the rewards differ, else None.
        terminations: None without a termination function.
        termination_text: a sentence with the numbers when a termination differs, else None.
    """

    rows: int
    reward_error: float | None
    reward_text: str | None
    terminations: Confusion | None
    termination_text: str | None

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a user should be told; empty when all agree."""
        return tuple(text for text in (self.reward_text, self.termination_text) if text is not None)


@th.no_grad()
def disagreement(model: DynamicsModel[Any], transitions: Transitions) -> Disagreement:
    """Compare the ``reward_fn`` and ``termination_fn`` of ``model`` with real ``transitions``.

    Rewards agree when the root mean square difference is at most 2 % of their standard deviation plus a
    hundred-thousandth of their size, and terminations when each is right.
    """
    every = max(transitions.num_rows // MAX_COMPARED, 1)
    rows = Transitions(*(column[::every].to(model.device) for column in transitions))
    action = ActionCodec(model.action_space).decode(rows.action)
    reward_fn, termination_fn = getattr(model, "reward_fn", None), getattr(model, "termination_fn", None)
    reward_error = reward_text = ends = termination_text = None
    if reward_fn is not None:
        known, real = reward_fn(rows.obs, action, rows.next_obs).double(), rows.reward.double()
        reward_error, reward_text = float((known - real).abs().mean()), _reward_text(known, real)
    if termination_fn is not None:
        ends = Confusion.of(termination_fn(rows.obs, action, rows.next_obs), rows.terminated)
        termination_text = _termination_text(ends, rows.num_rows)
    return Disagreement(rows.num_rows, reward_error, reward_text, ends, termination_text)


def _reward_text(known: Tensor, real: Tensor) -> str | None:
    error, spread = (known - real), float(real.std(correction=0))
    agreed = NOISE_SHARE * spread + ROUNDING * float(real.abs().mean()) + 1e-6
    if float(error.square().mean().sqrt()) <= agreed:  # not for NaN
        return None
    return (
        f"The known reward is not that of the environment: over {len(real)} real transitions it predicts "
        f"{known.mean():.4g} on average; the environment gave {real.mean():.4g} (standard deviation {spread:.3g}), "
        f"and they differ by {error.abs().mean():.3g} on average and by {error.abs().max():.3g} at most. Correct "
        "reward_fn (its units, its sign, a wrapper that changes rewards), or leave it out and the reward is learned."
    )


def _termination_text(ends: Confusion, rows: int) -> str | None:
    if not ends.mismatches:
        return None
    true = ends.true_positives + ends.false_negatives
    return (
        f"The known termination is not that of the environment: of {rows} real transitions its "
        f"predictions miss {ends.false_negatives} of {true} true terminations and report {ends.false_positives} that "
        "did not happen. Correct termination_fn, or leave it out and the termination is learned."
    )
