"""What a tabular agent holds besides what every SB3 agent does: its streams, sums for the log, and counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mbrl_wrappers.seeding import numpy_stream_state, set_numpy_stream_state
from mbrl_wrappers.states import StateDict, require_keys

if TYPE_CHECKING:
    from sb3_ext.agents.tabular_agent import TabularAgent

_COUNTERS = ("num_planning_updates", "_surprises")
_STREAMS = ("_rng", "_predict_rng")
_SETTINGS = ("gamma", "planning_steps", "outcomes_kept")


def tabular_state(agent: TabularAgent) -> StateDict:
    """Streams, counters and sums of ``agent``, and the settings that they belong to."""
    return {
        "streams": {name: numpy_stream_state(getattr(agent, name)) for name in _STREAMS},
        "counters": {name: int(getattr(agent, name)) for name in _COUNTERS},
        "errors": [float(error) for error in agent._errors],
        "updates_logged": [int(count) for count in agent._updates_logged],
        "settings": {name: getattr(agent, name) for name in _SETTINGS},
    }


def load_tabular_state(agent: TabularAgent, state: Mapping[str, object]) -> None:
    """Go on from what :func:`tabular_state` gave.

    Raises:
        ValueError: if it is the state of an agent with other settings; nothing is changed then.
    """
    require_keys(state, ("streams", "counters", "errors", "updates_logged", "settings"), "a tabular agent")
    settings, streams, counters = state["settings"], state["streams"], state["counters"]
    assert isinstance(settings, Mapping)
    assert isinstance(streams, Mapping)
    assert isinstance(counters, Mapping)
    for name in _SETTINGS:
        if settings[name] != getattr(agent, name):
            raise ValueError(
                f"The state is of an agent with {name}={settings[name]}, and this one has {getattr(agent, name)}: "
                "build it as it was when it was saved."
            )
    for name in _STREAMS:
        set_numpy_stream_state(getattr(agent, name), streams[name])
    for name in _COUNTERS:
        setattr(agent, name, counters[name])
    agent._errors, agent._updates_logged = list(state["errors"]), list(state["updates_logged"])  # type: ignore[call-overload]
