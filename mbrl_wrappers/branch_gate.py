"""Where a model is believed: a gate that ends a branch before a step on which the members disagree too much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch as th
from torch import Tensor

from mbrl_wrappers.checks import within
from mbrl_wrappers.disagreement import (
    GaussianMembers,
    bhattacharyya,
    fuse,
    information_loss,
    mixture_std,
)
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import Transitions

Measure = Literal["bhattacharyya", "information", "std"]

ROUNDING = 1e-4
"""Share by which a measure may exceed its threshold: the same row in another batch differs by rounding."""

CALIBRATION_ROWS = 8192


@dataclass(frozen=True)
class GateConfig:
    r"""What a :class:`BranchGate` measures and where it closes.

    A step is stored only where its measure :math:`u(s, a)` is at most

    .. math:: \kappa = c \cdot \mathrm{quantile}_q\, u

    over the real rows, or over the first step of the branches (MACURA, Frauenknecht et al. 2024, section 4, with
    ``of="first_steps"``, ``quantile`` :math:`\zeta` and ``scale`` :math:`\xi`; the mean of all rounds so far counts).

    Attributes:
        measure: ``"bhattacharyya"`` distance of the members, ``"information"`` lost in a step (Infoprop; the quantile
            is taken per dimension, and a step must be within each), or the ``"std"`` of the mixture.
        quantile: 1.0 keeps all steps that are as certain as the least certain real row, and leaves nothing to tune.
        scale: factor of the quantile.
        of: rows whose quantile counts.
        budget: limit of what a whole branch may add up to, as a multiple of the 1 % quantile of the measure summed over
            dimensions (Infoprop has 100); None for no limit.
        penalty: reward taken off per unit of the measure (MOPO, Yu et al. 2020, equation 6).

    Raises:
        ValueError: for numbers out of range.
    """

    measure: Measure = "bhattacharyya"
    quantile: float = 1.0
    scale: float = 1.0
    of: Literal["real_rows", "first_steps"] = "real_rows"
    budget: float | None = None
    penalty: float = 0.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("measure", self.measure, get_args(Measure)),
            ("of", self.of, ("real_rows", "first_steps")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
        within("quantile", self.quantile, 0, 1)
        within("scale", self.scale, 0)
        within("penalty", self.penalty, 0)
        if self.budget is not None:
            within("budget", self.budget, 0)
        if self.of == "first_steps" and (self.measure == "information" or self.budget is not None):
            raise ValueError(
                'of="first_steps" has one threshold for the whole step: it goes with the measures "bhattacharyya" and '
                '"std", and without a budget.'
            )


class Verdict(NamedTuple):
    """What a gate says of one step: which rows pass, ``(B,)`` bool, and their ``measure (B,)`` over all dimensions."""

    passed: Tensor
    measure: Tensor


class BranchGate:
    """Ends branches where an ensemble does not know what comes next.

    :meth:`calibrate` it after every fit; until then everything passes.

    Args:
        model: with members that can be asked one by one, an :class:`~mbrl_wrappers.EnsembleDynamics` of two or more.
        config: what is measured and where the gate closes.

    Attributes:
        threshold: ``(D,)`` for ``"information"``, ``(1,)`` otherwise; None before the first calibration.

    Raises:
        TypeError: for a model whose members cannot be asked.
    """

    def __init__(self, model: Any, config: GateConfig | None = None) -> None:
        if not isinstance(model, GaussianMembers):
            raise TypeError(
                f"{type(model).__name__} has no members whose predictions can be compared: a gate needs an "
                "EnsembleDynamics, or a model with member_gaussians(obs, action)."
            )
        self.model: GaussianMembers = model
        self.config = config or GateConfig()
        self.threshold: Tensor | None = None
        self._budget: Tensor | None = None
        self._rounds = 0
        self._mean_quantile = 0.0

    @property
    def penalty(self) -> float:
        """Reward taken off per unit of the measure."""
        return self.config.penalty

    @th.no_grad()
    def calibrate(self, real: Transitions) -> None:
        """Set the threshold from the real rows that the model was fitted to; of ``"first_steps"`` it needs none.

        Raises:
            ValueError: without rows.
        """
        if self.config.of == "first_steps":
            return
        if not real.num_rows:
            raise ValueError("There are no real rows to calibrate the gate on.")
        chunks = zip(real.obs.split(CALIBRATION_ROWS), real.action.split(CALIBRATION_ROWS), strict=True)
        found = th.cat([self._measured(obs, action) for obs, action in chunks])
        if not found.shape[1]:  # nothing that is predicted ever changes
            self.threshold = found.new_zeros(0)
            return
        self.threshold = self.config.scale * _quantile(found, self.config.quantile)
        if self.config.budget is not None:
            self._budget = self.config.budget * _quantile(found.sum(1, keepdim=True), 0.01)[0]

    @th.no_grad()
    def judge(self, obs: Tensor, action: Tensor, spent: Tensor, *, first: bool) -> Verdict:
        """Which steps may be taken and stored.

        Args:
            obs: ``(B, O)``.
            action: model actions ``(B, A)``.
            spent: ``(B,)``, what the earlier steps of each branch add up to.
            first: whether these are the first steps of their branches.
        """
        found = self._measured(obs, action)
        measure = found.sum(1)
        if first and self.config.of == "first_steps" and len(found):
            self._count_round(float(_quantile(found, self.config.quantile)[0]), found.device)
        if self.threshold is None:
            return Verdict(th.ones_like(measure, dtype=th.bool), measure)
        # A NaN compares false.
        passed = (found <= self.threshold * (1 + ROUNDING)).all(1) & measure.isfinite()
        if self._budget is not None:
            passed = passed & (spent + measure <= self._budget * (1 + ROUNDING))
        return Verdict(passed, measure)

    def _count_round(self, quantile: float, device: th.device) -> None:
        """Take the quantile of one more round into the mean of all."""
        self._rounds += 1
        self._mean_quantile += (quantile - self._mean_quantile) / self._rounds
        self.threshold = th.tensor([self.config.scale * self._mean_quantile], device=device)

    def _measured(self, obs: Tensor, action: Tensor) -> Tensor:
        """The measure ``(B, D)`` per dimension, or ``(B, 1)``."""
        members = self.model.member_gaussians(obs, action)
        if self.config.measure == "information":
            return information_loss(fuse(members))
        return (bhattacharyya(members) if self.config.measure == "bhattacharyya" else mixture_std(members))[:, None]

    def state_dict(self) -> StateDict:
        """What :meth:`load_state_dict` goes on from."""
        return {
            "threshold": self.threshold,
            "budget": self._budget,
            "rounds": self._rounds,
            "mean_quantile": self._mean_quantile,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Go on with the thresholds of ``state``.

        Raises:
            ValueError: if it is the state of something else.
        """
        require_keys(state, ("threshold", "budget", "rounds", "mean_quantile"), "a BranchGate")
        self.threshold, self._budget = state["threshold"], state["budget"]
        self._rounds, self._mean_quantile = state["rounds"], state["mean_quantile"]


def _quantile(rows: Tensor, share: float) -> Tensor:
    """The quantile of each column of ``rows (B, D)``, ``(D,)``; the value of a row, and not between two."""
    rank = max(math.ceil(share * len(rows) - 1e-9), 1)
    return rows.kthvalue(rank, dim=0).values
