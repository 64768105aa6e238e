"""What a double-horizon agent holds besides what SAC does: visited states, streams and counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mbrl_wrappers.seeding import numpy_stream_state, set_numpy_stream_state
from mbrl_wrappers.states import StateDict, require_keys

if TYPE_CHECKING:
    from sb3_ext.agents.double_horizon import DoubleHorizon

_COUNTERS = ("_real_updates", "_skipped_updates")
_PARTS = ("ring", "draws", "starts", "counters", "standardized")


def double_horizon_state(agent: DoubleHorizon) -> StateDict:
    """Ring, streams and counters of ``agent``, and whether its observations are standardised yet."""
    return {
        "ring": agent._ring.state_dict(),
        "draws": agent._model_draws.state_dict(),
        "starts": numpy_stream_state(agent._starts_rng),
        "counters": {name: int(getattr(agent, name)) for name in _COUNTERS},
        "standardized": agent.dynamics is not None or agent._keeps_statistics,
    }


def load_double_horizon_state(agent: DoubleHorizon, state: Mapping[str, Any]) -> None:
    """Go on from what :func:`double_horizon_state` gave; the model comes from the callback.

    Raises:
        ValueError: if it is the state of an agent with another ring.
    """
    require_keys(state, _PARTS, type(agent).__name__)
    require_keys(state["counters"], _COUNTERS, type(agent).__name__)
    agent._ring.load_state_dict(state["ring"])
    agent._model_draws.load_state_dict(state["draws"])
    set_numpy_stream_state(agent._starts_rng, state["starts"])
    for name, count in state["counters"].items():
        setattr(agent, name, count)
    agent._keeps_statistics = state["standardized"]
