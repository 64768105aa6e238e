"""The one place where a model and its trainer are built when the user gave none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
)

from mbrl_wrappers.fitting import ModelTrainer
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.tasks import task_functions
from mbrl_wrappers.training import FitConfig, Trainer
from mbrl_wrappers.types import DynamicsModel, RewardFn, TerminationFn

# These change nothing of what a replay buffer stores (SB3 stores what lies below VecNormalize).
TRANSPARENT_WRAPPERS = (VecNormalize, VecMonitor, VecCheckNan)


@dataclass(frozen=True)
class DefaultModel:
    """The model, and what a user should know about how it was put together."""

    dynamics: EnsembleDynamics
    notes: tuple[str, ...]


def build_default_dynamics(
    vec_env: VecEnv,
    *,
    reward_fn: RewardFn | None = None,
    termination_fn: TerminationFn | None = None,
    seed: int = 0,
    device: str = "auto",
) -> DefaultModel:
    """An :class:`EnsembleDynamics` for the agent's environment, with the task's own functions where they are exact.

    Args:
        vec_env: the agent's real environment.
        reward_fn: used instead of the task registry's.
        termination_fn: used instead of the task registry's.
        seed: of the initial weights.
        device: as in SB3.
    """
    notes: list[str] = []
    if reward_fn is None or termination_fn is None:
        env = live_env(vec_env)
        if env is None:
            notes.append("The environment could not be looked into: reward and termination are learned.")
        else:
            known = task_functions(env)
            notes.extend(known.notes)
            reward_fn = reward_fn or known.reward_fn
            termination_fn = termination_fn or known.termination_fn
    if reward_fn is None:
        notes.append("The reward is learned.")
    if termination_fn is None:
        notes.append(
            "The termination is learned; if the task never terminates, say so with "
            "termination_fn=mbrl_wrappers.tasks.never_terminates."
        )
    dynamics = EnsembleDynamics(
        vec_env.observation_space,
        vec_env.action_space,
        reward_fn=reward_fn,
        termination_fn=termination_fn,
        seed=seed,
        device=device,
    )
    return DefaultModel(dynamics, tuple(notes))


def default_trainer(dynamics: DynamicsModel[Any], *, seed: int = 0) -> ModelTrainer | None:
    """A trainer for a learned model; None for one that needs no fitting (a function, a simulator).

    Its cap on gradient steps keeps a fit cheaper than the agent's own updates in between (20 per step, 250 steps).
    """
    if not isinstance(dynamics, EnsembleDynamics):
        return None
    return Trainer(dynamics, FitConfig(max_gradient_steps=500), seed=seed)


def live_env(vec_env: VecEnv) -> gymnasium.Env[Any, Any] | None:
    """The first real environment of ``vec_env``, or one made from its spec when it lives in another process.

    None when a wrapper of the vector changes what the replay buffer sees, or when there is no way to look.
    """
    while isinstance(vec_env, VecEnvWrapper):
        if not isinstance(vec_env, TRANSPARENT_WRAPPERS):
            return None
        vec_env = vec_env.venv
    if isinstance(vec_env, DummyVecEnv):
        return vec_env.envs[0]
    if isinstance(vec_env, SubprocVecEnv):
        spec = vec_env.get_attr("spec", indices=0)[0]
        return gymnasium.make(spec) if isinstance(spec, EnvSpec) else None
    return None
