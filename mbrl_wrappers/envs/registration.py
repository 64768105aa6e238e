"""Environments by name: ``gymnasium.make("mbrl_wrappers/Model-v0", path="hopper.safetensors", horizon=20)``.

The names are known once ``mbrl_wrappers`` is imported; ``"mbrl_wrappers:mbrl_wrappers/Model-v0"`` does that first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from mbrl_wrappers.envs import cart_pole
from mbrl_wrappers.envs.model_env import ModelEnv
from mbrl_wrappers.envs.model_vector_env import ModelVectorEnv

ENV_ID = "mbrl_wrappers/Model-v0"
DEFAULT_HORIZON = 100
"""Steps until truncation when none are given: long enough to act in, whatever a model's errors make of it."""

StoredStarts = str | Sequence[Sequence[float]] | None


def register_envs() -> None:
    """Make saved models and ``ContinuousCartPole`` known to ``gymnasium.make``; a second call changes nothing."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            ENV_ID,
            entry_point="mbrl_wrappers.envs.registration:make_model_env",
            vector_entry_point="mbrl_wrappers.envs.registration:make_model_vector_env",
        )
    if cart_pole.ENV_ID not in gymnasium.registry:
        gymnasium.register(
            cart_pole.ENV_ID,
            entry_point="mbrl_wrappers.envs.cart_pole:ContinuousCartPole",
            max_episode_steps=cart_pole.MAX_STEPS,
            reward_threshold=195.0,
        )


def make_model_env(
    path: str,
    horizon: int = DEFAULT_HORIZON,
    starts: StoredStarts = None,
    device: str = "auto",
    render_mode: str | None = None,
) -> ModelEnv:
    """Load a model and its starts as a :class:`ModelEnv`.

    All arguments can be written as JSON, so that the environment's spec can be.

    Args:
        path: a file written by ``mbrl_wrappers.save``.
        horizon: steps until truncation.
        starts: the path of a ``.npy`` file with observations ``(M, O)``, or the rows themselves; by default those
            saved with the model.
        device: where the model computes.
        render_mode: only ``None``.

    Raises:
        ValueError: if there are no starts, or for an unusable argument.
    """
    return ModelEnv(_load_model(path, device), _load_starts(path, starts), horizon, render_mode=render_mode)


def make_model_vector_env(
    num_envs: int,
    path: str,
    horizon: int = DEFAULT_HORIZON,
    starts: StoredStarts = None,
    device: str = "auto",
    autoreset_mode: str = "SameStep",
) -> ModelVectorEnv:
    """Load a model and its starts as a :class:`ModelVectorEnv`; see :func:`make_model_env`.

    Args:
        num_envs: rows.
        path: a file written by ``mbrl_wrappers.save``.
        horizon: steps until truncation.
        starts: see :func:`make_model_env`.
        device: where the model computes.
        autoreset_mode: ``"SameStep"``, ``"NextStep"`` or ``"Disabled"``.
    """
    model, rows = _load_model(path, device), _load_starts(path, starts)
    return ModelVectorEnv(model, rows, num_envs, horizon, autoreset_mode=autoreset_mode)


def _load_model(path: str, device: str) -> Any:
    # Late, because loading brings in the concrete models, which environments as such do not need.
    from mbrl_wrappers.storage import checkpoint

    return checkpoint.load(path, device=device)


def _load_starts(path: str, starts: StoredStarts) -> NDArray[Any]:
    from mbrl_wrappers.storage import checkpoint

    if isinstance(starts, str):
        loaded: NDArray[Any] = np.load(starts, allow_pickle=False)
        return loaded
    if starts is not None:
        return np.asarray(starts, np.float64)
    saved = checkpoint.load_starts(path)
    if saved is None:
        raise ValueError(
            f"No start observations were saved with {path}: save the model with starts=..., or pass starts=, the path "
            "of a .npy file of observations or the rows themselves."
        )
    return np.asarray(saved)
