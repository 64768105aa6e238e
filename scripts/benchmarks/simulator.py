"""The true model of a MuJoCo task beside a bare call of ``mujoco.rollout`` for the same controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch as th
from mujoco.rollout import Rollout

from mbrl_wrappers import MujocoModel
from scripts.benchmarks.ratios import Figure, paired_seconds, report

PLANS = (100, 30)


def simulator_figures(thread_counts: list[int], seconds: float) -> list[Figure]:
    """``MujocoModel`` against bare physics, and two threads against one where both are asked for."""
    figures = [simulator_share(threads, seconds) for threads in thread_counts]
    return [*figures, simulator_on_two_threads(seconds)] if {1, 2} <= set(thread_counts) else figures


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
