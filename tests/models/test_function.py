"""``FunctionModel``: what it refuses, and what it makes of a function's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from controllers import ILQR, MPCPolicy
from mbrl_wrappers import FunctionModel

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
