"""Builds the default model and trainer when the user gives none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from mbrl_wrappers.fitting import ModelTrainer
from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.models.local_linear import LocalLinearModel
from mbrl_wrappers.training import BackgroundTrainer, FitConfig, LocalLinearConfig, LocalLinearTrainer, Trainer
from mbrl_wrappers.types import DynamicsModel, RewardFn, TerminationFn
from sb3_ext.known_functions import known_functions


@dataclass(frozen=True)
class DefaultModel:
    """The default model, and notes for the user on its reward and termination functions."""

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


def default_trainer(dynamics: DynamicsModel[Any], *, seed: int = 0, beside: bool = False) -> ModelTrainer | None:
    """A trainer for a learned model; None for one that needs no fitting (a function, a simulator).

    Args:
        dynamics: the model.
        seed: of holdouts and batches.
        beside: fit an ensemble in a process of its own.
    """
    if isinstance(dynamics, LocalLinearModel):
        return LocalLinearTrainer(dynamics, LocalLinearConfig(seed=seed))
    if not isinstance(dynamics, EnsembleDynamics):
        return None
    return (BackgroundTrainer if beside else Trainer)(dynamics, DEFAULT_FIT, seed=seed)


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
