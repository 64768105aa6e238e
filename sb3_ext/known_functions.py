"""Finds the known reward and termination functions of an agent's environments, also in subprocesses."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import gymnasium
import mujoco
import numpy as np
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

from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.tasks import TaskFunctions, task_functions
from mbrl_wrappers.tasks.recipes import RECIPES

GymEnv = gymnasium.Env[Any, Any]

# These change nothing of what a replay buffer stores (SB3 stores what lies below VecNormalize).
TRANSPARENT_WRAPPERS = (VecNormalize, VecMonitor, VecCheckNan)

KNOWN_TASKS = frozenset(name.rpartition(".")[2] for name in RECIPES)
"""Class names of the tasks that the registry knows."""

PLAIN_WRAPPERS = frozenset(
    {
        "TimeLimit",
        "OrderEnforcing",
        "PassiveEnvChecker",
        "RecordEpisodeStatistics",
        "Monitor",
        "ClipAction",
        "RescaleAction",
        "DtypeObservation",
        "FlattenObservation",
        "NormalizeReward",
        "RepeatAction",
        "AngleObservation",
        "ForwardVelocityObservation",
    }
)
"""Class names of wrappers that are built from numbers, so that a spec with them can be sent between processes."""


def known_functions(vec_env: VecEnv) -> TaskFunctions:
    """The reward and termination functions that the task registry has for all environments in ``vec_env``.

    Environments in other processes are looked at in copies made from their specs, after a check that what the rules
    read there equals what it is in the process. Nothing is known when a wrapper of the vector changes what the replay
    buffer sees, or when an environment cannot be made again.
    """
    while isinstance(vec_env, VecEnvWrapper):
        if not isinstance(vec_env, TRANSPARENT_WRAPPERS):
            return TaskFunctions(
                notes=(f"{type(vec_env).__name__} hides the task: reward and termination are learned.",)
            )
        vec_env = vec_env.venv
    if isinstance(vec_env, DummyVecEnv):
        return common_functions([task_functions(env) for env in vec_env.envs])
    if isinstance(vec_env, SubprocVecEnv):
        return remote_functions(vec_env)
    return TaskFunctions(notes=(f"{type(vec_env).__name__} hides the task: reward and termination are learned.",))


def common_functions(all_known: list[TaskFunctions]) -> TaskFunctions:
    """The functions that are the same for every environment."""
    first = all_known[0]
    notes = list(dict.fromkeys(note for known in all_known for note in known.notes))
    same = {
        "reward": all(known.reward_fn == first.reward_fn for known in all_known),
        "termination": all(known.termination_fn == first.termination_fn for known in all_known),
    }
    for what, equal in same.items():
        if not equal:
            notes.append(f"The environments differ in their {what}, so it is learned from all of them.")
    exact = {what for what in first.exact if same[what] and all(what in known.exact for known in all_known)}
    return TaskFunctions(
        first.reward_fn if same["reward"] else None,
        first.termination_fn if same["termination"] else None,
        frozenset(exact),
        tuple(notes),
    )


def remote_functions(vec_env: SubprocVecEnv) -> TaskFunctions:
    """The known functions of environments in subprocesses.

    A process dies when it is asked for something that cannot be sent, such as a spec with a lambda in it. So the spec
    is asked for only where the names of all wrappers and of the task, which are text, say that it holds numbers.
    """
    for text in dict.fromkeys(vec_env.env_method("__str__")):
        *wrappers, task = re.findall(r"<(\w+)(?=<)", text) or [""]
        if task not in KNOWN_TASKS or not PLAIN_WRAPPERS.issuperset(wrappers):
            return TaskFunctions(
                notes=(f"What {text} pays and when it ends is not known here: reward and termination are learned.",)
            )
    copies: list[tuple[Any, GymEnv, frozenset[str]]] = []  # one for all environments of equal specs
    all_known: list[TaskFunctions] = []
    try:
        for index, spec in enumerate(vec_env.get_attr("spec")):
            key = comparable(spec)
            found = next((copy for copy in copies if copy[0] == key), None)
            if found is None:
                env = _made_again(spec)
                if env is None:
                    note = "An environment cannot be made again from its spec: reward and termination are learned."
                    return TaskFunctions(notes=(note,))
                found = key, env, _attributes_read(env)
                copies.append(found)
            all_known.append(_checked_functions(vec_env, index, *found[1:]))
    finally:
        for _, env, _ in copies:
            env.close()
    return common_functions(all_known)


def _made_again(spec: object) -> GymEnv | None:
    """An environment made from the spec of another; None if it does not say how."""
    if not isinstance(spec, EnvSpec):
        return None
    wrappers = tuple(wrapper for wrapper in spec.additional_wrappers if not _is_monitor(wrapper))
    if any(wrapper.kwargs is None for wrapper in wrappers):
        return None
    made: GymEnv = gymnasium.make(replace(spec, additional_wrappers=wrappers))
    return made


def _is_monitor(wrapper: WrapperSpec) -> bool:
    """SB3's Monitor, which changes nothing of the task and which Gymnasium cannot rebuild from a spec."""
    return wrapper.entry_point.startswith("stable_baselines3.common.monitor:")


def _attributes_read(env: GymEnv) -> frozenset[str]:
    """Names of the task's attributes that its rules are read from. ``env`` is only inspected."""
    task, kind, read = env.unwrapped, type(env.unwrapped), set()

    def recording(self: Any, name: str) -> Any:
        read.add(name)
        return kind.__getattribute__(self, name)

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__getattribute__": recording}
    task.__class__ = type(kind.__name__, (kind,), names)
    try:
        task_functions(env)
    finally:
        task.__class__ = kind
    return frozenset(name for name in read if not name.startswith("__") and env.has_wrapper_attr(name))


def _checked_functions(vec_env: SubprocVecEnv, index: int, env: GymEnv, read: frozenset[str]) -> TaskFunctions:
    """The functions of ``env`` if the environment ``index`` in its process has the same constants, else none."""
    for name in sorted(read):
        here = env.get_wrapper_attr(name)
        if not _is_plain(here):
            continue
        there = vec_env.get_attr(name, index)[0]
        if not _equal(here, there):
            return TaskFunctions(
                notes=(
                    f"{name} of environment {index} was changed after it was made ({_short(there)}, not "
                    f"{_short(here)}): reward and termination are learned.",
                )
            )
    return task_functions(env)


def _is_plain(value: object) -> bool:
    """Whether ``value`` is data that can be sent and compared."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    plain = (bool, int, float, str, type(None), np.ndarray, np.generic, spaces.Space)
    return isinstance(value, plain) or type(value).__name__ == "MjModel"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if type(one).__name__ == "MjModel":
        return type(one) is type(other) and _model_bytes(one) == _model_bytes(other)
    return bool(one == other)


def _model_bytes(model: Any) -> bytes:
    """All of a MuJoCo model, as its binary file holds it."""
    buffer = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."
