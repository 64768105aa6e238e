"""``FunctionModel``: what it refuses, and what it makes of a function's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from controllers import ILQR, MPCPolicy
from mbrl_wrappers import FunctionModel, branched_rollout

OBS, ACTION = spaces.Box(-9, 9, (2,), np.float32), spaces.Box(-2, 2, (1,), np.float32)


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        ((th.zeros(3, 2), th.zeros(3)), r"\(Tensor, Tensor\)"),
        ((np.zeros((3, 2)), th.zeros(3), th.zeros(3)), r"\(ndarray, Tensor, Tensor\)"),
    ],
)
def test_other_returns_are_refused_with_what_is_wanted(returned: Any, got: str) -> None:
    model = FunctionModel(OBS, ACTION, lambda obs, action: returned)
    state = model.reset(th.zeros(3, 2), generator=th.Generator())
    with pytest.raises(TypeError, match=rf"three tensors .*{got}"):
        model.step(state, th.zeros(3, 1), generator=th.Generator())


def test_whole_numbers_are_rewards_too() -> None:
    def step(obs: th.Tensor, action: th.Tensor) -> Any:
        return obs + action, (obs[:, 0] > 0).long() - 1, th.zeros(len(obs), dtype=th.bool)

    action, _ = MPCPolicy(FunctionModel(OBS, ACTION, step), ILQR(iterations=1), 3).predict(np.zeros(2))
    assert action in ACTION


def echo(obs: th.Tensor, action: th.Tensor) -> Any:
    return obs + action, obs[:, 0], obs[:, 0] > 5


@pytest.mark.parametrize(
    ("given", "kept"), [(th.float64, th.float64), (th.float32, th.float32), (th.int64, th.float32)]
)
def test_starts_of_any_number_type_are_taken(given: th.dtype, kept: th.dtype) -> None:
    model = FunctionModel(OBS, ACTION, echo)
    state = model.reset(th.ones(3, 2, dtype=given), generator=th.Generator())
    assert state.obs.dtype == kept
    _, prediction = model.step(state, th.full((3, 1), 0.5), generator=th.Generator())
    assert prediction.next_obs.tolist() == [[2.0, 2.0]] * 3
    assert model.with_state_vector(state, th.zeros(3, 2, dtype=given)).obs.dtype == kept


def test_the_device_is_the_one_asked_for() -> None:
    assert FunctionModel(OBS, ACTION, echo).device == th.device("cpu")
    assert FunctionModel(OBS, ACTION, echo, device="meta").device == th.device("meta")
    assert FunctionModel(OBS, ACTION, echo, device="auto").device.type == ("cuda" if th.cuda.is_available() else "cpu")
    model = FunctionModel(OBS, ACTION, echo, device="meta")  # holds no numbers, but refuses those of the CPU
    state = model.reset(th.ones(3, 2), generator=th.Generator())
    following, prediction = model.step(state, th.ones(3, 1), generator=th.Generator())
    assert {part.device.type for part in (state.obs, following.obs, *prediction)} == {"meta"}


@pytest.mark.cuda
def test_a_function_computes_on_the_gpu() -> None:
    seen = []

    def step(obs: th.Tensor, action: th.Tensor) -> Any:
        seen.append((obs.device.type, action.device.type))
        return echo(obs, action)

    model = FunctionModel(OBS, ACTION, step, device="cuda")
    out = branched_rollout(
        model,
        lambda obs, generator: th.ones(len(obs), 1, device=obs.device),
        th.zeros(4, 2),
        3,
        generator=th.Generator("cuda").manual_seed(0),
    )
    assert seen == [("cuda", "cuda")] * 3
    assert out.transitions.next_obs[:, 0].tolist() == [2.0] * 4 + [4.0] * 4 + [6.0] * 4
