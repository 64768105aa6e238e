"""The one place where a model and its trainer are built when the user gave none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, WrapperSpec
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
from mbrl_wrappers.tasks import TaskFunctions, task_functions
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
    **ensemble: Any,
) -> DefaultModel:
    """An :class:`EnsembleDynamics` for the agent's environment, with the task's own functions where they are exact.

    Args:
        vec_env: the agent's real environment.
        reward_fn: used instead of the task registry's.
        termination_fn: used instead of the task registry's.
        seed: of the initial weights.
        device: as in SB3.
        **ensemble: further arguments of :class:`EnsembleDynamics`, such as ``num_members`` and ``hidden``.
    """
    notes: list[str] = []
    if reward_fn is None or termination_fn is None:
        known = known_functions(vec_env)
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
        **ensemble,
    )
    return DefaultModel(dynamics, tuple(notes))


# The cap keeps a fit cheaper than the agent's own updates in between (20 per step, 250 steps).
DEFAULT_FIT = FitConfig(max_gradient_steps=500)


def default_trainer(dynamics: DynamicsModel[Any], *, seed: int = 0) -> ModelTrainer | None:
    """A trainer for a learned model; None for one that needs no fitting (a function, a simulator)."""
    return Trainer(dynamics, DEFAULT_FIT, seed=seed) if isinstance(dynamics, EnsembleDynamics) else None


def known_functions(vec_env: VecEnv) -> TaskFunctions:
    """What the task registry knows of the environments in ``vec_env``.

    The first one is looked at; when it lives in another process, one made from its spec. Nothing is known when a
    wrapper of the vector changes what the replay buffer sees, or when the environment cannot be made again.
    """
    while isinstance(vec_env, VecEnvWrapper):
        if not isinstance(vec_env, TRANSPARENT_WRAPPERS):
            return TaskFunctions(
                notes=(f"{type(vec_env).__name__} hides the task: reward and termination are learned.",)
            )
        vec_env = vec_env.venv
    if isinstance(vec_env, DummyVecEnv):
        return task_functions(vec_env.envs[0])
    spec = vec_env.get_attr("spec", indices=0)[0] if isinstance(vec_env, SubprocVecEnv) else None
    wrappers = [] if spec is None else [wrapper for wrapper in spec.additional_wrappers if not _is_monitor(wrapper)]
    if not isinstance(spec, EnvSpec) or any(wrapper.kwargs is None for wrapper in wrappers):
        note = "The environment cannot be made again from its spec to look into: reward and termination are learned."
        return TaskFunctions(notes=(note,))
    env = gymnasium.make(replace(spec, additional_wrappers=tuple(wrappers)))
    try:
        return task_functions(env)
    finally:
        env.close()


def _is_monitor(wrapper: WrapperSpec) -> bool:
    """SB3's Monitor, which watches only, and which Gymnasium does not know how to make again."""
    return wrapper.entry_point.startswith("stable_baselines3.common.monitor:")


def check_pieces(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    dynamics: DynamicsModel[Any],
    trainer: ModelTrainer | None,
) -> None:
    """Raise a ``ValueError`` unless model and trainer belong together and to the task."""
    for what, task, model in (
        ("observation", observation_space, dynamics.observation_space),
        ("action", action_space, dynamics.action_space),
    ):
        if task != model:
            raise ValueError(f"The model's {what} space {model} is not the task's {task}: build it for this task.")
    if trainer is not None and trainer.model is not dynamics:
        raise ValueError("The trainer fits another model than the dynamics given: build it as Trainer(dynamics, ...).")
