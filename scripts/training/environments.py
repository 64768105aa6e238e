"""Real environments for training and evaluation."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from mbrl_wrappers.tasks.wrappers import AngleObservation, ForwardVelocityObservation
from scripts.runs.env_id import registered_id

WRAPPERS = {"AngleObservation": AngleObservation, "ForwardVelocityObservation": ForwardVelocityObservation}
WrapperSpec = str | Mapping[str, Mapping[str, Any] | None] | None


def import_module_of(env_id: str) -> str:
    """Import the module of ``module:Id-v0``, so that it registers the environment, and return the module's name.

    It may be installed, or lie in the current folder, which is looked at last.

    Raises:
        ValueError: if there is no such module.
    """
    module, _, _ = env_id.rpartition(":")
    if module:
        if str(Path.cwd()) not in sys.path:  # a program finds its own folder, and here that is the checkout
            sys.path.append(str(Path.cwd()))
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and something that it needs is not
            raise ValueError(
                f"There is no module {module!r} to import for --env {env_id}: install it, start from its folder, or "
                "name its folder in PYTHONPATH."
            ) from error
    return module


def check_env_id(env_id: str) -> None:
    """Refuse an id that Gymnasium does not know, naming the closest one.

    Args:
        env_id: ``Id-v0``, or ``module:Id-v0``, whose module is imported to register it.

    Raises:
        ValueError: if there is no such module, or nothing is registered under the id.
    """
    module, name = import_module_of(env_id), registered_id(env_id)
    if name in gym.registry:
        return
    close = difflib.get_close_matches(name, list(gym.registry), n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    where = f", and importing {module} registers none" if module else ""
    raise ValueError(f"Gymnasium knows no environment {name!r}{where}.{hint}")


def make_env(
    env_id: str,
    env_kwargs: Mapping[str, Any],
    wrapper: WrapperSpec = None,
) -> gym.Env[Any, Any]:
    """One real environment, with the observation wrapper of the configuration.

    Args:
        env_id: a registered id.
        env_kwargs: arguments of its constructor.
        wrapper: name of one of :data:`WRAPPERS`, or ``{name: keyword arguments}``.

    Raises:
        ValueError: if there is no such environment or wrapper, or a picture is asked of what draws none.
    """
    check_env_id(env_id)
    try:
        env: gym.Env[Any, Any] = gym.make(env_id, **env_kwargs)
    except TypeError as error:
        if env_kwargs.get("render_mode") is None or "render_mode" not in str(error):
            raise
        raise ValueError(f"{env_id} draws no pictures: its constructor takes no render_mode.") from error
    for name, kwargs in ({wrapper: {}} if isinstance(wrapper, str) else wrapper or {}).items():
        if name not in WRAPPERS:
            raise ValueError(f"env_wrapper must be one of {', '.join(WRAPPERS)}, got {name!r}.")
        env = WRAPPERS[name](env, **(kwargs or {}))
    return env


def make_real_vec_env(
    env_id: str,
    env_kwargs: Mapping[str, Any],
    seed: int,
    *,
    n_envs: int = 1,
    wrapper: WrapperSpec = None,
    monitor_folder: Path | None = None,
    append: bool = False,
) -> DummyVecEnv:
    """Real environments as SB3 wants them, each monitored and seeded with ``seed + index``.

    With ``append`` the monitor files in the folder are gone on with and not begun anew.
    """
    env = make_vec_env(
        lambda: make_env(env_id, env_kwargs, wrapper),
        n_envs=n_envs,
        seed=seed,
        monitor_dir=None if monitor_folder is None else str(monitor_folder),
        monitor_kwargs={"override_existing": not append},
    )
    assert isinstance(env, DummyVecEnv)
    return env
