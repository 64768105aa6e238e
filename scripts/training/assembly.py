"""The parts of a run put together: once for trial, before a folder is made, and once in earnest."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from scripts.training.algorithms import ON_POLICY
from scripts.training.phases import PhaseClock
from scripts.training.run import TrainingRun

if TYPE_CHECKING:
    from sb3_ext import AveragedActor, DynaCallback
    from scripts.training.learned_model import LearnedModel


AVERAGE_STEPS = 200


@dataclass(frozen=True)
class DynaParts:
    """An off-policy agent, its model, and the callback between them."""

    agent: BaseAlgorithm
    model: LearnedModel
    dyna: DynaCallback


def average_steps(plan: TrainingRun) -> int:
    """Real steps over which the actor is averaged; 0 for no average.

    Raises:
        ValueError: if an average was asked for and the agent is on-policy.
    """
    asked = plan.args.average_steps
    if plan.args.algo not in ON_POLICY:
        return AVERAGE_STEPS if asked == -1 else asked
    if asked > 0 or plan.args.use_average:
        raise ValueError(
            f"--average-steps and --use-average are for off-policy agents; leave them out with {plan.args.algo}."
        )
    return 0


def averaged_actor(plan: TrainingRun) -> AveragedActor | None:
    """The average of the actor that is evaluated beside it, if there is to be one."""
    from sb3_ext import AveragedActor

    steps = average_steps(plan)
    return AveragedActor(steps, seed=plan.args.seed) if steps else None


def branching_callback(plan: TrainingRun, averaged: AveragedActor | None, dyna: DynaCallback) -> BaseCallback:
    """``dyna``, whose branches follow the averaged actor if ``--use-average branching`` says so."""
    from sb3_ext import WithAveragedActor

    if averaged is None or "branching" not in plan.args.use_average:
        return dyna
    return WithAveragedActor(averaged, dyna)


def acting_callbacks(plan: TrainingRun, averaged: AveragedActor | None) -> list[BaseCallback]:
    """The callback for ``--use-average acting``: the averaged actor takes the real steps. Only timers come after it."""
    from sb3_ext import ActWithAverage

    return [] if averaged is None or "acting" not in plan.args.use_average else [ActWithAverage(averaged)]


def build_model(plan: TrainingRun, env: VecEnv, clock: PhaseClock, *, verbose: int) -> LearnedModel:
    """The learned model of ``plan`` for the real environments ``env``; ``verbose`` 1 says what is known of the task."""
    from scripts.training.learned_model import LearnedModel

    model = LearnedModel(plan.config.model, env, clock, seed=plan.args.seed, device=plan.args.device)
    if verbose >= 1:
        for note in model.notes:
            print(f"[model] {note}", flush=True)
    return model


def build_dyna(plan: TrainingRun, env: VecEnv, clock: PhaseClock, *, verbose: int) -> DynaParts:
    """The same agent as without a model, with a mixed replay buffer and the Dyna callback: nothing else differs."""
    from sb3_ext import DynaCallback, MixedReplayBuffer
    from scripts.training.learned_model import branch_starts, dyna_config

    block, seed = plan.config.model, plan.args.seed
    model = build_model(plan, env, clock, verbose=verbose)
    config, starts = dyna_config(block.get("dyna") or {}), branch_starts(block.get("starts"))
    dyna = DynaCallback(model.dynamics, config, trainer=model.trainer, starts=starts, seed=seed, verbose=verbose)
    buffer = {key: block[key] for key in ("real_ratio", "synthetic_size") if key in block}
    agent = plan.build_agent(
        env, replay_buffer_class=MixedReplayBuffer, replay_buffer_kwargs={**buffer, "seed": seed}, verbose=verbose
    )
    return DynaParts(agent, model, dyna)


def rehearse(plan: TrainingRun) -> None:
    """Build all parts of the run once and discard them, so that errors appear before any file is written.

    The run itself is not changed by it: agent, model and environments are seeded when they are built again.

    Raises:
        ValueError: for settings that cannot work, as do TypeError and SB3's own AssertionError.
        ImportError: if a library is missing.
    """
    clock = PhaseClock()
    averaged = averaged_actor(plan)
    with closing(plan.vec_env(plan.args.seed, n_envs=plan.args.n_envs)) as env:
        if not plan.args.model:
            agent = plan.build_agent(env, verbose=0)
            if averaged is not None:
                averaged.init_callback(agent)
        elif plan.args.algo in ON_POLICY:
            _rehearse_imagination(plan, env, clock)
        else:
            parts = build_dyna(plan, env, clock, verbose=0)
            parts.dyna.init_callback(parts.agent)
            if averaged is not None:
                averaged.init_callback(parts.agent)


def _rehearse_imagination(plan: TrainingRun, env: DummyVecEnv, clock: PhaseClock) -> None:
    from sb3_ext.agent_factory import build_agent
    from sb3_ext.vec_env import ModelVecEnv
    from scripts.training.learned_model import imagination_config

    model = build_model(plan, env, clock, verbose=0)
    config = imagination_config(plan.config.model.get("imagination") or {}, 1)
    starts = np.zeros((1, *model.dynamics.observation_space.shape))  # nothing is ever started in there
    model_env = VecMonitor(ModelVecEnv(model.dynamics, starts, config.num_envs, config.horizon))
    build_agent(lambda env: plan.build_agent(env, verbose=0), model_env, config.horizon, plan.args.seed)
