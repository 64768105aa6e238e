"""Fits an ensemble in a process of its own, while the agent goes on with the weights that it has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from torch import Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.training.background_worker import (
    ROW_IDS,
    ROWS,
    WEIGHTS,
    FitMessage,
    prefixed,
    receive,
    send,
    with_tuples,
)
from mbrl_wrappers.training.trainer import FitConfig
from mbrl_wrappers.types import Transitions

LARGEST_LOSSES = 2
"""Processes that may be lost over one fit before that is an error."""


class BackgroundTrainer:
    """A :class:`~mbrl_wrappers.Trainer` in another process, so that a second core fits while the first one acts.

    :meth:`start` sends rows and weights and returns at once. :meth:`poll` says whether the fit is over; if so, it puts
    all new weights, statistics and elites into the model before it returns, so nobody meets a half of them.
    :meth:`fit` does both and waits, with the result of a ``Trainer`` of the same seed.

    The process is started by the first fit and knows the model by its configuration and tensors alone; no object of the
    user goes there, and nothing is pickled. One that dies is replaced, with a warning that says how it ended, and the
    fit is begun again. A new process has none of the old one's optimiser moments.

    Args:
        model: the ensemble; its weights change in :meth:`poll` only.
        config: how to fit.
        seed: source of holdout, bootstrap and batch order.
        threads: of the other process.

    Attributes:
        replaced: processes that were lost and replaced.

    Raises:
        TypeError: for a model of another kind.
        ValueError: for no threads.
    """

    _process: subprocess.Popen[bytes] | None = None
    _connection: Connection | None = None
    _request: Callable[[], None] | None = None

    def __init__(
        self, model: EnsembleDynamics, config: FitConfig | None = None, *, seed: int = 0, threads: int = 1
    ) -> None:
        if not isinstance(model, EnsembleDynamics):
            raise TypeError(f"BackgroundTrainer fits an EnsembleDynamics, got {type(model).__name__}.")
        self.model = model
        self.config = config or FitConfig()
        self.seed, self.threads = seed, at_least("threads", threads)
        self.replaced = 0
        self._lost_now = 0

    @property
    def fitting(self) -> bool:
        """Whether a fit is under way."""
        return self._request is not None

    def start(
        self, transitions: Transitions, *, max_gradient_steps: int | None = None, row_ids: Tensor | None = None
    ) -> None:
        """Begin a fit of the present weights to ``transitions``; arguments as in ``Trainer.fit``.

        Raises:
            RuntimeError: if a fit is under way.
        """
        if self.fitting:
            raise RuntimeError("A fit is under way: poll() or join() it before you start another.")
        rows = prefixed(ROWS, transitions._asdict() | ({} if row_ids is None else {ROW_IDS: row_ids}))
        weights = prefixed(WEIGHTS, {name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        head = {"max_gradient_steps": max_gradient_steps}
        self._lost_now = 0
        self._request = lambda: send(self._ready(), head, weights | rows)
        self._ask()

    def poll(self) -> FitReport | None:
        """The report of the fit that was started, once it is over; the model has changed then. None until that.

        Raises:
            ValueError: what the fit itself raised, as do TypeError and RuntimeError.
            RuntimeError: if no fit was started, or if the process is lost again and again.
        """
        return self._outcome(wait=False)

    def join(self) -> FitReport:
        """Wait for the fit that was started; raises what :meth:`poll` raises."""
        report = self._outcome(wait=True)
        assert report is not None
        return report

    def fit(
        self, transitions: Transitions, *, max_gradient_steps: int | None = None, row_ids: Tensor | None = None
    ) -> FitReport:
        """Start a fit and wait for it."""
        self.start(transitions, max_gradient_steps=max_gradient_steps, row_ids=row_ids)
        return self.join()

    def close(self) -> None:
        """End the process and forget a fit that is under way; the next fit starts a new one."""
        self._request = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """All but the process, so that whoever keeps a trainer can be copied."""
        return self.__dict__ | {"_process": None, "_connection": None, "_request": None}

    # --- the other process ------------------------------------------------------------------------------------------

    def _outcome(self, *, wait: bool) -> FitReport | None:
        if self._request is None:
            raise RuntimeError("No fit is under way: start() one first.")
        while True:
            assert self._connection is not None
            try:
                if not (wait or self._connection.poll()):
                    return None
                answer = receive(self._connection)
            except (EOFError, OSError):
                self._replace()
                continue
            self._request = None
            return self._accepted(answer)

    def _accepted(self, answer: FitMessage) -> FitReport:
        if "error" in answer.head:
            kind = {"ValueError": ValueError, "TypeError": TypeError}.get(answer.head["type"], RuntimeError)
            raise kind(answer.head["error"])
        self.model.load_state_dict(answer.tensors)
        return FitReport(**with_tuples(answer.head["report"]))

    def _ask(self) -> None:
        assert self._request is not None
        try:
            self._request()
        except (BrokenPipeError, ConnectionResetError):
            self._replace()

    def _replace(self) -> None:
        """Start another process in place of one that is gone, and ask it for the same fit."""
        assert self._process is not None
        request, code = self._request, self._process.wait()
        self.replaced, self._lost_now = self.replaced + 1, self._lost_now + 1
        self.close()
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if self._lost_now > LARGEST_LOSSES:
            raise RuntimeError(
                f"The process that fits the model {ended}, as did {LARGEST_LOSSES} before it over the same fit: is "
                "there enough memory? Fit in the agent's own process (Trainer) to see the error."
            )
        warnings.warn(f"The process that fits the model {ended}; another one begins the fit anew.", stacklevel=4)
        self._request = request
        self._ask()

    def _ready(self) -> Connection:
        """The connection to a process that has the model, started where there is none."""
        if self._connection is None:
            here, there = socket.socketpair()
            paths = os.pathsep.join(path for path in sys.path if path)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mbrl_wrappers.training.background_worker", str(there.fileno())],
                pass_fds=(there.fileno(),),
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(self.threads)},
                stdin=subprocess.DEVNULL,
            )
            there.close()
            self._connection = Connection(here.detach())
            described, tensors = self.model.to_checkpoint()
            head = {"model": described, "fit": asdict(self.config), "seed": self.seed, "threads": self.threads}
            send(self._connection, head, prefixed(WEIGHTS, tensors))
        return self._connection
