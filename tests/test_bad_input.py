"""Whatever comes in, a sentence or finite numbers come out: spaces, dtypes, sizes, horizons, endings at random."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from mbrl_wrappers import TransitionStore, branched_rollout
from mbrl_wrappers.comparable import comparable
from mbrl_wrappers.envs import ModelEnv, ModelVectorEnv
from mbrl_wrappers.models.function import FunctionModel
from mbrl_wrappers.types import Limits
from sb3_ext import MixedReplayBuffer

SAME = {"deadline": None, "derandomize": True, "phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}
FEW, MORE = settings(max_examples=20, **SAME), settings(max_examples=60, **SAME)  # type: ignore[arg-type]
FAULTS = ("none", "number", "number", "shape", "dtype", "bounds")

BOUNDS = [(-1.0, 1.0), (-0.4, 0.4), (-2.0, 5.0), (0.0, 0.0), (-np.inf, np.inf), (0.0, np.inf), (-1e30, 1e30)]
FLOATS = st.sampled_from([np.float32, np.float64])
ODD = st.sampled_from([np.nan, np.inf, -np.inf, 1e39, -1e300, 3.4e38])


@st.composite
def boxes(draw: Any, dtypes: Any = FLOATS) -> spaces.Box:
    pairs = draw(st.lists(st.sampled_from(BOUNDS), min_size=1, max_size=3))
    low, high = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    dtype = draw(dtypes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


ACTIONS = st.one_of(
    boxes(),
    st.builds(spaces.Discrete, st.integers(1, 4), start=st.integers(-2, 3)),
    st.builds(lambda n: spaces.MultiDiscrete(n), st.lists(st.integers(1, 3), min_size=1, max_size=2)),
    st.just(spaces.Box(-2, 3, (2,), np.int64)),
    st.just(spaces.MultiBinary(2)),
)
OTHERS = st.sampled_from(
    [
        spaces.Dict({"a": spaces.Box(-1, 1, (2,))}),
        spaces.Tuple([spaces.Box(-1, 1, (2,))]),
        spaces.Text(3),
        spaces.Box(0, 255, (8, 8, 3), np.uint8),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(-1, 1, (0,)),
    ]
)


def refused(work: Callable[[], Any]) -> tuple[str, Any]:
    """The sentence with which ``work`` is refused, empty if it is not, and what it returned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "", work()
        except (TypeError, ValueError) as error:
            text = str(error).rstrip()
    if len(text.split()) < 5 or text[-1] not in ".)!?'":
        pytest.fail(f"This is no sentence: {text!r}")
    return text, None


def model_of(observation: spaces.Box, action: spaces.Space, ends: set[int], broken: dict[int, float]) -> FunctionModel:
    """Counts its steps in no observation; terminates and breaks at given numbers of calls."""
    calls = [0]

    def step(obs: th.Tensor, taken: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        calls[0] += 1
        low, high = (th.as_tensor(side, dtype=obs.dtype) for side in (observation.low, observation.high))
        following = (0.5 * obs).clamp(low, high)
        if calls[0] in broken:
            following = following.clone()
            following[0, 0] = th.tensor(broken[calls[0]], dtype=th.float64).to(obs.dtype)
        reward = th.full((len(obs),), 0.25, dtype=obs.dtype)
        return following, reward, th.full((len(obs),), calls[0] in ends)

    return FunctionModel(observation, action, step)


def inside(space: spaces.Box, count: int, seed: int = 0) -> np.ndarray:
    low, high = np.maximum(space.low, -3.0), np.minimum(space.high, 3.0)
    return np.random.default_rng(seed).uniform(low, high, (count, *space.shape)).astype(space.dtype)


@FEW
@given(observation=boxes(), action=ACTIONS, horizon=st.integers(2, 6))
def test_a_model_is_an_environment_that_the_checkers_pass(
    observation: spaces.Box, action: spaces.Space, horizon: int
) -> None:
    model_env = lambda: ModelEnv(model_of(observation, action, set(), {}), inside(observation, 5), horizon)  # noqa: E731
    text, env = refused(model_env)
    if text:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)
        if not np.any(getattr(action, "start", 0)):  # SB3 refuses numbers that do not begin at 0
            sb3_check_env(env)


@FEW
@given(observation=st.one_of(boxes(), OTHERS), action=st.one_of(ACTIONS, OTHERS), count=st.integers(-1, 3))
def test_spaces_are_taken_or_refused_with_a_sentence(
    observation: spaces.Space, action: spaces.Space, count: int
) -> None:
    assume(not (isinstance(observation, spaces.Box) and isinstance(action, spaces.Box) and count > 0))
    for build in (
        lambda: TransitionStore(count, observation, action),
        lambda: MixedReplayBuffer(max(count, 1), observation, action),
        lambda: FunctionModel(observation, action, lambda obs, taken: (obs, obs[:, 0], obs[:, 0] > 9)),
    ):
        refused(build)


@FEW
@given(
    observation=boxes(), horizon=st.integers(-1, 5), rows=st.integers(0, 4),
    ends=st.sets(st.integers(1, 20)), broken=st.dictionaries(st.integers(1, 20), ODD, max_size=5),
)  # fmt: skip
def test_no_environment_of_a_model_shows_a_number_that_is_not_finite(
    observation: spaces.Box, horizon: int, rows: int, ends: set[int], broken: dict[int, float]
) -> None:
    action = spaces.Box(-1, 1, (1,))
    starts = inside(observation, 5)
    one, env = refused(lambda: ModelEnv(model_of(observation, action, ends, broken), starts, horizon))
    many, vec = refused(lambda: ModelVectorEnv(model_of(observation, action, ends, broken), starts, rows, horizon))
    assert (bool(one), bool(many)) == (horizon < 1, horizon < 1 or rows < 1)
    if one or many:
        return
    obs, _ = env.reset(seed=0)
    shown = [obs]
    for _ in range(12):
        obs, reward, terminated, truncated, _ = env.step(action.sample())
        shown += [obs, np.array(reward)]
        if terminated or truncated:
            shown.append(env.reset()[0])
    obs, _ = vec.reset(seed=0)
    shown.append(obs)
    for _ in range(12):
        obs, reward, _, _, infos = vec.step(np.zeros((rows, 1), np.float32))
        shown += [obs, reward, *(np.stack([row]) for row in infos.get("final_obs", []) if row is not None)]
    assert all(np.isfinite(array.astype(np.float64)).all() for array in shown)


@pytest.mark.parametrize("action", [np.nan, np.inf, [[0.1]], "x", None], ids=str)
def test_no_model_is_stepped_with_an_action_that_is_none(action: Any) -> None:
    space = spaces.Box(-1, 1, (1,))
    env = ModelEnv(model_of(space, space, set(), {}), inside(space, 2), 5)
    env.reset(seed=0)
    assert refused(lambda: env.step(np.array([action]) if isinstance(action, float) else action))[0]


@st.composite
def columns(draw: Any, count: int, size: int, faults: tuple[str, ...] = FAULTS) -> dict[str, np.ndarray]:
    """Steps of ``count`` environments, some with a number, a shape or a dtype that does not belong."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    given_columns: dict[str, np.ndarray] = {
        "obs": rng.normal(size=(count, size)),
        "action": rng.uniform(-1, 1, (count, 2)),
        "reward": rng.normal(size=count),
        "next_obs": rng.normal(size=(count, size)),
        "terminated": rng.random(count) < 0.2,
        "truncated": rng.random(count) < 0.2,
    }
    fault = draw(st.sampled_from(faults))
    name = draw(st.sampled_from(["obs", "action", "reward", "next_obs"]))
    if fault == "number":
        given_columns[name].flat[draw(st.integers(0, given_columns[name].size - 1))] = draw(ODD)
    elif fault == "shape":
        given_columns[name] = given_columns[name][..., :0]
    elif fault == "dtype":
        given_columns[name] = draw(
            st.sampled_from([given_columns[name].astype(str), given_columns[name].astype(object)])
        )
    elif fault == "bounds":
        given_columns["action"][0, 0] = draw(st.sampled_from([-1.5, 7.0]))
    return given_columns


@MORE
@given(data=st.data(), dtype=FLOATS, envs=st.integers(1, 3), capacity=st.integers(1, 7))
def test_a_store_takes_finite_numbers_or_nothing(data: Any, dtype: Any, envs: int, capacity: int) -> None:
    store = TransitionStore(capacity, spaces.Box(-9, 9, (3,), dtype), spaces.Box(-1, 1, (2,)), envs)
    for _ in range(4):
        given_columns = data.draw(columns(envs, 3))
        before, seen = comparable(store.transitions()), store.steps_seen
        text, _ = refused(lambda given_columns=given_columns: store.add(**given_columns))
        if not text:
            assert store.steps_seen == seen + 1
            continue
        assert (comparable(store.transitions()), store.steps_seen) == (before, seen)
        floats = [array for array in given_columns.values() if array.dtype.kind == "f"]
        if not all(np.isfinite(array).all() for array in floats):
            assert f"Step {seen} of environment" in text
    rows = store.transitions()
    assert all(column.isfinite().all() for column in (rows.obs, rows.action, rows.reward, rows.next_obs))
    assert len(store) == rows.num_rows == min(store.steps_seen, store.steps_kept) * envs


@MORE
@given(data=st.data(), dtype=FLOATS, envs=st.integers(1, 3))
def test_a_replay_buffer_takes_finite_numbers_or_nothing(data: Any, dtype: Any, envs: int) -> None:
    buffer = MixedReplayBuffer(12, spaces.Box(-9, 9, (3,), dtype), spaces.Box(-1, 1, (2,)), n_envs=envs, device="cpu")
    for _ in range(4):
        c = data.draw(columns(envs, 3, ("none", "number")))
        before = buffer.size()
        infos = [{"TimeLimit.truncated": bool(flag)} for flag in c["truncated"]]
        step = (c["obs"], c["next_obs"], c["action"], c["reward"], c["terminated"], infos)
        text, _ = refused(lambda step=step: buffer.add(*step))
        assert buffer.size() == before + (not text)
        assert not text or "environment" in text
    if buffer.size():
        batch = buffer.sample(16)
        assert all(part.isfinite().all() for part in batch[:5])
        rows = buffer.real_transitions()
        assert all(column.isfinite().all() for column in (rows.obs, rows.action, rows.reward, rows.next_obs))


@MORE
@given(
    observation=boxes(), rows=st.integers(0, 5), length=st.integers(-1, 6),
    ends=st.sets(st.integers(1, 6)), broken=st.dictionaries(st.integers(1, 6), ODD, max_size=3),
    lost=st.sets(st.integers(1, 6), max_size=2), limited=st.booleans(),
)  # fmt: skip
def test_a_rollout_holds_finite_rows_and_counts_those_it_dropped(
    observation: spaces.Box, rows: int, length: int, ends: set[int], broken: dict[int, float], lost: set[int],
    limited: bool,
) -> None:  # fmt: skip
    model = model_of(observation, spaces.Box(-1, 1, (1,)), ends, broken)
    starts = th.as_tensor(inside(observation, rows))
    number = [0]

    def policy(obs: th.Tensor, *, generator: th.Generator) -> th.Tensor:
        number[0] += 1
        action = th.zeros(len(obs), 1)
        if number[0] in lost:
            action[-1] = th.nan
        return action

    limits = Limits.none(observation.shape[0]) if not limited else None
    stream = th.Generator().manual_seed(0)
    text, rollout = refused(lambda: branched_rollout(model, policy, starts, length, generator=stream, limits=limits))
    assert bool(text) == (rows == 0 or length < 1)
    if text:
        return
    t = rollout.transitions
    assert all(column.isfinite().all() for column in (t.obs, t.action, t.reward, t.next_obs))
    # Branches run until they end, are dropped, or are long enough: counted by hand, step by step.
    alive, stored, dropped = rows, 0, 0
    for step in range(1, length + 1):
        if not alive:
            break
        bad = broken.get(step)
        wrong = bad is not None and not abs(bad) <= float(np.finfo(t.obs.numpy().dtype).max)
        gone = {0} if wrong else set()
        gone |= {alive - 1} if step in lost else set()
        dropped += len(gone)
        stored += alive - len(gone)
        alive = 0 if step in ends else alive - len(gone)
    assert (t.num_rows, rollout.num_dropped) == (stored, dropped)
    assert int(t.last.sum()) == len(rollout.branch.unique())


def test_files_hold_no_number_that_is_not_finite(tmp_path: Path) -> None:
    store = TransitionStore(4, spaces.Box(-9, 9, (1,)), spaces.Box(-1, 1, (1,)))
    for number in (0.0, np.nan, 1.0, np.inf):
        text, _ = refused(lambda number=number: store.add([number], [0.0], number, [number + 1], False, False))
        assert np.isfinite(number) != ("environment 0" in text)
    kept = TransitionStore.load(store.save(tmp_path / "store")).transitions()
    assert kept.num_rows == 2
    assert kept.obs.isfinite().all()


@pytest.mark.parametrize("reward", [1, True, np.float64(1), np.int64(1), np.array(1.0), np.array(1)], ids=repr)
def test_rewards_of_every_kind_are_numbers(reward: Any) -> None:
    store = TransitionStore(4, spaces.Box(-9, 9, (1,)), spaces.Box(-1, 1, (1,)))
    store.add([0.0], [0.0], reward, [1.0], False, False)
    kept = store.transitions().reward
    assert (kept.dtype, kept.tolist()) == (th.float32, [1.0])


def test_a_reward_that_float32_cannot_hold_never_reaches_an_agent() -> None:
    buffer = MixedReplayBuffer(4, spaces.Box(-9, 9, (1,)), spaces.Box(-1, 1, (1,)), n_envs=2, device="cpu")
    obs, action, done = np.zeros((2, 1)), np.zeros((2, 1)), np.zeros(2, bool)
    for _ in range(5):
        buffer.add(obs, obs, action, np.array([0.5, 1.0]), done, [{}, {}])
    with pytest.raises(ValueError, match=r"reward of environment step 5 is not finite at index \[1\]"):
        buffer.add(obs, obs, action, np.array([0.5, 1e39]), done, [{}, {}])
    assert buffer.sample(8).rewards.isfinite().all()
