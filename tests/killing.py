"""Child processes that are killed at a given moment."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def forked(work: Callable[[], int]) -> int:
    """A child that does ``work`` and leaves with the code that it returns; the process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        code = work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def started(words: Sequence[str]) -> int:
    """A child that runs ``python`` with ``words`` at the root of the checkout; the process id."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, *words],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)],
        )
    finally:
        os.close(null)


def killed_after(child: int, begun: Callable[[], bool], seconds: float, limit: float = 300.0) -> int | None:
    """Kill ``child`` so long after it has begun; its exit code if it was over before, None if it was killed.

    Args:
        child: its process id.
        begun: whether it has begun.
        seconds: from then on.
        limit: seconds that it may take to begin.
    """
    deadline: float | None = None
    give_up = time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if deadline is None and begun():
            deadline = now + seconds
        late = deadline is None and now > give_up
        if late or (deadline is not None and now >= deadline):
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            assert not late, "the child did not begin in time"
            return None if code == -signal.SIGKILL else code
        time.sleep(0.002)
