"""The state of a live SB3 ``VecEnv``: its environments, its wrappers' statistics, and what it has yet to hand out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from mbrl_wrappers.copies.attribute_state import export_attributes, keeps_itself, plan_attributes
from mbrl_wrappers.copies.env_state import env_state, load_env_state, why_not_exportable
from mbrl_wrappers.copies.object_export import ObjectExporter, constant_name
from mbrl_wrappers.copies.object_import import ObjectImporter
from mbrl_wrappers.states import StateDict, require_keys

_LEFT_OUT = frozenset({"venv", "class_attributes", "envs", "metadata", "results_writer", "video_recorder"}) | {
    *("buf_infos", "reset_infos", "waiting", "actions", "render_mode", "model", "recorded_frames")
}
"""Attributes that are wrapped, written elsewhere, or overwritten by the next step before anyone reads them."""


def vec_env_state(vec_env: VecEnv) -> StateDict | None:
    """The state of ``vec_env`` as nested plain values; None if it cannot be exported.

    :func:`why_vec_not_exportable` says why. Environments in other processes (``SubprocVecEnv``) are out of reach.
    """
    return None if why_vec_not_exportable(vec_env) else _export(vec_env)


def why_vec_not_exportable(vec_env: VecEnv) -> str:
    """A sentence that says why the state of ``vec_env`` cannot be exported; empty if it can."""
    for layer in _layers(vec_env):
        if keeps_itself(layer) or isinstance(layer, VecEnvWrapper):
            continue
        if not isinstance(layer, DummyVecEnv):
            return (
                f"The environments of a {type(layer).__name__} run where their state is out of reach: take DummyVecEnv "
                "for runs that must go on in the middle of an episode."
            )
        for number, env in enumerate(layer.envs):
            why = why_not_exportable(env)
            if why:
                return f"Environment {number}: {why}"
    try:
        _export(vec_env)
    except TypeError as error:
        return str(error)
    return ""


def load_vec_env_state(vec_env: VecEnv, state: Mapping[str, Any]) -> None:
    """Put ``vec_env`` into the state that :func:`vec_env_state` gave of one that was made in the same way.

    Raises:
        ValueError: if the state is of another one. Environments before the one that does not fit have been loaded then.
    """
    require_keys(state, ("layers",), "a VecEnv")
    found, given = list(_layers(vec_env)), state["layers"]
    here, there = [constant_name(type(layer)) for layer in found], [layer["class"] for layer in given]
    if here != there:
        raise ValueError(
            f"The state is of a VecEnv of {', '.join(there)} (from outside inwards), and this one is of "
            f"{', '.join(here)}: make it as it was made then."
        )
    importer = ObjectImporter(found)
    for layer, saved in zip(found, given, strict=True):
        if keeps_itself(layer):
            kept: Any = layer
            importer.later(partial(kept.load_state_dict, saved["own"]))
            continue
        plan_attributes(importer, layer, saved["attributes"], _is_kept)
        if isinstance(layer, DummyVecEnv):
            if len(layer.envs) != len(saved["envs"]):
                raise ValueError(f"The state is of {len(saved['envs'])} environments, and here are {len(layer.envs)}.")
            for env, one in zip(layer.envs, saved["envs"], strict=True):
                load_env_state(env, one)
    importer.apply()


def _export(vec_env: VecEnv) -> StateDict:
    layers = list(_layers(vec_env))
    exporter = ObjectExporter(layers)
    return {"layers": [_exported_layer(exporter, layer) for layer in layers]}


def _exported_layer(exporter: ObjectExporter, layer: Any) -> StateDict:
    if keeps_itself(layer):
        return {"class": constant_name(type(layer)), "own": dict(layer.state_dict())}
    state: StateDict = {"class": constant_name(type(layer)), "attributes": export_attributes(exporter, layer, _is_kept)}
    if isinstance(layer, DummyVecEnv):
        state["envs"] = [env_state(env) for env in layer.envs]
    return state


def _layers(vec_env: VecEnv) -> Iterator[VecEnv]:
    """The wrappers from the outermost inwards, and the vector environment inside."""
    yield vec_env
    while isinstance(vec_env, VecEnvWrapper):
        vec_env = vec_env.venv
        yield vec_env


def _is_kept(kind: Any, name: str, value: Any) -> bool:
    return name not in _LEFT_OUT
