"""Tests of the one rule that scales actions, MultiDiscrete ones included, and of who refuses those."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_wrappers.envs import ModelEnv
from mbrl_wrappers.models import EnsembleDynamics, FunctionModel
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.spaces import ActionCodec, check_action_space
from sb3_ext.agent_policy import AgentPolicy
from sb3_ext.buffers import MixedReplayBuffer

OBS = spaces.Box(-np.inf, np.inf, (2,))
MANY = spaces.MultiDiscrete([2, 3], start=[5, -1])


def test_multidiscrete_actions_are_one_hot_rows_side_by_side() -> None:
    codec = ActionCodec(MANY)
    assert (codec.size, codec.groups, codec.is_discrete) == (5, (2, 3), False)
    encoded = codec.encode(th.tensor([[5, -1], [6, 1], [5, 0]]))
    assert encoded.tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 1, 0]]
    assert codec.decode(encoded).tolist() == [[5, -1], [6, 1], [5, 0]]
    low, high = codec.bounds
    assert (low.tolist(), high.tolist()) == ([0] * 5, [1] * 5)


def test_multidiscrete_actions_of_any_shape_come_back_to_the_environment() -> None:
    space = spaces.MultiDiscrete(np.array([[2, 3], [1, 4]]), dtype=np.int32, start=np.array([[0, 1], [2, 3]]))
    codec = ActionCodec(space)
    actions = np.array([[[1, 3], [2, 6]], [[0, 1], [2, 3]]], np.int32)
    back = codec.to_env(codec.from_env(actions))
    assert (back.dtype, back.shape) == (np.int32, (2, 2, 2))
    np.testing.assert_array_equal(back, actions)
    assert all(row in space for row in back)


def test_plans_of_multidiscrete_actions_decode_along_time() -> None:
    codec = ActionCodec(MANY)
    plan = codec.encode(th.tensor([[5, -1], [6, 1]])).view(1, 2, 5)  # one row of two steps
    assert codec.decode(plan).tolist() == [[[5, -1], [6, 1]]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_every_multidiscrete_action_survives_the_round_trip(sizes: list[int], data: st.DataObject) -> None:
    start = [data.draw(st.integers(-3, 3)) for _ in sizes]
    space = spaces.MultiDiscrete(sizes, start=start)
    action = [first + data.draw(st.integers(0, size - 1)) for first, size in zip(start, sizes, strict=True)]
    codec = ActionCodec(space)
    model_action = codec.from_env(np.array([action]))
    assert model_action.sum() == len(sizes)
    assert codec.to_env(model_action).tolist() == [action]


def test_a_bound_that_float32_cannot_hold_is_none() -> None:
    edge = np.finfo(np.float64).max
    codec = ActionCodec(spaces.Box(np.array([-edge, 0]), np.array([edge, 1]), dtype=np.float64))
    np.testing.assert_array_equal(codec.to_env(th.tensor([[2.5, 0.0]])), [[2.5, 0.5]])
    assert codec.encode(th.tensor([[2.5, 0.5]])).tolist() == [[2.5, 0.0]]
    assert codec.bounds[0].tolist() == [-np.inf, -1.0]


def test_a_float64_bound_is_never_left_by_rounding() -> None:
    # float32(0.1) is above 0.1 and float32(-0.7) above -0.7, so float32 bounds would let an action out.
    space = spaces.Box(np.array([-0.7, -0.1]), np.array([0.1, 0.3]), dtype=np.float64)
    codec = ActionCodec(space)
    for model_action in (-th.ones(1, 2), th.ones(1, 2), 5 * th.ones(1, 2)):
        assert codec.to_env(model_action)[0] in space


class _Agent:
    action_space = MANY


@pytest.mark.parametrize(
    "make",
    [
        lambda: check_action_space(MANY),
        lambda: EnsembleDynamics(OBS, MANY, hidden=(4,)),
        lambda: TransitionStore(5, OBS, MANY),
        lambda: MixedReplayBuffer(5, OBS, MANY),
        lambda: AgentPolicy(_Agent()),  # type: ignore[arg-type]
        lambda: ModelEnv(_model(), np.zeros((1, 2), np.float32), horizon=3),
    ],
)
def test_whatever_learns_or_stores_refuses_multidiscrete_actions(make: Any) -> None:
    with pytest.raises(TypeError, match="Enumerate a MultiDiscrete"):
        make()


def test_other_spaces_are_refused_by_the_codec() -> None:
    for space in (spaces.MultiBinary(3), spaces.Tuple([MANY]), spaces.Dict({"a": MANY})):
        with pytest.raises(TypeError, match="not supported"):
            ActionCodec(space)


def _model() -> FunctionModel:
    def step(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        return obs + action, action.sum(1).float(), th.zeros(len(obs), dtype=th.bool)

    return FunctionModel(OBS, MANY, step)


def test_a_function_sees_multidiscrete_actions_as_numbers() -> None:
    model, generator = _model(), th.Generator()
    state = model.reset(th.zeros(2, 2), generator=generator)
    actions = model.codec.from_env(np.array([[6, -1], [5, 1]]))
    _, prediction = model.step(state, actions, generator=generator)
    assert prediction.next_obs.tolist() == [[6, -1], [5, 1]]
    assert prediction.reward.tolist() == [5, 6]
