"""The smallest models and functions that can be stored, and files with altered contents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_wrappers.models.ensemble import EnsembleDynamics
from mbrl_wrappers.storage import checkpoint, file_format
from mbrl_wrappers.storage.checkpoint import register_model


@register_model("test-affine")
class Affine:
    """The smallest model with weights, a configuration and a function."""

    def __init__(self, layer: nn.Linear, reward_fn: Any = None) -> None:
        self.layer = layer
        self.reward_fn = reward_fn
        self.observation_space = spaces.Box(-np.inf, np.inf, (layer.in_features,), np.float32)

    def predict(self, obs: Tensor) -> Tensor:
        return self.layer(obs)

    def to_checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        reward_fn = checkpoint.describe_function(self.reward_fn)
        return {"in": self.layer.in_features, "out": self.layer.out_features, "reward_fn": reward_fn}, dict(
            self.layer.state_dict()
        )

    @classmethod
    def from_checkpoint(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], *, device: th.device, reward_fn: Any = None
    ) -> Affine:
        layer = nn.Linear(config["in"], config["out"])
        layer.load_state_dict(tensors)
        return cls(layer.to(device), reward_fn or checkpoint.restore_function(config["reward_fn"]))


@checkpoint.register_function
@dataclass(frozen=True)
class Weighted:
    """A reward with constants of every plain kind."""

    weight: float = 1.0
    bounds: tuple[float, float] = (0.0, float("inf"))
    label: str | None = None

    def __call__(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return self.weight * next_obs.sum(-1)


def affine_model() -> Affine:
    """An affine model with fixed weights and a reward."""
    with th.random.fork_rng():
        th.manual_seed(0)
        return Affine(nn.Linear(3, 2), Weighted(0.1))


def small_ensemble() -> EnsembleDynamics:
    """Five members with one hidden layer of four."""
    box = spaces.Box(-1, 1, (3,))
    return EnsembleDynamics(box, spaces.Box(-1, 1, (1,)), hidden=(4,), device="cpu")


def alter(path: Path, config: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
    """Write the file anew, as an honest writer of other contents would."""
    manifest, stored = file_format.read(path)
    file_format.write(path, manifest.kind, {**manifest.config, **config}, {**stored, **(tensors or {})})
