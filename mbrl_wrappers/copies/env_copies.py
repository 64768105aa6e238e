"""Copies of live environments: everything that decides what comes next, and nothing that shows or records it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from mbrl_wrappers.copies.object_copies import ATOMS, ObjectCopier, is_plain
from mbrl_wrappers.copies.object_graph import random_streams
from mbrl_wrappers.copies.random_streams import reseed
from mbrl_wrappers.tasks.recognition import TIME_LIMIT, TRANSPARENT, transparent_class
from mbrl_wrappers.tasks.wrappers import class_name

AnyEnv = gymnasium.Env[Any, Any]

LEFT_OUT = TRANSPARENT - {TIME_LIMIT}
"""Wrappers that a copy goes without: they check, count, film or write files, and change nothing."""

DISPLAYS = frozenset({"mujoco_renderer", "renderer", "screen", "clock", "surf", "surface", "viewer", "_viewers"}) | {
    *("window", "window_surface")
}
"""Attributes that hold what an environment draws with; they are None in a copy, unless they hold data."""

_DATA = (bool, int, float, str, tuple, list, deque, np.ndarray, np.generic)

_SHARED_NAMES = frozenset({"_saved_kwargs", "metadata", "_metadata", "spec", "_cached_spec"}) | {
    *("_ezpickle_args", "_ezpickle_kwargs")
}
_TABLES = frozenset({"P", "desc", "initial_state_distrib"})


def copy_env(env: AnyEnv, seed: int | None = None) -> AnyEnv:
    """A copy that goes on from the same state.

    Windows and renderers are left out, and so are wrappers that only film, check or log. Constants (spaces, specs,
    metadata) are shared. A ``TimeLimit`` in a copy counts steps and never truncates, so that a truncation is always
    the environment's own.

    Args:
        env: the environment; it is not changed.
        seed: for every random stream found in the copy; None keeps the streams at the state they are in.

    Raises:
        TypeError: something in the environment cannot be copied.
    """
    twin: AnyEnv = _EnvCopier(env, None if seed is None else np.random.Generator(np.random.PCG64(seed))).copy(env)
    return twin


def copy_attributes(
    owner: AnyEnv, attributes: dict[str, Any], kept: frozenset[str], stream: np.random.Generator | None
) -> dict[str, Any]:
    """Copies of ``attributes``, which are or were those of ``owner``; what refers to ``owner`` goes on doing so.

    Args:
        owner: the environment that will get them.
        attributes: by name.
        kept: names of attributes of ``owner`` that are not copied when others refer to them.
        stream: takes the place of the random streams in ``attributes``; None keeps them.
    """
    copier = _EnvCopier(owner, stream)
    copier.memo[id(owner)] = owner
    copier.memo.update({id(value): value for name, value in vars(owner).items() if name in kept})
    return copier.attributes(owner, attributes)


def layers(env: AnyEnv) -> Iterator[AnyEnv]:
    """The wrappers of an environment from the outermost inwards, and the environment inside."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def holds_data(value: Any) -> bool:
    """Whether an attribute with the name of a display is data all the same."""
    return isinstance(value, _DATA)


class _EnvCopier(ObjectCopier):
    """A copy of an environment, layer by layer.

    Args:
        env: named in errors.
        stream: see :class:`~mbrl_wrappers.copies.object_copies.ObjectCopier`.
    """

    def __init__(self, env: AnyEnv, stream: np.random.Generator | None) -> None:
        super().__init__(stream)
        self._env = env

    def environment(self, value: AnyEnv) -> AnyEnv:
        """An environment with its wrappers: all twins exist before any is filled, for they may refer to each other."""
        twins: list[tuple[AnyEnv, AnyEnv]] = []
        for layer in reversed(list(layers(value))):
            if id(layer) in self.memo:
                continue
            kind: Any = type(layer)
            treatment = _treatment(kind)
            if treatment == "leave out":
                assert isinstance(layer, gymnasium.Wrapper)
                self.memo[id(layer)] = self.memo[id(layer.env)]
            elif treatment == "ask it":
                self.memo[id(layer)] = self._asked(layer)
            else:
                twin = self.memo[id(layer)] = object.__new__(_unlimited(kind) if issubclass(kind, TimeLimit) else kind)
                twins.append((layer, twin))
        for layer, twin in twins:
            attributes = vars(twin)
            attributes.update(self.attributes(layer, vars(layer)))
            if attributes.get("render_mode") is not None:
                attributes["render_mode"] = None
        copied: AnyEnv = self.memo[id(value)]
        return copied

    def attributes(self, layer: AnyEnv, attributes: dict[str, Any]) -> dict[str, Any]:
        """Copies of the attributes of a layer."""
        kind: Any = type(layer)
        constants, twins = constants_of(kind), {}
        for name, value in attributes.items():
            if type(value) in ATOMS or name in constants:
                twins[name] = value
            elif name in DISPLAYS and not holds_data(value):
                twins[name] = None
            else:
                try:
                    twins[name] = self.copy(value)
                except Exception as error:
                    raise self._refusal(layer, f"its attribute {name!r}, a {class_name(value)},", error) from error
        return twins

    def _asked(self, layer: AnyEnv) -> AnyEnv:
        """A layer whose class says how it is copied."""
        try:
            way = self.by_its_class if hasattr(type(layer), "__deepcopy__") else self.by_protocol
            twin: AnyEnv = way(layer)
        except Exception as error:
            raise self._refusal(layer, "it", error) from error
        for stream in random_streams(twin):
            reseed(stream, self.stream)
        return twin

    def _refusal(self, layer: AnyEnv, what: str, error: Exception) -> TypeError:
        if isinstance(error, UncopyableError):
            return error
        return UncopyableError(
            f"{self._env} cannot be copied: in {class_name(layer)}, {what} refuses ({error}). Keep what cannot be "
            "copied (files, sockets, locks, generators, handles of a simulator) out of the environment, or give its "
            "class a __deepcopy__ that knows how."
        )


class UncopyableError(TypeError):
    """An environment of which no faithful copy can be made."""


@lru_cache(maxsize=256)
def _treatment(kind: Any) -> Literal["leave out", "ask it", "copy"]:
    """How a layer is copied: not at all, by its class's own idea of a copy, or attribute by attribute."""
    if transparent_class(kind) in LEFT_OUT:
        return "leave out"
    return "copy" if is_plain(kind) and not hasattr(kind, "__deepcopy__") else "ask it"


@lru_cache(maxsize=256)
def constants_of(kind: Any) -> frozenset[str]:
    """The attributes that copies share: what no step changes. Toy text keeps its transitions in large tables."""
    return _SHARED_NAMES | (_TABLES if kind.__module__.startswith("gymnasium.envs.toy_text.") else frozenset())


@lru_cache(maxsize=256)
def _unlimited(kind: Any) -> Any:
    """A subclass of a ``TimeLimit`` that does what it does, as if its limit were never reached."""
    if getattr(kind, "never_truncates", False):
        return kind

    def step(self: Any, action: Any) -> Any:
        limit, self._max_episode_steps = self._max_episode_steps, math.inf
        try:
            return kind.step(self, action)
        finally:
            self._max_episode_steps = limit

    names = {"step": step, "never_truncates": True, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names)
