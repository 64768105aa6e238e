"""Speed as ratios measured in one process: ``make bench`` or ``python scripts/bench.py``.

The yardstick is float32 ``torch.mm`` at 1024 x 1024 x 1024 with the same number of threads, timed in turn with what is
compared to it, so that a machine whose speed drifts changes both. Useful FLOPs are those of one member per row in a
rollout, and of forward and backward pass (three times forward) of every member in training; everything else, from
sampling to the optimiser, counts as time only. The true model of a MuJoCo task is compared with a bare call of
``mujoco.rollout`` for the same controls. Each figure is the median over pairs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch as th
from mujoco.rollout import Rollout
from torch import Generator, Tensor

from mbrl_wrappers import EnsembleDynamics, FitConfig, MujocoModel, Trainer, Transitions, branched_rollout
from mbrl_wrappers.models.ensemble import Propagation
from mbrl_wrappers.tasks import task_functions

ROOFLINE_SIZE = 1024
HOPPER = (11, 3)
CANDIDATES, PARTICLES, HORIZON = 350, 20, 15  # PETS' CEM on a task of this size
PLANS = (100, 30)


@dataclass(frozen=True)
class Figure:
    """One line of the table: a ratio, its quartiles, and what it is a ratio of."""

    name: str
    threads: int
    median: float
    low: float
    high: float
    unit: str


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts (default: 1 2)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="rollout batch sizes")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per figure (default: 4)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    figures: list[Figure] = []
    print(f"{'':46} {'threads':>7} {'median':>7}  quartiles", flush=True)
    for threads in args.threads:
        th.set_num_threads(threads)
        for name, figure in [
            *((f"rollout, {rows:,} rows, of the roofline", lambda rows=rows: rollout(rows)) for rows in args.rows),
            (f"planning, {CANDIDATES} x {PARTICLES} rows, of the roofline", planning),
            ("training, batch 256 x 7, of the roofline", training),
        ]:
            figures.append(measure(name, threads, *figure(), seconds=args.seconds))
    figures.extend(simulator_share(threads, args.seconds) for threads in args.threads)
    if {1, 2} <= set(args.threads):
        figures.append(simulator_on_two_threads(args.seconds))
        figures.extend(two_threads_over_one(rows, args.seconds) for rows in args.rows if rows >= 10_000)
    if args.json:
        report = {"machine": platform.processor(), "torch": th.__version__, "figures": [asdict(f) for f in figures]}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


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


def two_threads_over_one(rows: int, seconds: float) -> Figure:
    """How much faster a rollout is on two threads than on one."""
    work, _ = rollout(rows)

    def on(threads: int) -> Callable[[], object]:
        def run() -> object:
            th.set_num_threads(threads)
            return work()

        return run

    ratios = [one / two for one, two in paired_seconds(on(1), on(2), seconds)]
    return report(f"rollout, {rows:,} rows, two threads over one", 2, ratios, "times as fast")


def simulator(threads: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """The true HalfCheetah, 100 rollouts of 30 steps: ``MujocoModel``, and bare physics for the same controls."""
    rows, horizon = PLANS
    env = gymnasium.make("HalfCheetah-v5")
    obs, _ = env.reset(seed=0)
    model, generator = MujocoModel(env, threads=threads), th.Generator().manual_seed(0)
    state = model.reset(th.as_tensor(obs).float().repeat(rows, 1), generator=generator)
    actions = th.rand(rows, horizon, model.codec.size, generator=generator) * 2 - 1
    task: Any = env.unwrapped
    control = np.repeat(model.codec.decode(actions).double().numpy(), task.frame_skip, 1)
    data = [mujoco.MjData(task.model) for _ in range(threads)]
    start = np.empty((1, mujoco.mj_stateSize(task.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)))
    mujoco.mj_getState(task.model, task.data, start[0], mujoco.mjtState.mjSTATE_FULLPHYSICS)
    pool = Rollout(nthread=threads if threads > 1 else 0)

    def bare() -> object:
        return pool.rollout(task.model, data, start, control)

    return lambda: model.rollout(state, actions, generator=generator), bare


def simulator_share(threads: int, seconds: float) -> Figure:
    """The speed of ``MujocoModel`` as a share of bare physics."""
    ours, bare = simulator(threads)
    ratios = [physics / model for model, physics in paired_seconds(ours, bare, seconds)]
    return report("HalfCheetah 100 x 30, of bare mujoco.rollout", threads, ratios, "of bare mujoco.rollout")


def simulator_on_two_threads(seconds: float) -> Figure:
    """How much faster ``MujocoModel`` is on two threads than on one."""
    ratios = [one / two for one, two in paired_seconds(simulator(1)[0], simulator(2)[0], seconds)]
    return report("HalfCheetah 100 x 30, two threads over one", 2, ratios, "times as fast")


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
    pairs = []
    end = time.perf_counter() + seconds
    while len(pairs) < 7 or time.perf_counter() < end:
        pairs.append((clock(first), clock(second)))
    return pairs


def report(name: str, threads: int, ratios: list[float], unit: str) -> Figure:
    """Print and return one figure."""
    low, median, high = statistics.quantiles(ratios, n=4)
    print(f"{name:46} {threads:7d} {median:7.2f}  {low:.2f} to {high:.2f}", flush=True)
    return Figure(name, threads, median, low, high, unit)


def forward_flops(model: EnsembleDynamics) -> float:
    """Multiply-adds count twice; one member, one row."""
    return float(sum(2 * layer.weight[0].numel() for layer in model.net.linear_layers()))


def hopper_model(propagation: Propagation = "ts1") -> EnsembleDynamics:
    """The default ensemble at Hopper's size: learned reward, known termination."""
    env = gymnasium.make("Hopper-v5")
    known = task_functions(env)
    return EnsembleDynamics(
        env.observation_space,
        env.action_space,
        propagation=propagation,
        termination_fn=known.termination_fn,
        reward_fn=known.reward_fn,
    )


def standing_hoppers(rows: int) -> Tensor:
    """Observations ``(rows, 11)`` near the upright pose, so that branches live."""
    obs = 0.01 * th.randn(rows, HOPPER[0], generator=th.Generator().manual_seed(0))
    obs[:, 0] += 1.25
    return obs


def rollout(rows: int) -> tuple[Callable[[], object], float]:
    """One step of a branched rollout: prediction, sampling, reward, termination, checks; actions ready made."""
    model, generator = hopper_model(), th.Generator().manual_seed(0)
    starts = standing_hoppers(rows)
    actions = th.rand(rows, HOPPER[1], generator=generator) * 2 - 1

    def policy(obs: Tensor, *, generator: Generator) -> Tensor:
        return actions[: len(obs)]

    return lambda: branched_rollout(model, policy, starts, 1, generator=generator), rows * forward_flops(model)


def planning() -> tuple[Callable[[], object], float]:
    """What a planner asks of the model for one set of candidates: every step of all particles, draws in common."""
    model, generator = hopper_model("tsinf"), th.Generator().manual_seed(0)
    particles = model.reset(standing_hoppers(PARTICLES), generator=generator)
    start = type(particles)(*(column.repeat(CANDIDATES, *[1] * (column.ndim - 1)) for column in particles))
    rows = CANDIDATES * PARTICLES
    actions = th.rand(HORIZON, rows, HOPPER[1], generator=generator) * 2 - 1

    @th.no_grad()
    def work() -> None:
        state = start
        for action in actions:
            state, _ = model.step_shared(state, action, generator=generator, groups=CANDIDATES)

    return work, HORIZON * rows * forward_flops(model)


def training() -> tuple[Callable[[], object], float]:
    """Twenty optimiser steps of all members on batches of 256, batching included, holdout excluded."""
    steps, batch = 20, 256
    model = hopper_model()
    trainer = Trainer(model, FitConfig(batch_size=batch))
    generator = th.Generator().manual_seed(0)
    obs = standing_hoppers(steps * batch)
    rows = Transitions(
        obs,
        th.rand(len(obs), HOPPER[1], generator=generator) * 2 - 1,
        th.rand(len(obs), generator=generator),
        obs + 0.01 * th.randn(obs.shape, generator=generator),
        th.zeros(len(obs), dtype=th.bool),
        th.zeros(len(obs), dtype=th.bool),
    )
    model.set_statistics(rows)
    data = model.batch(rows)
    members = th.arange(len(obs)).expand(model.num_members, len(obs))
    return lambda: trainer.run_epoch(data, members), 3 * forward_flops(model) * model.num_members * len(obs)


if __name__ == "__main__":
    main()
