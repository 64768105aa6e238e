"""The parts of a Dyna run that are optional or of the user's own, as nested plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch as th

from mbrl_wrappers.fitting import FitReport, ModelTrainer
from mbrl_wrappers.states import StateDict
from mbrl_wrappers.torch_states import load_module_state, module_state
from mbrl_wrappers.types import DynamicsModel


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
