"""The learned ensemble at Hopper's size: rollouts, CEM plans and training, as shares of the roofline.

Useful FLOPs are those of one member per row in a rollout, and of forward and backward pass (three times forward) of
every member in training; everything else, from sampling to the optimiser, counts as time only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import torch as th
from torch import Generator, Tensor

from controllers import CEM, PlanningProblem
from mbrl_wrappers import EnsembleDynamics, FitConfig, Trainer, Transitions, branched_rollout
from mbrl_wrappers.tasks import never_terminates, task_functions
from scripts.benchmarks.ratios import Figure, measure, report

HOPPER = (11, 3)
PARTICLES, HORIZON, CANDIDATES, ITERATIONS = 20, 15, 350, 5  # PETS' CEM on a task of this size


def ensemble_figures(threads: int, rows: list[int], seconds: float) -> list[Figure]:
    """All shares of the roofline on so many torch threads, and the planner's own share of a plan."""
    th.set_num_threads(threads)
    figures = [measure(f"rollout, {count:,} rows", threads, *rollout(count), seconds=seconds) for count in rows]
    size = f"{CANDIDATES} x {PARTICLES} x {HORIZON} x {ITERATIONS}"
    figures.append(measure(f"CEM {size}", threads, *planning(), seconds=seconds))
    figures.append(report("CEM, all but the model's steps", threads, own_shares(7), "of a plan's time"))
    figures.append(measure("training, batch 256 x 7", threads, *training(), seconds=seconds))
    return figures


def own_shares(count: int) -> list[float]:
    """The part of a plan's time that is not spent in the model's ``step_shared``, for each of ``count`` plans."""
    problem, planner, generator = planning_problem()
    model: Any = problem.model
    step, spent = model.step_shared, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = step(*args, **kwargs)
        spent[0] += time.perf_counter() - started
        return result

    model.step_shared = timed
    shares = []
    for _ in range(count):
        spent[0] = 0.0
        seconds = planner.plan(problem, generator=generator).report.seconds
        shares.append(1 - spent[0] / seconds)
    return shares


def forward_flops(model: EnsembleDynamics) -> float:
    """Multiply-adds count twice; one member, one row."""
    return float(sum(2 * layer.weight[0].numel() for layer in model.net.linear_layers()))


def hopper_model() -> EnsembleDynamics:
    """The default ensemble at Hopper's size: learned reward, known termination."""
    env = gymnasium.make("Hopper-v5")
    termination_fn = task_functions(env).termination_fn
    return EnsembleDynamics(env.observation_space, env.action_space, termination_fn=termination_fn)


def standing_hoppers(rows: int) -> Tensor:
    """Observations ``(rows, 11)`` near the upright pose, so that rollouts do not terminate."""
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


def planning_problem() -> tuple[PlanningProblem[Any], CEM, Generator]:
    """CEM from one state in an ensemble, TS-infinity; no candidate ends early, so that all its steps are work."""
    env = gymnasium.make("Hopper-v5")
    model: Any = EnsembleDynamics(
        env.observation_space, env.action_space, propagation="tsinf", termination_fn=never_terminates
    )
    problem = PlanningProblem(model, standing_hoppers(1), HORIZON, particles=PARTICLES)
    return problem, CEM(population=CANDIDATES, iterations=ITERATIONS), th.Generator().manual_seed(0)


def planning() -> tuple[Callable[[], object], float]:
    """A whole plan."""
    problem, planner, generator = planning_problem()
    model: Any = problem.model
    calls = planner.plan(problem, generator=generator).report.model_calls
    return lambda: planner.plan(problem, generator=generator), calls * forward_flops(model)


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
    data = model.examples(rows)
    members = th.arange(len(obs)).expand(model.num_members, len(obs))
    return lambda: trainer.run_epoch(data, members), 3 * forward_flops(model) * model.num_members * len(obs)
