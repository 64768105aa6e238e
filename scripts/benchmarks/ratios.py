"""How a ratio is measured: two pieces of work timed in turn, so that a machine whose speed drifts changes both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch as th

ROOFLINE_SIZE = 1024


@dataclass(frozen=True)
class Figure:
    """One line of the table: a ratio, its quartiles, and what it is a ratio of."""

    name: str
    threads: int
    median: float
    low: float
    high: float
    unit: str


def roofline() -> Callable[[], None]:
    """One product of two square matrices."""
    a, b, out = (th.randn(ROOFLINE_SIZE, ROOFLINE_SIZE) for _ in range(3))
    return lambda: th.mm(a, b, out=out)  # type: ignore[return-value]


def measure(name: str, threads: int, work: Callable[[], object], flops: float, *, seconds: float) -> Figure:
    """The share of the roofline that ``work`` of ``flops`` useful operations reaches."""
    reference = roofline()
    peak_flops = 2.0 * ROOFLINE_SIZE**3
    ratios = [flops / ours / (peak_flops / peak) for ours, peak in paired_seconds(work, reference, seconds)]
    return report(name, threads, ratios, "of the roofline")


def paired_seconds(
    first: Callable[[], object], second: Callable[[], object], seconds: float
) -> list[tuple[float, float]]:
    """Time the two in turn until ``seconds`` have passed, at least seven times, after two of each unseen."""

    def clock(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    for _ in range(2):
        first(), second()
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < 7 or time.perf_counter() < end:
        pairs.append((clock(first), clock(second)))
    return pairs


def report(name: str, threads: int, ratios: list[float], unit: str) -> Figure:
    """Print and return one figure."""
    low, median, high = statistics.quantiles(ratios, n=4)
    digits = ",.0f" if median >= 1000 else ".2f"
    print(f"{name:62} {threads:7d} {median:12{digits}}  {low:{digits}} to {high:{digits}} {unit}", flush=True)
    return Figure(name, threads, median, low, high, unit)


def two_threads_over_one(name: str, work: Callable[[], object], seconds: float) -> Figure:
    """How much faster ``work`` is on two torch threads than on one."""

    def on(threads: int) -> Callable[[], object]:
        def run() -> object:
            th.set_num_threads(threads)
            return work()

        return run

    ratios = [one / two for one, two in paired_seconds(on(1), on(2), seconds)]
    return report(f"{name}, two threads over one", 2, ratios, "times as fast")
