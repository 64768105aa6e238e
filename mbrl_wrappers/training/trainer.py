"""Maximum likelihood fitting of an ensemble with early stopping per member."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch as th
from torch import Tensor

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.models.gaussian_ensemble import Examples, GaussianEnsemble
from mbrl_wrappers.seeding import spawn_seeds, torch_generator
from mbrl_wrappers.training.dataset import bootstrap_rows, check_transitions, shuffled_batches, split_holdout
from mbrl_wrappers.training.report import calibrate_termination, holdout_quality
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

        Raises:
            ValueError: for too few or non-finite rows.
        """
        check_transitions(transitions)
        started = time.perf_counter()
        model, config = self.model, self.config
        if max_gradient_steps is None:
            max_gradient_steps = config.max_gradient_steps
        cap = sys.maxsize if max_gradient_steps is None else at_least("max_gradient_steps", max_gradient_steps)
        rows = Transitions(*(column.to(model.device) for column in transitions))
        ids = th.arange(rows.num_rows) if row_ids is None else row_ids
        split = split_holdout(ids, config.holdout_ratio, config.max_holdout, seed=self._split_seed)
        model.set_statistics(Transitions(*(column[split.train] for column in rows)))
        data = model.examples(rows)
        holdout = data.take(split.holdout)
        members = bootstrap_rows(split.train, model.num_members, generator=self._generator, resample=config.bootstrap)

        best = BestWeights(model.member_parameters(), model.errors(holdout), config.min_improvement)
        initial_error = best.errors.clone()
        epochs = steps = rows_seen = 0
        improved_epoch = improved_step = 0
        while epochs < config.max_epochs and steps < cap:
            done, rows_done = self.run_epoch(data, members, max_steps=cap - steps)
            epochs, steps, rows_seen = epochs + 1, steps + done, rows_seen + rows_done
            errors = model.errors(holdout)
            if on_epoch is not None:
                on_epoch(epochs, errors)
            if best.update(errors):
                improved_epoch, improved_step = epochs, steps
            elif epochs - improved_epoch >= config.patience and steps - improved_step >= config.patience_steps:
                break
        best.restore()
        errors = model.errors(holdout)
        model.elites.copy_(errors.argsort(stable=True)[: model.num_elites])
        termination = calibrate_termination(model, holdout, seen=bool(rows.terminated.any()))
        quality = holdout_quality(model, holdout)
        return FitReport(
            epochs=epochs,
            gradient_steps=steps,
            rows_seen=rows_seen,
            train_rows=len(split.train),
            holdout_rows=len(split.holdout),
            holdout_error=tuple(errors.tolist()),
            initial_error=tuple(initial_error.tolist()),
            dimensions=model.dimensions,
            holdout_r2=quality.r2,
            coverage_50=quality.coverage_50,
            coverage_90=quality.coverage_90,
            elites=tuple(model.elites.tolist()),
            log_variance_spread=quality.log_variance_spread,
            log_variance_low=quality.log_variance_low,
            log_variance_high=quality.log_variance_high,
            termination_threshold=termination.threshold,
            termination_precision=termination.precision,
            termination_recall=termination.recall,
            termination_base_rate=termination.base_rate,
            termination_events=termination.events,
            seconds=time.perf_counter() - started,
        )

    def run_epoch(self, data: Examples, members: Tensor, *, max_steps: int = sys.maxsize) -> tuple[int, int]:
        """One pass over each member's rows ``(E, n)`` of ``data``; returns gradient steps and rows seen."""
        steps = rows = 0
        for index in shuffled_batches(members, self.config.batch_size, generator=self._generator):
            self._step(data.take(index.to(self.model.device)))
            steps, rows = steps + 1, rows + index.shape[1]
            if steps >= max_steps:
                break
        return steps, rows

    def _step(self, batch: Examples) -> None:
        config = self.config
        loss = self.model.loss(batch, beta=config.nll_beta, log_variance_penalty=config.log_variance_penalty)
        if not loss.isfinite():
            return  # one such gradient would stay in the optimiser's moments for good
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self.model.log_variance.keep_apart()

    def _make_optimizer(self) -> th.optim.Adam:
        layers = self.model.net.linear_layers()
        first, last = self.config.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": [layer.weight], "weight_decay": float(decay)}
            for layer, decay in zip(layers, th.linspace(first, last, len(layers)), strict=True)
        ]
        free = [layer.bias for layer in layers] + list(self.model.log_variance.parameters())
        return th.optim.Adam([*groups, {"params": free}], lr=self.config.learning_rate, fused=True)


class BestWeights:
    """The best weights of each member so far, kept and restored member by member.

    Args:
        parameters: what is trained, each with the member axis first.
        errors: holdout error of each member with the present weights, ``(E,)``.
        min_improvement: relative fall that :meth:`update` reports as an improvement.
    """

    def __init__(self, parameters: Sequence[Tensor], errors: Tensor, min_improvement: float) -> None:
        self._parameters = list(parameters)
        self._min_improvement = min_improvement
        self._kept = [parameter.detach().clone() for parameter in parameters]
        self.errors = errors.clone()
        self._reference = errors.clone()

    @th.no_grad()
    def update(self, errors: Tensor) -> bool:
        """Keep the weights of every member that became better; say whether any did so by enough to go on."""
        better = errors < self.errors  # a NaN is not better
        if better.any():
            for kept, parameter in zip(self._kept, self._parameters, strict=True):
                kept[better] = parameter[better]
            self.errors[better] = errors[better]
        # Measured from the last error that counted, so that many small gains add up to one.
        enough = errors < (1 - self._min_improvement) * self._reference
        self._reference[enough] = errors[enough]
        return bool(enough.any())

    @th.no_grad()
    def restore(self) -> None:
        """Put the kept weights back."""
        for kept, parameter in zip(self._kept, self._parameters, strict=True):
            parameter.copy_(kept)
