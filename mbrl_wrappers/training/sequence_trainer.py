"""Fitting latent state-space models to sequences of real transitions."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch as th
from torch import Tensor

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.latent.elbo import ElboOptions, elbo_terms, sequence_loss
from mbrl_wrappers.latent.model import LatentStateSpaceModel
from mbrl_wrappers.latent.sequences import SequenceBatch
from mbrl_wrappers.seeding import set_torch_stream_state, spawn_seeds, torch_generator, torch_stream_state
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.torch_states import check_optimizer_state, load_optimizer_state, optimizer_state
from mbrl_wrappers.training.dataset import checked_row_ids, training_rows
from mbrl_wrappers.training.sequence_report import (
    SequenceFitReport,
    constant_dimensions,
    dimensions,
    sequence_problems,
    sequence_quality,
)
from mbrl_wrappers.training.sequence_windows import Episodes
from mbrl_wrappers.types import Transitions


@dataclass(frozen=True)
class SequenceFitConfig:
    """How a latent state-space model is fitted.

    Attributes:
        max_gradient_steps: optimiser steps at most per fit.
        batch_size: windows per step.
        window: transitions per window; episodes that are shorter are taken as a whole.
        burn_in: observations at the beginning of a window that do not count where it begins inside of an episode.
        validate_every: gradient steps between two looks at the holdout.
        patience: looks without an improvement of the bound before the fit stops; the best weights are kept.
        holdout_ratio: share of the episodes held out.
        max_holdout: windows of the holdout that are looked at.
        learning_rate: of Adam.
        max_gradient_norm: longer gradients are scaled down to this length.
        objective: weight and shape of the divergence in the loss.
    """

    max_gradient_steps: int = 2000
    batch_size: int = 32
    window: int = 31
    burn_in: int = 0
    validate_every: int = 100
    patience: int = 10
    holdout_ratio: float = 0.1
    max_holdout: int = 128
    learning_rate: float = 1e-3
    max_gradient_norm: float = 100.0
    objective: ElboOptions = field(default_factory=ElboOptions)

    def __post_init__(self) -> None:
        for name in ("max_gradient_steps", "batch_size", "window", "validate_every", "patience", "max_holdout"):
            at_least(name, getattr(self, name))
        at_least("burn_in", self.burn_in, 0)
        if self.burn_in > self.window:
            raise ValueError(
                f"burn_in={self.burn_in} leaves nothing of a window of {self.window} transitions: lower it."
            )
        if not 0 < self.holdout_ratio < 1:
            raise ValueError(f"holdout_ratio must be inside (0, 1), got {self.holdout_ratio}.")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"learning_rate must be inside (0, 1], got {self.learning_rate}.")
        within("max_gradient_norm", self.max_gradient_norm, 1e-6)


class SequenceTrainer:
    """Fits a latent state-space model; keeps the optimiser's state from fit to fit (warm start).

    Args:
        model: trained in place, whatever its form.
        config: how to fit.
        seed: source of the holdout, the windows and all draws.

    Attributes:
        steps_taken: gradient steps of all fits, by which the divergence warms up.

    Raises:
        ValueError: for windows that the model's transformer cannot look back on.
    """

    def __init__(self, model: LatentStateSpaceModel, config: SequenceFitConfig | None = None, *, seed: int = 0) -> None:
        self.model = model
        self.config = config or SequenceFitConfig()
        options = model.options
        if model.posterior.keeps_inputs and self.config.window >= options.context:
            raise ValueError(
                f"A window of {self.config.window} transitions has {self.config.window + 1} observations, and the "
                f"posterior looks back on context={options.context}: lower window or raise LatentOptions.context."
            )
        self._split_seed, self._holdout_seed, stream = spawn_seeds(seed, 3)
        self._generator = torch_generator(stream)  # on the CPU: the same draws on every device
        self._optimizer = th.optim.Adam(model.parameters(), lr=self.config.learning_rate, fused=True)
        self.steps_taken = 0
        self._warned: set[str] = set()

    def fit(
        self, transitions: Transitions, *, max_gradient_steps: int | None = None, row_ids: Tensor | None = None
    ) -> SequenceFitReport:
        """Fit to ``transitions`` and return what came of it.

        Scales are taken from the training rows. Whole episodes are held out, the same from fit to fit as long as their
        first row is kept. The weights that were best on the holdout are restored at the end.

        Args:
            transitions: rows in raw units, in the order of time, environment after environment: all that a store or
                buffer holds.
            max_gradient_steps: the cap of this fit, in place of the configuration's.
            row_ids: ``(B,)`` int64, the number of each row in order of collection (``row_ids()`` of stores and
                buffers); by it the oldest rows of a full ring are known to begin in the middle of an episode.

        Raises:
            TypeError: for columns that are not tensors.
            ValueError: for rows that the model cannot learn from, that are not in the order of time, or in which no
                sensor ever changes.
        """
        started = time.perf_counter()
        model, config = self.model, self.config
        rows = training_rows(transitions, model)
        ids = None if row_ids is None else checked_row_ids(row_ids, rows.num_rows)
        train, holdout = Episodes.of(rows, ids).split(config.holdout_ratio, seed=self._split_seed)
        model.set_statistics(_rows_of(train))
        cap = config.max_gradient_steps if max_gradient_steps is None else at_least("steps", max_gradient_steps)
        judged = holdout.cover(config.window, config.max_holdout)
        initial_bound = self._bound(judged)
        effort = self._improve(train, judged, initial_bound, cap)
        quality = sequence_quality(model, judged, generator=torch_generator(self._holdout_seed))
        report = SequenceFitReport(
            gradient_steps=effort.steps,
            windows_seen=effort.steps * config.batch_size,
            train_episodes=len(train.begin),
            holdout_episodes=len(holdout.begin),
            train_rows=train.num_steps,
            holdout_rows=holdout.num_steps,
            initial_bound=initial_bound,
            best_step=effort.best_step,
            skipped_steps=effort.skipped,
            dimensions=dimensions(model),
            constant=constant_dimensions(model),
            quality=quality,
            problems=sequence_problems(model, quality, effort.skipped),
            seconds=time.perf_counter() - started,
        )
        self._warn(report)
        return report

    def _improve(self, train: Episodes, judged: SequenceBatch, bound: float, cap: int) -> FitEffort:
        """Step after step until the bound of the holdout no longer rises; leaves the best weights in place."""
        config = self.config
        best, best_step, best_bound = copy.deepcopy(self.model.state_dict()), 0, bound
        skipped = steps = looks = 0
        while steps < cap and looks < config.patience:
            count = min(config.validate_every, cap - steps)
            skipped += sum(not self.gradient_step(train) for _ in range(count))
            steps += count
            bound = self._bound(judged)
            looks += 1
            if bound > best_bound or best_bound != best_bound:
                best, best_step, best_bound, looks = copy.deepcopy(self.model.state_dict()), steps, bound, 0
        self.model.load_state_dict(best)
        return FitEffort(steps, best_step, skipped)

    def gradient_step(self, train: Episodes) -> bool:
        """One step of the optimiser on windows of ``train``; whether it could be taken."""
        config, model = self.config, self.model
        batch = train.draw(config.batch_size, config.window, generator=self._generator)
        noise = self._noise(batch, self._generator)
        loss, _ = sequence_loss(model, batch, noise, config.objective, burn_in=config.burn_in, step=self.steps_taken)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = th.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
        self.steps_taken += 1
        if not bool(norm.isfinite() & loss.isfinite()):
            return False
        self._optimizer.step()
        return True

    @th.no_grad()
    def _bound(self, batch: SequenceBatch) -> float:
        """The evidence lower bound per observation, with the same draws at every look."""
        noise = self._noise(batch, torch_generator(self._holdout_seed))
        terms = elbo_terms(self.model, batch, self.model.infer(batch, noise))
        return float(terms.bound.sum()) / int(batch.valid.sum())

    def _noise(self, batch: SequenceBatch, generator: th.Generator) -> Tensor:
        shape = (*batch.obs.shape[:2], self.model.options.latent_size)
        return th.randn(shape, generator=generator).to(self.model.device)

    def state_dict(self) -> StateDict:
        """What goes from fit to fit, apart from the model's own weights and statistics."""
        return {
            "optimizer": optimizer_state(self._optimizer),
            "stream": torch_stream_state(self._generator),
            "split_seed": self._split_seed,
            "holdout_seed": self._holdout_seed,
            "steps_taken": self.steps_taken,
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model's own is loaded apart from it.

        Raises:
            ValueError: if it is the state of a trainer of another model; nothing is changed then.
        """
        keys = ("optimizer", "stream", "split_seed", "holdout_seed", "steps_taken", "warned")
        require_keys(state, keys, "a SequenceTrainer")
        check_optimizer_state(self._optimizer, state["optimizer"])
        set_torch_stream_state(self._generator, state["stream"])
        load_optimizer_state(self._optimizer, state["optimizer"])
        self._split_seed, self._holdout_seed = int(state["split_seed"]), int(state["holdout_seed"])
        self.steps_taken, self._warned = int(state["steps_taken"]), set(state["warned"])

    def _warn(self, report: SequenceFitReport) -> None:
        """Say what is wrong; what a run would repeat at each fit is said once."""
        for problem in report.problems:
            kind = problem.split(":", 1)[0].split(" ", 3)[-1] if problem[0].isdigit() else problem[:25]
            if kind not in self._warned:
                self._warned.add(kind)
                warnings.warn(problem, stacklevel=3)


class FitEffort(NamedTuple):
    """What a fit took: optimiser steps, the one whose weights were kept, and those that were skipped."""

    steps: int
    best_step: int
    skipped: int


def _rows_of(episodes: Episodes) -> Transitions:
    """The rows of the runs."""
    runs = zip(episodes.begin.tolist(), episodes.steps.tolist(), strict=True)
    index = th.cat([th.arange(begin, begin + count, device=episodes.begin.device) for begin, count in runs])
    return Transitions(*(column[index] for column in episodes.rows))
