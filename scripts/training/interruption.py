"""Ctrl-C and SIGTERM end a run at the next step boundary, so that it can still save."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from stable_baselines3.common.callbacks import BaseCallback

if TYPE_CHECKING:
    from sb3_ext import RunCheckpoint


class TrainingStopped(Exception):
    """Training ends here; the run is saved."""


class StopOnSignal(BaseCallback):
    """Stops training after SIGINT or SIGTERM; a second signal aborts at once.

    With a checkpoint it stops where the run can be saved, which is at the start of the next rollout; without one, at
    the next step.

    Attributes:
        received: the signal's number, or ``None``.
        checkpoint: saves the run before it stops; it comes before this one in the list of callbacks.
        raises: whether :class:`TrainingStopped` ends the run at once after it was saved, or the next step does, which
            is then in no checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received: int | None = None
        self.checkpoint: RunCheckpoint | None = None
        self.raises = True
        self._saved = False

    @property
    def exit_code(self) -> int:
        """0, or 128 plus the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""
        return 0 if self.received is None else 128 + self.received

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the two signals inside the ``with`` block and give back the old handlers after it."""
        old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, frame: FrameType | None) -> None:
            self.received = number
            print("Stopping as soon as the run can be saved; signal again to abort at once.", flush=True)
            for each, handler in old.items():
                signal.signal(each, handler)

        for number in old:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_rollout_start(self) -> None:
        if self.received is not None and self.checkpoint is not None:
            if (self.checkpoint.saved_at or 0) != self.model.num_timesteps:
                self.checkpoint.save_or_warn()
            self._saved = True
            if self.raises:
                raise TrainingStopped

    def _on_step(self) -> bool:
        return self.received is None or not (self._saved or self.checkpoint is None)
