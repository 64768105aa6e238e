"""The observation that an environment shows now, recomputed from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from mbrl_wrappers.copies.env_copies import AnyEnv, copy_env
from mbrl_wrappers.tasks.recognition import is_transparent

_METHODS = ("_get_obs", "_get_ob")
_ATTRIBUTES = ("state", "s")
_TRIAL_STEPS = 5


def observation_reader(env: AnyEnv) -> Callable[[AnyEnv], Any] | None:
    """A function that reads the current observation of environments like ``env``; None if no way of reading is right.

    Gymnasium has no method for that. What environments commonly have (a method ``_get_obs``, an attribute ``state``) is
    tried on a copy, and taken if it equals what reset and a few steps return.
    """
    for name in (*_METHODS, *_ATTRIBUTES):
        if _is_right(env, name):
            return partial(_read_live, name=name)
    return None


def _read_live(env: AnyEnv, name: str) -> Any:
    return _read(copy_env(env), name)


def _is_right(env: AnyEnv, name: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trial = copy_env(env, 0)
            trial.action_space.seed(0)
            shown, _ = trial.reset(seed=0)
            for _ in range(_TRIAL_STEPS):
                if not np.array_equal(np.asarray(shown), _read(copy_env(trial), name)):
                    return False
                shown, _, terminated, truncated, _ = trial.step(trial.action_space.sample())
                if terminated or truncated:
                    shown, _ = trial.reset()
            return np.array_equal(np.asarray(shown), _read(copy_env(trial), name))
        except Exception:  # whatever the guess ran into, it was no way of reading
            return False


def _read(copied: AnyEnv, name: str) -> Any:
    """The observation of a copy, which may be changed by this: the task's own, then what wrappers make of it."""
    wrappers: list[gymnasium.Wrapper[Any, Any, Any, Any]] = []
    inner = copied
    while isinstance(inner, gymnasium.Wrapper):
        wrappers.insert(0, inner)
        inner = inner.env
    found: Any = getattr(inner, name)
    task_space = inner.observation_space
    shown = np.asarray(found() if name in _METHODS else found, dtype=task_space.dtype)
    for wrapper in wrappers:
        kind = type(wrapper)
        if isinstance(wrapper, gymnasium.ObservationWrapper) and kind.step is gymnasium.ObservationWrapper.step:
            shown = np.asarray(wrapper.observation(shown))
        elif not is_transparent(wrapper) and not isinstance(wrapper, gymnasium.ActionWrapper | gymnasium.RewardWrapper):
            raise TypeError(f"What {kind.__name__} shows is not known.")
    return shown
