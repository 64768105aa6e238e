"""Rows of the oracle and small ensembles that are fitted to them."""

from __future__ import annotations

import numpy as np
import torch as th
from gymnasium import spaces

from mbrl_wrappers import (
    EnsembleDynamics,
    FitConfig,
    FitReport,
    Trainer,
    Transitions,
)
from tests.oracle import OracleEnv, oracle_step

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)


def oracle_rows(count: int, *, noise: float = 0.0, seed: int = 0) -> Transitions:
    g = th.Generator().manual_seed(seed)
    obs = th.rand(count, 3, generator=g) * 2 - 1
    action = th.rand(count, 2, generator=g) * 2 - 1
    env_action = action * th.tensor([0.4, 2.0]) + th.tensor([0.0, 1.0])
    next_obs, reward, terminated = oracle_step(obs, env_action)
    next_obs = next_obs + noise * th.randn(count, 3, generator=g)
    return Transitions(obs, action, reward, next_obs, terminated, terminated)


def make_model(**kwargs: object) -> EnsembleDynamics:
    defaults: dict[str, object] = {"num_members": 3, "num_elites": 2, "hidden": (32, 32), "device": "cpu"}
    return EnsembleDynamics(BOX, OracleEnv().action_space, **(defaults | kwargs))  # type: ignore[arg-type]


def fit(rows: Transitions, config: FitConfig, **kwargs: object) -> tuple[EnsembleDynamics, FitReport]:
    model = make_model(**kwargs)
    return model, Trainer(model, config, seed=1).fit(rows)
