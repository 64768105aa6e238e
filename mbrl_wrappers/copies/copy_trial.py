"""Whether copies of an environment do what the environment does: a trial before any plan relies on them."""

from __future__ import annotations

import copy
import warnings
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch as th

from mbrl_wrappers.copies.env_copies import DISPLAYS, LEFT_OUT, AnyEnv, UncopyableError, constants_of, copy_env, layers
from mbrl_wrappers.copies.memory_copies import memory_owner
from mbrl_wrappers.copies.object_graph import contents, walk
from mbrl_wrappers.copies.outside_state import OutsideState
from mbrl_wrappers.seeding import fenced_global_streams, global_stream_states
from mbrl_wrappers.tasks.recognition import transparent_class

TRIAL_STEPS = 3

_CONSTANT = (
    *(NoneType, bool, int, float, complex, str, bytes, tuple, frozenset, np.generic),
    *(type, ModuleType, FunctionType, BuiltinFunctionType),
)

_HELP = (
    "Make it an attribute of the environment that is set in __init__ or reset and read through self, or pass the model "
    "an environment without it."
)


class Trial(NamedTuple):
    """What steps of a copy did.

    Attributes:
        changes: names of what they changed in the copy.
        draws_globally: whether they drew from the global random streams.
    """

    changes: frozenset[str]
    draws_globally: bool


def check_copies(env: AnyEnv) -> bool:
    """Step copies of ``env`` beside copies of these copies; return whether its steps draw from global random streams.

    The live environment is not stepped. Class attributes and globals that the trial changed are restored.

    Raises:
        TypeError: the environment cannot be copied; steps of a copy change the environment itself, or something that it
            shares with its copies; its code reads the live environment by another way than ``self``; or a copy and
            what it was copied from answer the same action differently.
    """
    copied = {id(value): value for _, value in _objects(copy_env(env))}
    _refuse_tensors_over_arrays(env)
    before, objects = _snapshot(env), _objects(env)
    shared = [(name, value) for name, value in objects if id(value) in copied and not isinstance(value, _CONSTANT)]
    outside = OutsideState([value for _, value in objects], shared)
    _refuse_outside_environments(env, outside)
    with fenced_global_streams(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what an environment has to say, the live one says
        try:
            trial = _trial(env)
        finally:
            changed = outside.restore()
    if changed is not None:
        raise UncopyableError(
            f"{env} cannot be copied: its steps change {changed}, which all of its copies would share. {_HELP}"
        )
    moved = _first_change(before, _snapshot(env))
    if moved is not None:
        raise UncopyableError(
            f"{env} cannot be copied: steps of a copy changed {moved} of the live environment itself. Reset the live "
            f"environment before you use it. {_HELP}"
        )
    _refuse_outside_parts(env, outside, trial)
    return trial.draws_globally


def _trial(env: AnyEnv) -> Trial:
    first = copy_env(env, 0)
    actions = copy.deepcopy(first.action_space)
    actions.seed(0)
    try:
        first.reset(seed=0)
    except Exception:  # it may want options, or a reset of its own kind
        return Trial(frozenset(), draws_globally=False)
    start = before = _snapshot(first)
    draws = False
    for number in range(TRIAL_STEPS):
        action = actions.sample()
        one, other = (_step(copy_env(first), action, number) for _ in range(2))
        moved = _first_change(before, _snapshot(first))
        if moved is not None:
            raise UncopyableError(
                f"{env} cannot be copied: a step of its copy changes {moved} of the original. {_HELP}"
            )
        own = _step(first, action, number)
        draws |= own.draws_globally
        if own.raised:
            break  # it refuses this action, and so do its copies
        if one.outcome == other.outcome != own.outcome:
            raise UncopyableError(
                f"{env} cannot be copied: after {number} steps a copy answers an action by {one.outcome}, the original "
                f"by {own.outcome}. Something that decides what comes next is shared or lost in copies. {_HELP}"
            )
        before = _snapshot(first)
        if own.over:
            break
    return Trial(frozenset(_changes(start, before)), draws)


class _Answer(NamedTuple):
    """What a step returned, its info left out."""

    outcome: str
    raised: bool
    over: bool
    draws_globally: bool


def _step(env: AnyEnv, action: Any, seed: int) -> _Answer:
    taken = action.copy() if isinstance(action, np.ndarray) else action
    with fenced_global_streams(seed):
        before = global_stream_states()
        try:
            obs, reward, terminated, truncated, _ = env.step(taken)
            outcome = repr((np.asarray(obs).tolist(), float(reward), bool(terminated), bool(truncated)))
        except Exception as error:
            return _Answer(f"{type(error).__name__}: {error}", raised=True, over=True, draws_globally=False)
        return _Answer(outcome, False, bool(terminated or truncated), global_stream_states() != before)


def _objects(env: AnyEnv) -> list[tuple[str, Any]]:
    """Everything in an environment that a copy has, with names such as ``CartPoleEnv.state[0]``."""
    kept = [layer for layer in layers(env) if transparent_class(type(layer)) not in LEFT_OUT]
    kinds: list[Any] = [type(layer) for layer in kept]
    without = DISPLAYS.union(*map(constants_of, kinds))
    return list(walk([(type(layer).__name__, layer) for layer in kept], without=without))


def _snapshot(env: AnyEnv) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for name, value in _objects(env):
        found.setdefault(name, []).append(contents(value))
    return found


def _changes(before: dict[str, list[object]], after: dict[str, list[object]]) -> list[str]:
    names = before if before.keys() == after.keys() else before | after
    return [name for name in names if before.get(name) != after.get(name)]


def _first_change(before: dict[str, list[object]], after: dict[str, list[object]]) -> str | None:
    changes = _changes(before, after)
    return changes[0] if changes else None


def _refuse_outside_environments(env: AnyEnv, outside: OutsideState) -> None:
    live = {id(layer) for layer in layers(env)}
    for name, value in outside.objects():
        if isinstance(value, gymnasium.Env) and id(value) in live:
            raise UncopyableError(
                f"{env} cannot be copied: its code uses {name}, which is the live environment and would be the live "
                f"one in a copy, too. {_HELP}"
            )


def _refuse_outside_parts(env: AnyEnv, outside: OutsideState, trial: Trial) -> None:
    """Refuse globals that are parts of the environment, if steps change these parts."""
    inside = {id(value): name for name, value in _objects(env) if not isinstance(value, _CONSTANT)}
    for name, value in outside.objects():
        part = inside.get(id(value))
        if part is not None and any(_is_part(change, part) for change in trial.changes):
            raise UncopyableError(
                f"{env} cannot be copied: its code reads {part} as {name}, too, and in a copy that would be the live "
                f"one. {_HELP}"
            )


def _is_part(name: str, whole: str) -> bool:
    """Whether the name of an object says that it is ``whole`` or lies in it."""
    return name.startswith(whole) and not name[len(whole) :][:1].isidentifier()


def _refuse_tensors_over_arrays(env: AnyEnv) -> None:
    """Refuse a tensor and an array that are two views of one memory: their copies would be two memories."""
    objects = _objects(env)
    tensors = [(name, value.untyped_storage()) for name, value in objects if isinstance(value, th.Tensor)]
    if not tensors:
        return
    for name, value in objects:
        if not isinstance(value, np.ndarray) or not value.size:
            continue
        owner = memory_owner(value)
        start = int(owner.__array_interface__["data"][0])
        for other, storage in tensors:
            if (
                owner.base is None
                and start < storage.data_ptr() + storage.nbytes()
                and storage.data_ptr() < start + owner.nbytes
            ):
                raise UncopyableError(
                    f"{env} cannot be copied: {other} is a tensor over the memory of the array {name}, and copies of "
                    "the two would not share it. Keep one of them and make the other from it where it is used."
                )
