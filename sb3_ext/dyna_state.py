"""The state of a Dyna callback as nested plain values, with parts that are optional or of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch as th

from mbrl_wrappers.fitting import FitReport, ModelTrainer
from mbrl_wrappers.seeding import (
    numpy_stream_state,
    set_numpy_stream_state,
    set_torch_stream_state,
    torch_stream_state,
)
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.torch_states import load_module_state, module_state
from mbrl_wrappers.types import DynamicsModel
from sb3_ext.dyna_streams import DynaStreams

if TYPE_CHECKING:
    from sb3_ext.callbacks import DynaCallback

_SECONDS = ("fit_seconds", "rollout_seconds")
_SCHEDULE = ("next_fit", "next_rollout", "last_round", "fits", "handed", "compared")
_PARTS = ("seeds", "starts_stream", "rollout_stream", "report", "trainer", "dynamics", "gate")


def dyna_state(callback: DynaCallback) -> StateDict:
    """Schedule, random streams, trainer and model of a callback that has met its agent.

    Raises:
        TypeError: for a trainer or a fitted model whose state cannot be exported.
    """
    streams, generator, trainer, gate = callback._streams, callback._generator, callback.trainer, callback._gate
    assert streams is not None, "init_callback() comes first"
    assert generator is not None
    check_parts_can_be_kept(callback.dynamics, trainer)
    return {
        **{name: getattr(callback, f"_{name}") for name in _SCHEDULE},
        **{name: getattr(callback, name) for name in _SECONDS},
        "seeds": {name: seed for name, seed in streams._asdict().items() if name != "starts"},
        "starts_stream": numpy_stream_state(streams.starts),
        "rollout_stream": torch_stream_state(generator),
        "report": report_state(callback.report),
        "trainer": None if trainer is None else trainer.state_dict(),  # type: ignore[attr-defined]
        "dynamics": model_state(callback.dynamics),
        "gate": None if gate is None else gate.state_dict(),
    }


def load_dyna_state(callback: DynaCallback, state: Mapping[str, Any]) -> None:
    """Put a callback that has met its agent and has its model into a state that :func:`dyna_state` gave.

    Raises:
        TypeError: for a trainer or a fitted model whose state cannot be loaded.
        ValueError: if it is the state of another model or trainer.
    """
    streams, generator, trainer, gate = callback._streams, callback._generator, callback.trainer, callback._gate
    assert streams is not None, "init_callback() comes first"
    assert generator is not None
    require_keys(state, (*_SCHEDULE, *_SECONDS, *_PARTS), "a DynaCallback")
    check_parts_can_be_kept(callback.dynamics, trainer)
    for name, part in (("trainer", trainer), ("gate", gate)):
        if (state[name] is None) != (part is None):
            raise ValueError(f"One of the run that was saved and this one has a {name}, and the other has none.")
    load_model_state(callback.dynamics, state["dynamics"])
    if trainer is not None:
        trainer.load_state_dict(state["trainer"])  # type: ignore[attr-defined]
    if gate is not None:
        gate.load_state_dict(state["gate"])
    callback._streams = DynaStreams(starts=streams.starts, **state["seeds"])
    set_numpy_stream_state(streams.starts, state["starts_stream"])
    set_torch_stream_state(generator, state["rollout_stream"])
    callback.report = report_from_state(state["report"])
    for name in _SCHEDULE:
        setattr(callback, f"_{name}", state[name])
    for name in _SECONDS:
        setattr(callback, name, state[name])
    callback._agent, callback._resumed = callback.model, True


def check_parts_can_be_kept(dynamics: DynamicsModel[Any] | None, trainer: ModelTrainer | None) -> None:
    """Raise a ``TypeError`` for a trainer, or a model that is fitted, whose state cannot be exported."""
    for part in (dynamics, trainer) if trainer is not None else ():
        if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
            name = type(part).__name__
            raise TypeError(
                f"A run checkpoint cannot keep the {name}: give it state_dict() and load_state_dict(state) as "
                "mbrl_wrappers.states.Stateful describes them."
            )


def model_state(dynamics: DynamicsModel[Any] | None) -> StateDict | None:
    """The state of a model; None for one without any, such as a function."""
    model: Any = dynamics
    if isinstance(model, th.nn.Module):
        return module_state(model)
    return model.state_dict() if hasattr(model, "state_dict") else None


def load_model_state(dynamics: DynamicsModel[Any] | None, state: Mapping[str, Any] | None) -> None:
    """Put a model into a state that :func:`model_state` gave.

    Raises:
        ValueError: if it is the state of another model.
    """
    if (state is None) != (model_state(dynamics) is None):
        there, here = ("none", "one") if state is None else ("one", "none")
        raise ValueError(
            f"The run that was saved had {there} of a model's state to keep, and this one has {here}: build the model "
            "as it was when the run was saved."
        )
    if state is None:
        return
    model: Any = dynamics
    if isinstance(model, th.nn.Module):
        load_module_state(model, state)
    else:
        model.load_state_dict(state)


def report_state(report: FitReport | None) -> StateDict | None:
    """A report as plain values."""
    if report is None:
        return None
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(report).items()}


def report_from_state(state: Mapping[str, Any] | None) -> FitReport | None:
    """The report that :func:`report_state` was given."""
    if state is None:
        return None
    columns: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in state.items()
    }
    return FitReport(**columns)
