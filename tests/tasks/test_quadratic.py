"""The quadratic reward against hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

from mbrl_wrappers.storage.stored_functions import describe_function, restore_function
from mbrl_wrappers.tasks import QuadraticReward


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_hand_computed(dtype: th.dtype) -> None:
    reward = QuadraticReward((2.0, 0.5), target=(1.0, 0.0), action_weight=0.1, constant=4.0)
    following = th.tensor([[3.0, 2.0], [1.0, 0.0]], dtype=dtype)
    value = reward(th.zeros_like(following), th.tensor([[1.0, -2.0], [0.0, 0.0]]), following)
    assert value.dtype == dtype
    assert value.tolist() == pytest.approx([4.0 - (2.0 * 4 + 0.5 * 4) - 0.1 * 5, 4.0])


def test_without_a_target_it_is_the_distance_from_the_origin() -> None:
    value = QuadraticReward((1.0, 0.0))(th.zeros(1, 2), th.ones(1, 1), th.tensor([[3.0, 100.0]]))
    assert value.tolist() == [-9.0]


def test_actions_are_squared_in_the_dtype_of_the_observation() -> None:
    following, action = th.zeros(1, 1, dtype=th.float64), th.tensor([[0.1]])
    exact = -(float(np.float32(0.1)) ** 2)
    assert QuadraticReward((1.0,), action_weight=1.0)(following, action, following).item() == exact
    whole = QuadraticReward((1.0,), action_weight=0.5)(following, th.tensor([[3]]), following)
    assert whole.tolist() == [-4.5]


def test_wrong_sizes_raise() -> None:
    with pytest.raises(ValueError, match="target has 1"):
        QuadraticReward((1.0, 2.0), target=(0.0,))
    with pytest.raises(ValueError, match="observations of shape"):
        QuadraticReward((1.0, 2.0))(th.zeros(1, 3), th.zeros(1, 1), th.zeros(1, 3))


def test_it_can_be_stored() -> None:
    reward = QuadraticReward((1.0, 2.0), target=(0.5, 0.0), action_weight=0.3)
    assert restore_function(describe_function(reward)) == reward
