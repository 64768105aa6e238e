"""Copies of live environments: everything that decides what comes next, and nothing that shows or records it."""

from __future__ import annotations

import copy
import random
from functools import lru_cache
from types import FunctionType, NoneType
from typing import Any, Literal

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle

from mbrl_wrappers.tasks.recognition import TIME_LIMIT, TRANSPARENT, transparent_class
from mbrl_wrappers.tasks.wrappers import class_name

AnyEnv = gymnasium.Env[Any, Any]

LEFT_OUT = TRANSPARENT - {TIME_LIMIT}
"""Wrappers that a copy goes without: they check, count, film or write files, and change nothing."""

DISPLAYS = frozenset({"mujoco_renderer", "renderer", "screen", "clock", "surf", "surface", "viewer", "_viewers"}) | {
    *("window", "window_surface")
}
"""Attributes that hold what an environment draws with; they are None in a copy."""

_DISPLAY_MODULES = frozenset({"pygame", "glfw", "OpenGL", "moviepy", "cv2", "matplotlib", "pyglet", "imageio"})
_SHARED_NAMES = frozenset({"_saved_kwargs", "metadata", "_metadata", "spec", "_cached_spec"}) | {
    *("_ezpickle_args", "_ezpickle_kwargs")
}
_TABLES = frozenset({"P", "desc", "initial_state_distrib"})
_SHARED_TYPES = frozenset(
    {NoneType, bool, int, float, complex, str, bytes, type, range, FunctionType, EnvSpec}
    | {np.bool_, np.int32, np.int64, np.uint8, np.float32, np.float64}
)
_SIMPLE_SPACES = frozenset({spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary})


def copy_env(env: AnyEnv, seed: int | None = None) -> AnyEnv:
    """A copy that goes on from the same state.

    ``copy.deepcopy`` is not enough: it takes what draws the picture along, is slow, and rebuilds environments that use
    Gymnasium's ``EzPickle`` (the MuJoCo tasks among them) at their initial state. Windows and renderers are left out,
    and so are wrappers that only film, check or log. Constants (spaces, specs, metadata) are shared.

    Args:
        env: the environment; it is not changed.
        seed: for every random stream found in the copy; None keeps the streams at the state they are in.

    Raises:
        TypeError: something in the environment cannot be copied.
    """
    return _Copier(env, seed).run()


def copy_attributes(owner: AnyEnv, attributes: dict[str, Any], kept: frozenset[str]) -> dict[str, Any]:
    """Copies of ``attributes``, which are or were those of ``owner``; what refers to ``owner`` goes on doing so.

    Args:
        owner: the environment that will get them.
        attributes: by name.
        kept: names of attributes of ``owner`` that are not copied when others refer to them.
    """
    copier = _Copier(owner, None)
    copier.memo[id(owner)] = owner
    copier.memo.update({id(value): value for name, value in vars(owner).items() if name in kept})
    kind: Any = type(owner)
    shared = _constants(kind)
    return {
        name: value if type(value) in _SHARED_TYPES or name in shared else copier.value(owner, name, value)
        for name, value in attributes.items()
    }


class _Copier:
    """One copy: the layers, what was copied already, and the random stream that replaces all others."""

    def __init__(self, env: AnyEnv, seed: int | None) -> None:
        self.env = env
        self.seed = seed
        self.memo: dict[int, Any] = {}
        self.stream = None if seed is None else np.random.Generator(np.random.PCG64(seed))

    def run(self) -> AnyEnv:
        chain = [self.env]
        while isinstance(chain[-1], gymnasium.Wrapper):
            chain.append(chain[-1].env)
        twins: list[tuple[AnyEnv, AnyEnv]] = []
        for layer in reversed(chain):  # all of them exist before any is filled, for they may point at each other
            kind: Any = type(layer)
            treatment = _treatment(kind)
            if treatment == "leave out":
                assert isinstance(layer, gymnasium.Wrapper)
                self.memo[id(layer)] = self.memo[id(layer.env)]
                continue
            if treatment == "ask it":
                twin = self.guarded(layer, "", layer)
                self.reseed_inside(twin, set())
            else:
                twin = object.__new__(type(layer))
                twins.append((layer, twin))
            self.memo[id(layer)] = twin
        for layer, twin in twins:
            kind = type(layer)
            attributes, constants = vars(twin), _constants(kind)
            for name, value in vars(layer).items():
                shared = type(value) in _SHARED_TYPES or name in constants
                attributes[name] = value if shared else self.value(layer, name, value)
            if attributes.get("render_mode") is not None:
                attributes["render_mode"] = None
        copied: AnyEnv = self.memo[id(self.env)]
        return copied

    def value(self, layer: AnyEnv, name: str, value: Any) -> Any:
        """The copy of one attribute."""
        if id(value) in self.memo:
            return self.memo[id(value)]
        kind = type(value)
        if name in DISPLAYS or kind.__module__.partition(".")[0] in _DISPLAY_MODULES:
            return None
        if kind is np.ndarray and value.dtype != object:
            twin: Any = value.copy()
        elif kind is np.random.Generator:
            twin = _copied_stream(value) if self.stream is None else self.stream
        elif kind in _SIMPLE_SPACES:
            twin = self.space(value)
        elif isinstance(value, gymnasium.Env):
            twin = copy_env(value, self.seed)
        else:
            twin = self.guarded(layer, name, value)
            self.reseed_inside(twin, set())
        self.memo[id(value)] = twin
        return twin

    def space(self, space: Any) -> Any:
        """The same space with a stream of its own: a space that is sampled changes."""
        twin = object.__new__(type(space))
        vars(twin).update(vars(space))
        if self.stream is not None:
            twin._np_random = self.stream
        elif space._np_random is not None:
            twin._np_random = _copied_stream(space._np_random)
        return twin

    def guarded(self, layer: AnyEnv, name: str, value: Any) -> Any:
        """``copy.deepcopy``, with an error that says what it choked on."""
        try:
            return copy.deepcopy(value, self.memo)
        except Exception as error:
            what = f"its attribute {name!r}, a {class_name(value)}," if name else "it"
            raise TypeError(
                f"{self.env} cannot be copied: in {class_name(layer)}, {what} refuses copy.deepcopy ({error}). Keep "
                "what cannot be copied (files, sockets, locks, handles of a simulator) out of the environment, or give "
                "its class a __deepcopy__ that knows how."
            ) from error

    def reseed_inside(self, thing: Any, seen: set[int]) -> None:
        """Give the stream to what ``copy.deepcopy`` brought along inside containers and objects, in place."""
        if self.stream is None or type(thing) in _SHARED_TYPES or id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, np.random.Generator):
            fresh = type(thing.bit_generator)(int(self.stream.integers(2**62)))
            thing.bit_generator.state = fresh.state
        elif isinstance(thing, np.random.RandomState | random.Random):
            thing.seed(int(self.stream.integers(2**32)))
        elif isinstance(thing, th.Generator):
            thing.manual_seed(int(self.stream.integers(2**62)))
        elif isinstance(thing, dict):
            for value in thing.values():
                self.reseed_inside(value, seen)
        elif isinstance(thing, list | tuple | set | frozenset):
            for value in thing:
                self.reseed_inside(value, seen)
        elif hasattr(thing, "__dict__"):
            for value in list(vars(thing).values()):
                self.reseed_inside(value, seen)


def _copied_stream(stream: np.random.Generator) -> np.random.Generator:
    """A stream at the same place; several times as fast as ``copy.deepcopy``."""
    bits: Any = type(stream.bit_generator)(0)
    bits.state = stream.bit_generator.state
    return np.random.Generator(bits)


@lru_cache(maxsize=256)
def _treatment(kind: Any) -> Literal["leave out", "ask it", "copy"]:
    """How a layer is copied: not at all, by its class's own idea of a copy, or attribute by attribute."""
    if transparent_class(kind) in LEFT_OUT:
        return "leave out"
    for base in kind.__mro__:
        own = vars(base)
        if base in (object, EzPickle):
            continue
        if own.get("__slots__") or {"__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__"} & own.keys():
            return "ask it"  # slots are outside of ``__dict__``
    return "copy"


@lru_cache(maxsize=256)
def _constants(kind: Any) -> frozenset[str]:
    """The attributes that copies share: what no step changes. Toy text keeps its transitions in large tables."""
    return _SHARED_NAMES | (_TABLES if kind.__module__.startswith("gymnasium.envs.toy_text.") else frozenset())
