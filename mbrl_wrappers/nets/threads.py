"""Work shared out over threads as a whole, where torch would split each of its operations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch as th

T = TypeVar("T")


def in_threads(work: Callable[[T], None], shares: Sequence[T]) -> None:
    """Call ``work`` on every share, the first in this thread and each other one in a thread of its own.

    Several small matrix products at the same time, each on one core, take less time than one after the other on all
    cores: nothing waits at the end of each. A single share, or none, is worked off here with torch's own threads.
    """
    if len(shares) < 2:
        for share in shares:
            work(share)
        return
    threads, inference = th.get_num_threads(), th.is_inference_mode_enabled()

    def elsewhere(share: T) -> None:
        with th.inference_mode(inference), th.no_grad():  # both are settings of a thread
            work(share)

    # The number of threads is a setting of each thread, and of the threads that are started while it holds.
    th.set_num_threads(1)
    try:
        others = [_pool(os.getpid(), len(shares) - 1).submit(elsewhere, share) for share in shares[1:]]
        work(shares[0])
        for other in others:
            other.result()
    finally:
        th.set_num_threads(threads)


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Idle threads of this ``process``: one forked from it has none of them."""
    return ThreadPoolExecutor(threads, "ensemble", initializer=th.set_num_threads, initargs=(1,))
