"""Which class an algorithm name stands for; libraries are imported only when asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from torch import nn

from mbrl_wrappers.optional import require
from scripts.training.configuration import check_keys

_MODULES: Mapping[str, Mapping[str, str]] = {
    "sb3": {
        "sac": "stable_baselines3:SAC",
        "td3": "stable_baselines3:TD3",
        "ddpg": "stable_baselines3:DDPG",
        "dqn": "stable_baselines3:DQN",
        "ppo": "stable_baselines3:PPO",
        "a2c": "stable_baselines3:A2C",
        "tqc": "sb3_contrib:TQC",
        "crossq": "sb3_contrib:CrossQ",
        "qrdqn": "sb3_contrib:QRDQN",
        "trpo": "sb3_contrib:TRPO",
        "dh": "sb3_ext.agents.double_horizon:DoubleHorizon",
        "mve-sac": "sb3_ext.agents.value_expansion_agents:MVESAC",
        "mve-td3": "sb3_ext.agents.value_expansion_agents:MVETD3",
        "mve-ddpg": "sb3_ext.agents.value_expansion_agents:MVEDDPG",
        "steve-sac": "sb3_ext.agents.value_expansion_agents:STEVESAC",
        "steve-td3": "sb3_ext.agents.value_expansion_agents:STEVETD3",
        "steve-ddpg": "sb3_ext.agents.value_expansion_agents:STEVEDDPG",
        "naf": "sb3_ext.agents.naf:NAF",
        "mpg": "sb3_ext.agents:ModelPolicyGradient",
        "svg": "sb3_ext.agents:SVG",
    },
    "sbx": {
        "sac": "sbx:SAC",
        "td3": "sbx:TD3",
        "ddpg": "sbx:DDPG",
        "dqn": "sbx:DQN",
        "ppo": "sbx:PPO",
        "tqc": "sbx:TQC",
        "crossq": "sbx:CrossQ",
    },
}
_EXPANSION = ("mve-sac", "mve-td3", "mve-ddpg", "steve-sac", "steve-td3", "steve-ddpg")
_CONFIGS = {
    "dh": "sb3_ext.agents.double_horizon_config:DoubleHorizonConfig",
    **dict.fromkeys(_EXPANSION, "sb3_ext.agents.value_expansion_config:ExpansionConfig"),
}
_EXTRAS = {"sb3_contrib": "contrib", "sbx": "sbx"}
_SET_BY_TRAIN = ("self", "env", "policy", "seed", "device", "tensorboard_log", "verbose", "_init_setup_model")
ON_POLICY = ("ppo", "a2c", "trpo")


def agent_class(algo: str, backend: str) -> type[BaseAlgorithm]:
    """The agent's class.

    Raises:
        ValueError: if the backend has no such algorithm.
        ImportError: if its library is missing, with the extra to install.
    """
    table = _MODULES[backend]
    if algo not in table:
        raise ValueError(f"--backend {backend} has no {algo}; it has {', '.join(sorted(table))}.")
    module_name, class_name = table[algo].split(":")
    module = require(module_name, extra=_EXTRAS.get(module_name, ""))
    found: type[BaseAlgorithm] = getattr(module, class_name)
    return found


def policy_class(name: str, algo: str, backend: str) -> str | type[Any]:
    """The policy that a YAML file names: ``LayerNormPolicy`` is ours, everything else is the agent's own.

    Raises:
        ValueError: if ours does not go with the agent.
        ImportError: if its library is missing.
    """
    if name != "LayerNormPolicy":
        return name
    places = {
        "sac": "sb3_ext.layer_norm_policies:LayerNormSACPolicy",
        "td3": "sb3_ext.layer_norm_policies:LayerNormTD3Policy",
        "ddpg": "sb3_ext.layer_norm_policies:LayerNormTD3Policy",
        "tqc": "sb3_ext.layer_norm_tqc:LayerNormTQCPolicy",
    }
    if backend == "sbx":
        raise ValueError("LayerNormPolicy is for --backend sb3; agents of SBX take policy_kwargs: {layer_norm: true}.")
    if algo not in places:
        raise ValueError(f"LayerNormPolicy is for {', '.join(places)}, not for {algo}.")
    if algo == "tqc":
        require("sb3_contrib", extra="contrib")
    module, cls = places[algo].split(":")
    found: type[Any] = getattr(import_module(module), cls)
    return found


def agent_keys(cls: type[BaseAlgorithm]) -> list[str]:
    """Keyword arguments a configuration may set: those of ``cls``, and of its bases where it passes them on."""
    names: list[str] = []
    for base in cls.__mro__:
        parameters = inspect.signature(base).parameters
        names += [name for name in parameters if name not in (*_SET_BY_TRAIN, *names)]
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return [name for name in names if name != "kwargs"]


def action_noise(run: Mapping[str, Any], action_space: spaces.Space[Any]) -> ActionNoise | None:
    """The exploration noise named by ``noise_type`` and ``noise_std``, in scaled action units.

    Raises:
        ValueError: for an unknown type.
        TypeError: for a space without continuous actions.
    """
    kind = run.get("noise_type")
    if kind is None:
        return None
    kinds: dict[str, Callable[..., ActionNoise]] = {
        "normal": NormalActionNoise,
        "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise,
    }
    if kind not in kinds:
        raise ValueError(f"noise_type must be one of {', '.join(kinds)}, got {kind!r}.")
    if not isinstance(action_space, spaces.Box):
        raise TypeError(f"noise_type {kind!r} needs a Box action space, got {action_space}.")
    std = float(run.get("noise_std", 0.1))
    return kinds[kind](np.zeros(action_space.shape), std * np.ones(action_space.shape))


def readable_config(kwargs: Mapping[str, Any], algo: str) -> Any:
    """The ``config`` block of an agent of this project as its dataclass.

    Raises:
        ValueError: for an unknown key or a number out of range.
    """
    module, name = _CONFIGS[algo].split(":")
    cls: type[Any] = getattr(import_module(module), name)
    check_keys(kwargs, [field.name for field in fields(cls)], "the config block")
    return cls(**kwargs)


def readable_policy_kwargs(kwargs: Mapping[str, Any], backend: str) -> dict[str, Any]:
    """``policy_kwargs`` with the names of ``activation_fn`` (``relu``, ``tanh``, ``elu``, ``silu``) replaced.

    Raises:
        ValueError: for another name.
    """
    result = dict(kwargs)
    name = result.get("activation_fn")
    if isinstance(name, str):
        names = {"relu": "ReLU", "tanh": "Tanh", "elu": "ELU", "silu": "SiLU"}
        if name not in names:
            raise ValueError(f"activation_fn must be one of {', '.join(names)}, got {name!r}.")
        jax_nn = require("flax.linen", extra="sbx") if backend == "sbx" else None
        result["activation_fn"] = getattr(nn, names[name]) if jax_nn is None else getattr(jax_nn, name)
    return result
