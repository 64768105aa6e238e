"""The states of torch modules and optimisers as nested plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from torch import Tensor

from mbrl_wrappers.states import StateDict, require_keys


def module_state(module: th.nn.Module) -> StateDict:
    """Copies on the CPU of the parameters and buffers of ``module`` by name."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def load_module_state(module: th.nn.Module, state: Mapping[str, Any]) -> None:
    """Put ``module`` into a state that :func:`module_state` gave.

    Raises:
        ValueError: if names, shapes or dtypes differ; nothing is changed then.
    """
    owner = type(module).__name__
    own = module.state_dict()
    require_keys(state, own, f"this {owner}")
    for name, value in own.items():
        if state[name].shape != value.shape or state[name].dtype != value.dtype:
            raise ValueError(
                f"{name} in the state of {owner} is {state[name].dtype} of shape {tuple(state[name].shape)}, and this "
                f"one has {value.dtype} of shape {tuple(value.shape)}: build it as it was when it was saved."
            )
    module.load_state_dict(dict(state))


def optimizer_state(optimizer: th.optim.Optimizer) -> StateDict:
    """Moments and step counts of each parameter by its number, and the settings of each group of parameters.

    The tensors are copies.
    """
    state = optimizer.state_dict()
    return {
        "parameters": {str(number): _plain(values) for number, values in state["state"].items()},
        "groups": [_plain(group) for group in state["param_groups"]],
    }


def load_optimizer_state(optimizer: th.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put an optimiser into a state that :func:`optimizer_state` gave.

    Raises:
        ValueError: if it is the state of an optimiser of other parameters; nothing is changed then.
    """
    check_optimizer_state(optimizer, state)
    groups = [
        {key: tuple(value) if isinstance(group.get(key), tuple) else value for key, value in stored.items()}
        for group, stored in zip(optimizer.param_groups, state["groups"], strict=True)
    ]
    optimizer.load_state_dict(
        {"state": {int(number): values for number, values in state["parameters"].items()}, "param_groups": groups}
    )


def check_optimizer_state(optimizer: th.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Raise the error of :func:`load_optimizer_state`, and change nothing."""
    require_keys(state, ("parameters", "groups"), "an optimiser")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    counts = [len(group["params"]) for group in optimizer.param_groups]
    found = [len(group["params"]) for group in state["groups"]]
    if counts != found:
        raise ValueError(
            f"The state of the optimiser is of groups of {found} parameters, and this one has {counts}: build the "
            "networks as they were when it was saved."
        )
    for number, values in state["parameters"].items():
        shape = tuple(parameters[int(number)].shape) if int(number) < len(parameters) else None
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and tuple(value.shape) != shape:
                raise ValueError(
                    f"{name} of parameter {number} in the state of the optimiser has shape {tuple(value.shape)}, and "
                    f"the parameter {shape}: build the networks as they were when it was saved."
                )


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
