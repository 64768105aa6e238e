"""Which wrapper an environment is in, subclasses included, and which wrappers leave a task's rules alone.

Wrappers are known by the full name of their class, so that libraries which are not installed need no import. A subclass
counts as the class that it extends where it changes nothing that matters here. One that has a ``step`` of its own, as
the time limit that RL Zoo puts in the place of Gymnasium's, is tried on steps that are made up: it leaves the rules
alone when every observation, action, reward and termination comes through unchanged.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

AnyWrapper = gymnasium.Wrapper[Any, Any, Any, Any]

TIME_LIMIT = "gymnasium.wrappers.common.TimeLimit"

TRANSPARENT = frozenset(
    {
        TIME_LIMIT,  # a time limit truncates, and truncation is no part of the rules
        "gymnasium.wrappers.common.OrderEnforcing",
        "gymnasium.wrappers.common.PassiveEnvChecker",
        "gymnasium.wrappers.common.RecordEpisodeStatistics",
        "gymnasium.wrappers.rendering.RecordVideo",
        "gymnasium.wrappers.rendering.RenderCollection",
        "gymnasium.wrappers.rendering.HumanRendering",
        "gymnasium.wrappers.rendering.AddWhiteNoise",  # adds it to rendered frames, not to observations
        "gymnasium.wrappers.rendering.ObstructView",
        "stable_baselines3.common.monitor.Monitor",
    }
)
"""Wrappers that leave observations, actions, rewards and terminations as they are."""

_DRAWING = "gymnasium.wrappers.rendering."
_INTERFACE = frozenset({"step", "reset", "observation_space", "action_space", "env", "unwrapped"}) | {
    *("observation", "action", "reward", "__getattr__", "__getattribute__")
}
"""What a subclass of a transparent wrapper must leave alone: all that decides what an episode takes and gives."""
_SAYS_NOTHING = frozenset({"__module__", "__doc__", "__qualname__", "__annotations__", "__parameters__"}) | {
    *("__orig_bases__", "__static_attributes__", "__firstlineno__", "__abstractmethods__", "_abc_impl")
}
"""Attributes of a class that add nothing to the one it extends."""


def full_name(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def known_class(wrapper: AnyWrapper) -> type:
    """The class that says what ``wrapper`` does: its own, or the nearest one above to which nothing was added."""
    kind: type = type(wrapper)
    while not vars(kind).keys() - _SAYS_NOTHING:
        kind = kind.__mro__[1]
    return kind


def transparent_class(kind: type) -> str | None:
    """The class that ``kind`` is or extends without changing a step: one of :data:`TRANSPARENT`, or a bare Wrapper."""
    for base in kind.__mro__:
        if full_name(base) in TRANSPARENT or base is gymnasium.Wrapper:
            return full_name(base)
        if _INTERFACE & vars(base).keys():
            return None
    return None


def is_transparent(wrapper: AnyWrapper) -> bool:
    """Whether observations, actions, rewards and terminations are the same outside of ``wrapper`` as inside.

    Args:
        wrapper: is not changed; a copy of it is tried where its class has a ``step`` of its own.
    """
    kind = type(wrapper)
    if full_name(kind) in TRANSPARENT:
        return True
    inner = wrapper.env
    if (wrapper.observation_space, wrapper.action_space) != (inner.observation_space, inner.action_space):
        return False
    if transparent_class(kind) is not None and "step" not in vars(wrapper):
        return True
    extends = next((name for name in map(full_name, kind.__mro__) if name in TRANSPARENT), None)
    return extends is not None and not extends.startswith(_DRAWING) and _passes_everything_on(wrapper)


class _Script(gymnasium.Env[Any, Any]):
    """Gives the steps that it is told to give, and keeps the action that it got."""

    def __init__(self, like: gymnasium.Env[Any, Any]) -> None:
        self.observation_space, self.action_space = like.observation_space, like.action_space
        self.metadata, self.spec, self.render_mode = like.metadata, like.spec, like.render_mode
        self.outcome: tuple[Any, float, bool, bool] = (None, 0.0, False, False)
        self.taken: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return copy.deepcopy(self.outcome[0]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken = copy.deepcopy(action)
        obs, reward, terminated, truncated = self.outcome
        return copy.deepcopy(obs), reward, terminated, truncated, {}


def _passes_everything_on(wrapper: AnyWrapper) -> bool:
    """Try a copy of ``wrapper`` on steps that are made up, early in an episode and at a time limit."""
    try:
        script = _Script(wrapper.env)
        trial = copy.copy(wrapper)
        own = {name: value for name, value in vars(wrapper).items() if name != "env"}
        vars(trial).update(copy.deepcopy(own), env=script)
        observations, actions = _samples(wrapper.observation_space), _samples(wrapper.action_space)
        rewards = itertools.cycle((1.25, -3.0, 0.0, 1e4))
        rounds = itertools.product((0, 1, None), observations, (False, True), (False, True))
        for number, (steps_left, obs, terminated, truncated) in enumerate(rounds):
            script.outcome = (obs, next(rewards), terminated, truncated)
            trial.reset(seed=0)
            limit = getattr(trial, "_max_episode_steps", None)
            if limit is not None and steps_left is not None:
                vars(trial)["_elapsed_steps"] = limit - 1 - steps_left
            action = actions[number % len(actions)]
            shown, reward, ended, _, _ = trial.step(copy.deepcopy(action))
            same = np.array_equal(shown, obs) and np.array_equal(script.taken, action)
            if not same or reward != script.outcome[1] or bool(ended) != terminated:
                return False
    except Exception:  # whatever it needs besides its env is not known here, so neither is what it does
        return False
    return True


def _samples(space: spaces.Space[Any]) -> list[Any]:
    """Points of ``space``, the same ones every time and drawn from a stream of their own; of a Box its corners too."""
    mine = copy.deepcopy(space)
    mine.seed(0)
    drawn = [mine.sample() for _ in range(8)]
    if isinstance(space, spaces.Box):
        top = np.minimum(space.high, 100).astype(space.dtype)
        bottom = np.maximum(space.low, -100).astype(space.dtype)
        drawn += [top, bottom]
    return drawn
