"""Fits that run beside the agent, and how far they may fall behind."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from stable_baselines3.common.logger import Logger
from torch import Tensor

from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.types import Transitions


@runtime_checkable
class BesideTrainer(Protocol):
    """A trainer whose fits can be started and asked for, such as ``mbrl_wrappers.training.BackgroundTrainer``."""

    @property
    def fitting(self) -> bool:
        """Whether a fit is under way."""
        ...

    @property
    def replaced(self) -> int:
        """Processes that were lost and replaced."""
        ...

    def start(
        self, transitions: Transitions, *, max_gradient_steps: int | None = None, row_ids: Tensor | None = None
    ) -> None:
        """Begin a fit."""
        ...

    def poll(self) -> FitReport | None:
        """The report of a fit that is over, with the model changed; None while it goes on."""
        ...

    def join(self) -> FitReport:
        """Wait for it."""
        ...


def fits_beside(trainer: object, max_staleness: int | None) -> FitsBeside | None:
    """What runs the fits of ``trainer`` beside the agent; None where they run in sequence, or there are none.

    Raises:
        ValueError: if fits should run beside and ``trainer`` cannot start them.
    """
    if max_staleness is None or trainer is None:
        return None
    if not isinstance(trainer, BesideTrainer):
        raise ValueError(
            f"DynaConfig.max_staleness lets fits run beside the agent, which {type(trainer).__name__} cannot: "
            "trainer=BackgroundTrainer(model), or leave max_staleness at None."
        )
    return FitsBeside(trainer, max_staleness)


class FitsBeside:
    """Starts fits, and waits for one only when its rows are too old.

    Args:
        trainer: what fits.
        max_staleness: real steps that the agent may take while a fit is under way; 0 waits for each fit at once, which
            is the order of a fit in place.
    """

    def __init__(self, trainer: BesideTrainer, max_staleness: int) -> None:
        self.trainer = trainer
        self.max_staleness = max_staleness
        self._started = 0

    @property
    def idle(self) -> bool:
        """Whether another fit can be started."""
        return not self.trainer.fitting

    def start(self, transitions: Transitions, steps: int, *, cap: int | None, row_ids: Tensor) -> None:
        """Begin a fit to what was collected in ``steps`` real steps."""
        self._started = steps
        self.trainer.start(transitions, max_gradient_steps=cap, row_ids=row_ids)

    def finished(self, steps: int, logger: Logger, *, wait: bool = False) -> FitReport | None:
        """The report of a fit that is over after ``steps`` real steps; waits for it when it is due."""
        if self.idle:
            return None
        age = steps - self._started
        report = self.trainer.join() if wait or age >= self.max_staleness else self.trainer.poll()
        if report is not None:
            logger.record("model/staleness", age)
            logger.record("model/fitters_replaced", self.trainer.replaced)
        return report
