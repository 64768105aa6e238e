"""Small latent models and sequences, and every posterior that there is."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from torch import Tensor

from mbrl_wrappers.latent import LatentOptions, LatentState, LatentStateSpaceModel, SequenceBatch
from mbrl_wrappers.seeding import torch_generator

SENSORS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTIONS = spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, 1.0]), dtype=np.float32)

POSTERIORS: dict[str, dict[str, Any]] = {
    "single": dict(posterior="single"),
    "factorised filter": dict(posterior="factorised filter"),
    "factorised filter, transformer": dict(posterior="factorised filter", summary="transformer"),
    "filter": dict(posterior="filter"),
    "filter, transformer": dict(posterior="filter", summary="transformer"),
    "filter without summary": dict(posterior="filter", summary="none"),
    "factorised smoother": dict(posterior="factorised smoother"),
    "smoother": dict(posterior="smoother"),
}
FILTERS = {name: kind for name, kind in POSTERIORS.items() if "smoother" not in name}
SMALL: dict[str, Any] = dict(latent_size=3, memory_size=8, context=8, hidden=(16,), encoder_hidden=(16,))


def small_model(
    *, seed: int = 0, form: Any = "state", termination_fn: Any = None, **options: Any
) -> LatentStateSpaceModel:
    """A model with random weights whose outputs differ clearly from row to row."""
    model = LatentStateSpaceModel(
        SENSORS,
        ACTIONS,
        options=LatentOptions(**{**SMALL, **options}),
        form=form,
        termination_fn=termination_fn,
        seed=seed,
        device="cpu",
    )
    generator = torch_generator(seed + 1)
    with th.no_grad():
        for parameter in model.parameters():
            parameter.add_(th.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def small_batch(rows: int = 4, steps: int = 6, *, seed: int = 0, first: bool = True) -> SequenceBatch:
    """Random sequences of full length."""
    g = torch_generator(seed)
    return SequenceBatch(
        obs=th.randn(rows, steps, 2, generator=g),
        action=th.rand(rows, steps - 1, 2, generator=g) * 2 - 1,
        reward=th.randn(rows, steps - 1, generator=g),
        terminated=th.zeros(rows, steps - 1, dtype=th.bool),
        first=th.full((rows,), first),
        length=th.full((rows,), steps),
    )


def noise_for(model: LatentStateSpaceModel, batch: SequenceBatch, seed: int = 0) -> Tensor:
    """``(B, T, Z)`` drawn time by time, as a filter draws them."""
    g = torch_generator(seed)
    rows, steps = batch.obs.shape[:2]
    return th.stack([th.randn(rows, model.options.latent_size, generator=g) for _ in range(steps)], 1)


def filtered(model: LatentStateSpaceModel, batch: SequenceBatch, seed: int = 0) -> list[LatentState]:
    """The beliefs after each observation of sequences that begin episodes."""
    g = torch_generator(seed)
    rows, steps = batch.obs.shape[:2]
    state, states = model.initial(rows), []
    action = th.full((rows, model.action_size), 9.0)  # plays no part at the beginning
    for time in range(steps):
        state = model.observe(state, action, batch.obs[:, time], th.full((rows,), time == 0), generator=g)
        states.append(state)
        action = batch.action[:, min(time, steps - 2)]
    return states


class HiddenVelocity(gymnasium.Env[Any, Any]):
    """A cart on a spring whose position is seen and whose velocity is not; episodes of 20 steps."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.v = self.np_random.normal(0, 0.5, 2)
        self.steps = 0
        return np.float32([self.x]), {}

    def step(self, action: Any) -> Any:
        self.x, self.v = self.x + 0.5 * self.v, 0.9 * self.v - 0.3 * self.x + 0.5 * float(np.clip(action[0], -1, 1))
        self.steps += 1
        return np.float32([self.x]), -abs(self.x), False, self.steps >= 20, {}
