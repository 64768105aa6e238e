"""Ctrl-C and SIGTERM end a run at the next step boundary, so that it can still save."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stable_baselines3.common.callbacks import BaseCallback


class StopOnSignal(BaseCallback):
    """Stops training after SIGINT or SIGTERM; a second signal aborts at once.

    Attributes:
        received: the signal's number, or ``None``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received: int | None = None

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
            print("Stopping at the next step and saving; signal again to abort at once.", flush=True)
            for each, handler in old.items():
                signal.signal(each, handler)

        for number in old:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_step(self) -> bool:
        return self.received is None
