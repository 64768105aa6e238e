"""The state of a live environment as nested plain values, so that a run can go on in the middle of an episode.

Kept are the attributes of the environment and of its wrappers: the state of the task, counters such as that of a time
limit, random streams (those of the spaces too), and a MuJoCo simulation to the last bit. An environment is exportable
if all of that is data (:mod:`mbrl_wrappers.copies.object_export`) and a trial on copies shows that nothing is missing
(:mod:`mbrl_wrappers.copies.state_trial`). What draws or films is left out, and so are files.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import gymnasium

from mbrl_wrappers.copies.attribute_state import export_attributes, keeps_itself, plan_attributes
from mbrl_wrappers.copies.env_copies import DISPLAYS, AnyEnv, constants_of, holds_data, layers
from mbrl_wrappers.copies.object_export import ObjectExporter
from mbrl_wrappers.copies.object_import import ObjectImporter
from mbrl_wrappers.copies.state_trial import check_states
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.tasks.recognition import full_name, transparent_class

_CHECKER = "gymnasium.wrappers.common.PassiveEnvChecker"
_CHECKED = ("checked_reset", "checked_step", "checked_data_reuse")
_SPACES = ("observation_space", "action_space")
_ONLY: dict[str, frozenset[str]] = {
    _CHECKER: frozenset(),
    "gymnasium.wrappers.rendering.RecordVideo": frozenset({"episode_id", "step_id"}),
    "gymnasium.wrappers.rendering.RenderCollection": frozenset(),
    "gymnasium.wrappers.rendering.HumanRendering": frozenset(),
}
"""Of wrappers that check, film or show: the attributes that are kept."""

_METHODS = frozenset({"step", "reset", "render", "close"})
"""Methods of single environments that somebody put others around, to count or time calls."""

_FILES = frozenset({"results_writer"})
_reasons: weakref.WeakKeyDictionary[AnyEnv, str] = weakref.WeakKeyDictionary()
"""Of environments that were tried: why their state is not exportable, empty if it is."""


def env_state(env: AnyEnv) -> StateDict | None:
    """The state of ``env`` as nested plain values; None if it cannot be exported, see :func:`why_not_exportable`.

    The first call for an environment tries the state out on copies, which takes some tens of steps of the task. The
    environment is not stepped.
    """
    return None if why_not_exportable(env) else _export(env)


def why_not_exportable(env: AnyEnv) -> str:
    """A sentence that says why the state of ``env`` cannot be exported; empty if it can."""
    known = _reasons.get(env)
    if known is None:
        try:
            _export(env)
            check_states(env, _export, load_env_state)
            known = ""
        except TypeError as error:
            known = str(error)
        _reasons[env] = known
    return known


def load_env_state(env: AnyEnv, state: Mapping[str, Any]) -> None:
    """Put ``env`` into the state that :func:`env_state` gave of an environment that was made in the same way.

    Nothing is reset: the next step is the one that would have come next. An environment that has never been reset is
    reset once if its state has parts that it makes only then.

    Raises:
        ValueError: if the state is of another environment, of other wrappers or of another version of the simulator.
            The environment is then as it was, or in a new episode.
    """
    try:
        plan = _plan(env, state)
    except ValueError:
        env.unwrapped.reset()
        plan = _plan(env, state)
    plan.apply()


def _export(env: AnyEnv) -> StateDict:
    """The state of each layer, from the outermost inwards.

    Raises:
        NotExportableError: something in it is no data.
    """
    found = list(layers(env))
    exporter = ObjectExporter(found)
    return {
        "observation_space": repr(env.observation_space),
        "action_space": repr(env.action_space),
        "layers": [_exported_layer(exporter, layer) for layer in found],
    }


def _exported_layer(exporter: ObjectExporter, layer: AnyEnv) -> StateDict:
    kind: Any = type(layer)
    if keeps_itself(layer):
        return {"class": full_name(kind), "own": dict(layer.state_dict())}  # type: ignore[attr-defined]
    attributes = export_attributes(exporter, layer, _is_kept, _spaces_of_class(layer))
    return {"class": full_name(kind), "attributes": attributes}


def _plan(env: AnyEnv, state: Mapping[str, Any]) -> ObjectImporter:
    """Compare a state with ``env`` and prepare what loads it.

    Raises:
        ValueError: if they do not match.
    """
    require_keys(state, ("observation_space", "action_space", "layers"), "an environment")
    found, given = list(layers(env)), state["layers"]
    here, there = [full_name(type(layer)) for layer in found], [layer["class"] for layer in given]
    if here != there:
        raise ValueError(
            f"The state is of an environment of {', '.join(there)} (from outside inwards), and this one is of "
            f"{', '.join(here)}: make it as it was made then."
        )
    for name in _SPACES:
        if repr(getattr(env, name)) != state[name]:
            raise ValueError(f"The state is of an environment with the {name} {state[name]}, not {getattr(env, name)}.")
    importer = ObjectImporter(found)
    try:
        for layer, saved in zip(found, given, strict=True):
            _plan_layer(importer, layer, saved)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"This is no state of {env}: {error}.") from error
    return importer


def _plan_layer(importer: ObjectImporter, layer: AnyEnv, saved: Mapping[str, Any]) -> None:
    if keeps_itself(layer):
        importer.later(lambda: layer.load_state_dict(saved["own"]))  # type: ignore[attr-defined]
        return
    plan_attributes(importer, layer, saved["attributes"], _is_kept, _spaces_of_class(layer))
    if transparent_class(type(layer)) == _CHECKER:  # it would compare the next step with the last reset
        importer.later(lambda: vars(layer).update(dict.fromkeys(_CHECKED, True)))


def _spaces_of_class(layer: AnyEnv) -> dict[str, Any]:
    """The spaces of an innermost environment that are attributes of its class: their streams belong to the state."""
    if isinstance(layer, gymnasium.Wrapper):
        return {}
    return {name: getattr(layer, name) for name in _SPACES if name not in vars(layer) and hasattr(layer, name)}


def _is_kept(kind: Any, name: str, value: Any) -> bool:
    """Whether an attribute belongs to the state of a layer."""
    only = _ONLY.get(transparent_class(kind) or "")
    if only is not None:
        return name in only
    if name == "env" or name in constants_of(kind) or name in _FILES or (name in _METHODS and callable(value)):
        return False
    return name not in DISPLAYS or holds_data(value)
