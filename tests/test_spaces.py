"""Tests of the one rule that scales actions, MultiDiscrete ones included, and of who refuses those."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers import CEM, ILQR, MPCPolicy
from mbrl_wrappers.envs import ModelEnv
from mbrl_wrappers.models import EnsembleDynamics, FunctionModel
from mbrl_wrappers.replay import TransitionStore
from mbrl_wrappers.spaces import ActionCodec, check_action_space, in_dtype_of
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


# --- whole numbers ----------------------------------------------------------------------------------------------------

WHOLE = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("dtype", WHOLE)
def test_every_integer_action_survives_the_round_trip(dtype: Any) -> None:
    """Scaled to [-1, 1] and back in float32, 246 of [0, 255] becomes 245.99998, which truncation made 245."""
    low, high = max(np.iinfo(dtype).min, -100), min(np.iinfo(dtype).max, 1000)
    space = spaces.Box(low, high, (1,), dtype)
    every = np.arange(low, high + 1).astype(dtype)[:, None]
    codec = ActionCodec(space)
    back = codec.to_env(codec.from_env(every))
    np.testing.assert_array_equal(back, every)
    assert back.dtype == dtype


@pytest.mark.parametrize("dtype", WHOLE)
def test_the_bounds_of_an_integer_type_do_not_overflow(dtype: Any) -> None:
    info = np.iinfo(dtype)
    space = spaces.Box(info.min, info.max, (2,), dtype)
    ends = ActionCodec(space).to_env(th.tensor([[-1.0, 1.0], [-3.0, 3.0]]))
    assert ends.tolist() == [[info.min, info.max]] * 2
    assert all(row in space for row in ends)


def test_what_a_model_scores_is_what_the_environment_executes() -> None:
    space = spaces.Box(np.array([-5, 0]), np.array([5, 255]), dtype=np.int64)
    codec = ActionCodec(space)
    model_actions = th.linspace(-1.2, 1.2, 101)[:, None].expand(-1, 2)
    scored, executed = codec.decode(model_actions), codec.to_env(model_actions)
    np.testing.assert_array_equal(scored, executed)
    assert codec.decode(th.tensor([[0.58, -1.0], [0.52, 1.0]])).tolist() == [[3.0, 0.0], [3.0, 255.0]]  # 2.9 and 2.6


def test_gradients_pass_through_the_rounding() -> None:
    codec = ActionCodec(spaces.Box(-5, 5, (1,), np.int64))
    action = th.tensor([[0.5]], requires_grad=True)
    codec.decode(action).backward()
    assert action.grad is not None
    assert action.grad.item() == 5.0  # half of the width, as in a Box of floats


def test_flags_are_rounded_and_not_taken_for_true_unless_zero() -> None:
    codec = ActionCodec(spaces.Box(0, 1, (2,), np.bool_))
    assert codec.to_env(th.tensor([[-0.2, 0.2]])).tolist() == [[False, True]]
    assert codec.from_env(np.array([[False, True]])).tolist() == [[-1, 1]]


def test_an_integer_box_without_bounds_keeps_its_units() -> None:
    codec = ActionCodec(spaces.Box(-np.inf, np.inf, (2,), np.int64))
    assert codec.to_env(th.tensor([[2.6, -1e30]])).tolist() == [[3, np.iinfo(np.int64).min]]
    assert codec.encode(th.tensor([[4.0, -7.0]])).tolist() == [[4, -7]]
    assert codec.bounds[1].tolist() == [np.inf, np.inf]


def test_a_dimension_with_one_bound_keeps_its_units() -> None:
    codec = ActionCodec(spaces.Box(np.array([0.0, -np.inf]), np.array([np.inf, 1.0]), dtype=np.float64))
    assert codec.encode(th.tensor([[7.0, -7.0]])).tolist() == [[7.0, -7.0]]
    assert codec.decode(th.tensor([[-7.0, 7.0]])).tolist() == [[0.0, 1.0]]
    assert [edge.tolist() for edge in codec.bounds] == [[0.0, -np.inf], [np.inf, 1.0]]


def test_an_integer_action_that_is_not_finite_is_refused() -> None:
    """A plain conversion makes the lowest integer of NaN, which the environment would execute."""
    space = spaces.Box(-5, 5, (1,), np.int32)
    with pytest.raises(ValueError, match="not finite"):
        ActionCodec(space).to_env(th.tensor([[np.nan]]))
    with pytest.raises(ValueError, match="not finite"):
        in_dtype_of(space, [np.inf])


def test_a_dimension_of_zero_width_maps_to_zero_and_back_to_its_bound() -> None:
    codec = ActionCodec(spaces.Box(np.array([2.0, -1.0]), np.array([2.0, 1.0]), dtype=np.float64))
    assert codec.encode(th.tensor([[2.0, 0.5], [2.5, 0.5]])).tolist() == [[0.0, 0.5]] * 2
    assert codec.decode(th.tensor([[0.7, 0.5]])).tolist() == [[2.0, 0.5]]
    assert [edge.tolist() for edge in codec.bounds] == [[0.0, -1.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(3), 3, r"Row 0: \[3\] is not an action of Discrete\(3\)\.$"),
        (spaces.Discrete(3, start=1), 0, "is not an action of .* Its first action is 1 and not 0"),
        (spaces.Discrete(3, start=-1), 2, "is not an action of .* Its first action is -1"),
        (spaces.Discrete(3), 1.5, r"\[1\.5\] is not an action"),
        (spaces.Discrete(3), np.nan, r"\[nan\] is not an action"),
        (MANY, [6, 2], r"\[6, 2\] is not an action"),
        (MANY, [4, 0], r"\[4, 0\] is not an action"),
    ],
)
def test_numbered_actions_that_do_not_exist_are_named(space: Any, action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActionCodec(space).from_env(np.array([action]))


def test_whole_floats_are_discrete_actions() -> None:
    """Stable-Baselines3 stores some of them as floats."""
    assert ActionCodec(spaces.Discrete(3, start=1)).from_env(np.array([1.0, 3.0])).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_a_box_of_any_dtype_gets_actions_in_its_bounds() -> None:
    inside = in_dtype_of(spaces.Box(-1.0, 1.0, (2,), np.float64), np.array([0.25, 1.5], np.float32))
    assert (inside.tolist(), inside.dtype) == ([0.25, 1.0], np.float64)
    assert in_dtype_of(spaces.Box(0, 100, (1,), np.int8), np.array([[300], [-4]])).tolist() == [[100], [0]]
    assert in_dtype_of(spaces.Box(0, 1000, (1,), np.int64), np.array([100], np.int8)).tolist() == [100]
    assert in_dtype_of(spaces.Discrete(3), np.int32(2)) == 2


@pytest.mark.parametrize("planner", [CEM(population=300, iterations=6, returns="best"), ILQR()])
def test_the_value_that_a_plan_promises_is_paid(planner: Any) -> None:
    """The reward peaks at 2.9, so among whole numbers at 3."""

    def step(obs: th.Tensor, action: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        return obs, -((action[:, 0] - 2.9) ** 2), th.zeros(len(obs), dtype=th.bool)

    model = FunctionModel(spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(-5, 5, (1,), np.int64), step)
    policy: MPCPolicy[Any] = MPCPolicy(model, planner, horizon=1)
    action, _ = policy.predict(np.zeros(1, np.float32))
    assert action.tolist() == [3]
    assert policy.last_plan is not None
    assert float(policy.last_plan.value) == pytest.approx(-0.01, abs=1e-6)
