"""Maximum likelihood fitting of an ensemble with early stopping per member."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch as th
from torch import Tensor

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.models.gaussian_ensemble import Examples, GaussianEnsemble
from mbrl_wrappers.seeding import set_torch_stream_state, spawn_seeds, torch_generator, torch_stream_state
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.torch_states import check_optimizer_state, load_optimizer_state, optimizer_state
from mbrl_wrappers.training.best_weights import BestWeights
from mbrl_wrappers.training.dataset import (
    bootstrap_rows,
    checked_row_ids,
    shuffled_batches,
    split_holdout,
    training_rows,
)
from mbrl_wrappers.training.report import calibrate_termination, holdout_quality, termination_problem
from mbrl_wrappers.types import Transitions

Ensemble = TypeVar("Ensemble", bound=GaussianEnsemble)


@dataclass(frozen=True)
class FitConfig:
    """How a model is fitted; defaults follow MBPO (Janner et al. 2019, reference implementation).

    Attributes:
        max_epochs: passes over the training rows at most.
        max_gradient_steps: optimiser steps at most per fit; None for no cap.
        batch_size: rows per member and step.
        patience: epochs without an improvement of any member before the fit stops ...
        patience_steps: ... and at least this many gradient steps without one: an epoch over few rows is short.
        min_improvement: relative fall of a member's holdout error that counts as an improvement for ``patience``.
        holdout_ratio: share of the rows held out.
        max_holdout: rows held out at most, so that validation costs the same however much data there is.
        learning_rate: of Adam.
        weight_decay: L2 penalty of the first and of the last layer, linear in depth between them.
        log_variance_penalty: weight of the width between learned log-variance limits.
        nll_beta: exponent of the variance that weights each term of the likelihood (Seitzer et al. 2022); 0 is plain
            maximum likelihood, 1 weights errors as least squares does.
        bootstrap: draw each member's rows with replacement (once per fit); otherwise all members see all rows.
    """

    max_epochs: int = 200
    max_gradient_steps: int | None = None
    batch_size: int = 256
    patience: int = 5
    patience_steps: int = 100
    min_improvement: float = 0.01
    holdout_ratio: float = 0.2
    max_holdout: int = 5000
    learning_rate: float = 1e-3
    weight_decay: tuple[float, float] = (2.5e-5, 1e-4)
    log_variance_penalty: float = 0.01
    nll_beta: float = 0.5
    bootstrap: bool = True

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "patience", "patience_steps", "max_holdout"):
            at_least(name, getattr(self, name))
        if self.max_gradient_steps is not None:
            at_least("max_gradient_steps", self.max_gradient_steps)
        if not 0 < self.holdout_ratio < 1:
            raise ValueError(f"holdout_ratio must be inside (0, 1), got {self.holdout_ratio}.")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate must be inside (0, 1], got {self.learning_rate}.")
        if not 0 <= self.min_improvement < 1:
            raise ValueError(f"min_improvement must be inside [0, 1), got {self.min_improvement}.")
        within("nll_beta", self.nll_beta, 0, 1)
        within("log_variance_penalty", self.log_variance_penalty, 0)
        for decay in self.weight_decay:
            within("weight_decay", decay, 0)


class Trainer(Generic[Ensemble]):
    """Fits an ensemble and chooses its elites; keeps the optimiser's state from fit to fit (warm start).

    Args:
        model: the ensemble; its weights are trained in place.
        config: how to fit.
        seed: source of holdout, bootstrap and batch order.
    """

    def __init__(self, model: Ensemble, config: FitConfig | None = None, *, seed: int = 0) -> None:
        self.model = model
        self.config = config or FitConfig()
        self._split_seed, stream = spawn_seeds(seed, 2)
        self._generator = torch_generator(stream)  # on the CPU: the same batches on every device
        self._optimizer = self._make_optimizer()
        self._unsound = th.zeros(model.num_members, dtype=th.bool, device=model.device)  # of the fit under way
        self._warned: set[str] = set()

    def fit(
        self,
        transitions: Transitions,
        *,
        max_gradient_steps: int | None = None,
        row_ids: Tensor | None = None,
        on_epoch: Callable[[int, Tensor], None] | None = None,
    ) -> FitReport:
        """Fit to ``transitions`` and return what came of it.

        Statistics are taken from the training rows, the holdout stays fixed during the fit, each member's best weights
        (those it started with included) are restored one by one, and the elites are ranked on the restored weights.

        Args:
            transitions: rows in raw units, on any device.
            max_gradient_steps: the cap of this fit, in place of the configuration's.
            row_ids: ``(B,)`` int64, what identifies a row from fit to fit, so that the holdout stays the same; by
                default its position, which is right while rows are only appended.
            on_epoch: called after each epoch with its number and the members' holdout errors ``(E,)``.

        A member whose loss or predictions are not finite goes back to its best weights while the others learn on; one
        that has no finite weights to go back to cannot become an elite. Both are reported, with a warning.

        Raises:
            TypeError: for columns that are not tensors.
            ValueError: for too few or non-finite rows, columns of other shapes than the model's, actions that are not
                model actions, or when no member is left that predicts finite numbers.
        """
        started = time.perf_counter()
        model, config = self.model, self.config
        rows = training_rows(transitions, model)
        ids = checked_row_ids(row_ids, rows.num_rows)
        if max_gradient_steps is None:
            max_gradient_steps = config.max_gradient_steps
        cap = sys.maxsize if max_gradient_steps is None else at_least("max_gradient_steps", max_gradient_steps)
        split = split_holdout(ids, config.holdout_ratio, config.max_holdout, seed=self._split_seed)
        model.set_statistics(Transitions(*(column[split.train] for column in rows)))
        data = model.examples(rows)
        holdout = data.take(split.holdout)
        members = bootstrap_rows(split.train, model.num_members, generator=self._generator, resample=config.bootstrap)

        self._unsound = th.zeros(model.num_members, dtype=th.bool, device=model.device)
        best = BestWeights(model.member_parameters(), model.errors(holdout), config.min_improvement)
        initial_error = best.errors.clone()
        effort = self._improve(data, holdout, members, best, cap, on_epoch)
        best.restore()
        errors = model.errors(holdout)
        model.elites.copy_(_elites(errors, model.num_elites))
        termination = calibrate_termination(model, holdout, seen=bool(rows.terminated.any()))
        report = FitReport(
            epochs=effort.epochs,
            gradient_steps=effort.steps,
            rows_seen=effort.rows,
            train_rows=len(split.train),
            holdout_rows=len(split.holdout),
            holdout_error=tuple(errors.tolist()),
            initial_error=tuple(initial_error.tolist()),
            dimensions=model.dimensions,
            **vars(holdout_quality(model, holdout)),
            elites=tuple(model.elites.tolist()),
            diverged_members=tuple(self._unsound.nonzero().flatten().tolist()),
            **{f"termination_{name}": value for name, value in vars(termination).items()},
            seconds=time.perf_counter() - started,
        )
        self._warn(report)
        return report

    def _improve(
        self,
        data: Examples,
        holdout: Examples,
        members: Tensor,
        best: BestWeights,
        cap: int,
        on_epoch: Callable[[int, Tensor], None] | None,
    ) -> Effort:
        """Epoch after epoch, until no member improves or a limit is reached; ``best`` keeps what is good."""
        config = self.config
        epochs = steps = rows = improved_epoch = improved_step = 0
        while epochs < config.max_epochs and steps < cap:
            done, rows_done = self.run_epoch(data, members, max_steps=cap - steps)
            epochs, steps, rows = epochs + 1, steps + done, rows + rows_done
            errors = self.model.errors(holdout)
            if on_epoch is not None:
                on_epoch(epochs, errors)
            broken = errors.isinf()
            if broken.any():
                self._unsound |= broken
                best.restore(broken)
                self._forget_moments(broken)
            if best.update(errors):
                improved_epoch, improved_step = epochs, steps
            elif epochs - improved_epoch >= config.patience and steps - improved_step >= config.patience_steps:
                break
        return Effort(epochs, steps, rows)

    def run_epoch(self, data: Examples, members: Tensor, *, max_steps: int = sys.maxsize) -> tuple[int, int]:
        """One pass over each member's rows ``(E, n)`` of ``data``; returns gradient steps and rows seen."""
        steps = rows = 0
        for index in shuffled_batches(members, self.config.batch_size, generator=self._generator):
            if self._step(data.take(index.to(self.model.device))):
                steps, rows = steps + 1, rows + index.shape[1]
            if steps >= max_steps:
                break
        return steps, rows

    def _step(self, batch: Examples) -> bool:
        """One step of the optimiser; whether there was a member that could take it."""
        config = self.config
        losses = self.model.losses(batch, beta=config.nll_beta, log_variance_penalty=config.log_variance_penalty)
        unsound = ~losses.isfinite()
        some = bool(unsound.any())
        if some:
            self._unsound |= unsound
            if unsound.all():
                return False
        self._optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        if some:
            self._step_without(unsound)
        else:
            self._optimizer.step()
        self.model.log_variance.keep_apart()
        return True

    @th.no_grad()
    def _step_without(self, members: Tensor) -> None:
        """A step of the optimiser that leaves ``members (E,)`` bool where they are."""
        # One gradient that is not finite would stay in the optimiser's moments for good.
        parameters = self.model.member_parameters()
        before = [parameter[members].clone() for parameter in parameters]
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad[members] = 0
        self._optimizer.step()
        for parameter, rows in zip(parameters, before, strict=True):
            parameter[members] = rows

    def _forget_moments(self, members: Tensor) -> None:
        """Clear the optimiser's moments of ``members (E,)`` bool."""
        for moments in self._optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name][members] = 0

    def state_dict(self) -> StateDict:
        """What goes from fit to fit, apart from the model's own weights, statistics and elites."""
        return {
            "optimizer": optimizer_state(self._optimizer),
            "stream": torch_stream_state(self._generator),
            "split_seed": self._split_seed,
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model's own is loaded apart from it.

        Raises:
            ValueError: if it is the state of a trainer of another model; nothing is changed then.
        """
        require_keys(state, ("optimizer", "stream", "split_seed", "warned"), "a Trainer")
        check_optimizer_state(self._optimizer, state["optimizer"])
        set_torch_stream_state(self._generator, state["stream"])
        load_optimizer_state(self._optimizer, state["optimizer"])
        self._split_seed, self._warned = int(state["split_seed"]), set(state["warned"])

    def _warn(self, report: FitReport) -> None:
        """Say what makes predictions unreliable; what a run would repeat at each fit is said once."""
        if report.diverged_members:
            lost = [member for member in report.diverged_members if math.isinf(report.holdout_error[member])]
            warnings.warn(
                f"Members {list(report.diverged_members)} of the ensemble had numbers that are not finite and went "
                f"back to their best weights; {lost or 'none'} of them had none and cannot be elites. Look for "
                "outliers in the data, or lower the learning rate.",
                stacklevel=3,
            )
        problem = termination_problem(report)
        if problem is not None and problem.kind not in self._warned:
            self._warned.add(problem.kind)
            warnings.warn(problem.message, stacklevel=3)

    def _make_optimizer(self) -> th.optim.Adam:
        layers = self.model.net.linear_layers()
        first, last = self.config.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": [layer.weight], "weight_decay": float(decay)}
            for layer, decay in zip(layers, th.linspace(first, last, len(layers)), strict=True)
        ]
        free = [layer.bias for layer in layers] + list(self.model.log_variance.parameters())
        return th.optim.Adam([*groups, {"params": free}], lr=self.config.learning_rate, fused=True)


class Effort(NamedTuple):
    """What a fit took: epochs, optimiser steps of all members together, and rows seen by each."""

    epochs: int
    steps: int
    rows: int


def _elites(errors: Tensor, count: int) -> Tensor:
    """The ``count`` best members by ``errors (E,)``; where fewer are finite, these in turns."""
    sound = int(errors.isfinite().sum())
    if not sound:
        raise ValueError(
            "No member of the ensemble predicts finite numbers, before or after the fit: build a new model, and look "
            "for outliers in the data."
        )
    ranked = errors.argsort(stable=True)[:sound]
    return ranked[th.arange(count, device=errors.device) % sound]
