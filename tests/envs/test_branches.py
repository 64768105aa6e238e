from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers.envs import Branches
from mbrl_wrappers.types import Limits
from tests.envs.paths import Deck, NoisyModel, NoisyState, counting_model, drawn_levels


def streams(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def run(failures: np.ndarray, seeds: tuple[int, ...] = (1, 2, 3)) -> list[tuple[np.ndarray, np.ndarray]]:
    """Observations and rewards per step; ``failures (T, N)`` says which rows end when."""
    branches = Branches(NoisyModel(), drawn_levels, 3, horizon=1000)
    branches.use_streams(streams(*seeds))
    branches.restart()
    seen = []
    for failing in failures:
        result = branches.step(th.as_tensor(failing[:, None].astype(np.float32)))
        branches.restart(result.terminated)
        seen.append((result.obs, result.reward))
    return seen


def test_a_rows_draws_do_not_depend_on_which_others_ended() -> None:
    failures = np.zeros((12, 3), bool)
    failures[[3, 7], 1] = True
    alone = run(failures)
    failures[[0, 3, 5, 6], 0] = True
    failures[[2, 3, 4, 7, 9], 2] = True
    crowded = run(failures)
    for one, other in zip(alone, crowded, strict=True):
        np.testing.assert_array_equal(one[0][1], other[0][1])
        assert one[1][1] == other[1][1]
    members = [reward[1] for _, reward in alone]
    assert len(set(members)) == 3  # a new member with each new branch


def test_restarting_one_row_leaves_the_others_state_untouched() -> None:
    branches = Branches(NoisyModel(), drawn_levels, 3, horizon=1000)
    branches.use_streams(streams(1, 2, 3))
    branches.restart()
    before, obs = branches._state, branches.obs
    branches.restart(np.array([False, True, False]))
    after = branches._state
    for old, new in zip(before, after, strict=True):
        assert th.equal(old[[0, 2]], new[[0, 2]])
        assert not th.equal(old[1], new[1])
    np.testing.assert_array_equal(branches.obs[[0, 2]], obs[[0, 2]])


def test_the_same_streams_repeat_and_others_do_not() -> None:
    failures = np.zeros((5, 3), bool)
    failures[2, 0] = True
    first, again, other = run(failures), run(failures), run(failures, seeds=(4, 5, 6))
    for (obs, reward), (obs2, reward2), (obs3, _) in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(obs, obs2)
        np.testing.assert_array_equal(reward, reward2)
        assert (obs != obs3).all()


def test_equal_seeds_do_not_cancel() -> None:
    """Two rows with one seed: under xor, any such pair would come to the same stream as any other."""
    failures = np.zeros((3, 3), bool)
    rows = [run(failures, seeds=(seed, seed, 3)) for seed in (1, 2)]
    noise = [np.diff([obs[2, 0] for obs, _ in run_]) - run_[0][1][2] for run_ in rows]
    assert (noise[0] != noise[1]).all()
    # Nor does their order get lost.
    assert run(failures, seeds=(1, 2, 3))[0][1][2] != run(failures, seeds=(2, 1, 3))[0][1][2]


def test_a_given_state_stays_the_callers_own() -> None:
    model = counting_model()
    branches = Branches(model, Deck([]), 1, horizon=10)
    branches.use_streams(streams(0))
    state = model.reset(th.tensor([[7.0]]), generator=th.Generator())
    branches.restart(state=state)
    state.obs.fill_(50)
    np.testing.assert_array_equal(branches.step(th.zeros(1, 1)).obs, [[8]])


def test_two_restarts_without_a_step_draw_different_members() -> None:
    branches = Branches(NoisyModel(), drawn_levels, 1, horizon=5)
    branches.use_streams(streams(0))
    members = set()
    for _ in range(20):
        branches.restart()
        members.add(float(branches._state.member))
    assert len(members) == 20


def test_the_global_streams_are_not_touched() -> None:
    th.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = th.rand(1), np.random.rand()  # noqa: NPY002
    th.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    run(np.ones((3, 3), bool))
    assert (th.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_invalid_rows_keep_state_and_observation_and_are_counted() -> None:
    branches = Branches(counting_model(), Deck([1500.0, 5.0]), 2, horizon=10)
    branches.use_streams(streams(0, 1))
    branches.restart()
    result = branches.step(th.zeros(2, 1))
    np.testing.assert_array_equal(result.obs, [[1500], [6]])
    np.testing.assert_array_equal(result.reward, [0, 52])
    np.testing.assert_array_equal(result.invalid, [True, False])
    np.testing.assert_array_equal(result.truncated, [True, False])
    assert not result.terminated.any()
    assert branches.num_invalid == 1
    np.testing.assert_array_equal(branches._state.obs, [[1500], [6]])


def test_idle_rows_stay_where_they_are_and_grow_no_older() -> None:
    branches = Branches(counting_model(), Deck([3.0, 5.0]), 2, horizon=2)
    branches.use_streams(streams(0, 1))
    branches.restart()
    for step in (1, 2):
        result = branches.step(th.zeros(2, 1), idle=np.array([True, False]))
        np.testing.assert_array_equal(result.obs, [[3], [5 + step]])
        np.testing.assert_array_equal(result.reward, [0, 10 * (4 + step) + 2])  # 0 is 2 in [-2, 6]
        np.testing.assert_array_equal(branches.elapsed, [0, step])
        np.testing.assert_array_equal(result.truncated, [False, step == 2])


def test_limits_of_the_model_are_the_default_and_are_read_at_each_step() -> None:
    model = counting_model()
    branches = Branches(model, Deck([2500.0]), 1, horizon=10)
    branches.use_streams(streams(0))
    branches.restart()
    assert not branches.step(th.zeros(1, 1)).invalid[0]
    model.limits = Limits.of(th.zeros(1, 1), th.zeros(1))  # -1 to 1: fitted after the branches were made
    assert branches.step(th.zeros(1, 1)).invalid[0]
    wide = Limits(*(th.full(shape, bound) for shape, bound in [((1,), -1e9), ((1,), 1e9), ((), -1e9), ((), 1e9)]))
    branches = Branches(model, Deck([2500.0]), 1, horizon=10, limits=wide)
    branches.use_streams(streams(0))
    branches.restart()
    assert not branches.step(th.zeros(1, 1)).invalid[0]


def test_infinite_limits_do_not_let_infinity_pass() -> None:
    everything = Limits(*(th.full(shape, sign * th.inf) for shape, sign in [((1,), -1), ((1,), 1), ((), -1), ((), 1)]))
    model = counting_model()
    model._step_fn = lambda obs, action: (obs + th.inf, obs[:, 0], obs[:, 0] > 0)
    branches = Branches(model, Deck([1.0]), 1, horizon=10, limits=everything)
    branches.use_streams(streams(0))
    branches.restart()
    result = branches.step(th.zeros(1, 1))
    assert result.invalid[0]
    assert result.truncated[0]
    assert not result.terminated[0]  # what a diverged model says of failure is not believed either


def test_shown_observations_lie_in_a_bounded_space() -> None:
    model = counting_model()
    model.observation_space = spaces.Box(0.0, 3.0, (1,))
    branches = Branches(model, Deck([2.5]), 1, horizon=10)
    branches.use_streams(streams(0))
    branches.restart()
    assert branches.step(th.zeros(1, 1)).obs == 3
    assert float(branches._state.obs) == 3.5


def test_a_state_brings_its_observation_or_needs_one() -> None:
    model = counting_model()
    branches = Branches(model, Deck([0.0, 0.0]), 2, horizon=10)
    branches.use_streams(streams(0, 1))
    branches.restart()
    state = model.reset(th.tensor([[42.0]]), generator=th.Generator())
    branches.restart(np.array([False, True]), state=state)
    np.testing.assert_array_equal(branches.obs, [[0], [42]])
    with pytest.raises(ValueError, match="1 rows, but 2 are started"):
        branches.restart(state=state)
    with pytest.raises(ValueError, match="does not tell its observation"):
        branches.restart(state=NoisyState(th.zeros(2), th.zeros(2, 1)))


def test_a_prediction_of_the_wrong_shape_is_named() -> None:
    model = counting_model()
    model._step_fn = lambda obs, action: (obs, obs, obs[:, 0] > 0)
    branches = Branches(model, Deck([1.0, 1.0]), 2, horizon=10)
    branches.use_streams(streams(0, 1))
    branches.restart()
    with pytest.raises(ValueError, match=r"got \(\(2, 1\), \(2, 1\), \(2,\)\)"):
        branches.step(th.zeros(2, 1))


@pytest.mark.parametrize("horizon", [0, -1, 2.5, True, None])
def test_the_horizon_is_at_least_one(horizon) -> None:
    with pytest.raises(ValueError, match="horizon must be an integer of at least 1"):
        Branches(counting_model(), Deck([]), 1, horizon)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="FunctionModel"):
        Branches(lambda obs, action: obs, Deck([]), 1, 5)


def test_branches_go_on_from_their_state() -> None:
    """With draws at resets and steps, rows that end, and a change of the horizon."""

    def paths(branches: Branches, steps: int) -> np.ndarray:
        found = []
        for number in range(steps):
            failing = th.zeros(3, 1)
            failing[number % 3] = float(number % 4 == 0)
            result = branches.step(failing)
            branches.restart(result.terminated | result.truncated)
            found.append(np.concatenate([branches.obs[:, 0], result.reward, branches.elapsed]))
        return np.array(found)

    branches = Branches(NoisyModel(), drawn_levels, 3, horizon=9)
    branches.use_streams(streams(1, 2, 3))
    branches.restart()
    branches.horizon = 5
    paths(branches, 7)
    state = branches.state_dict()
    expected = paths(branches, 20)
    other = Branches(NoisyModel(), drawn_levels, 3, horizon=9)
    other.load_state_dict(state)
    np.testing.assert_array_equal(paths(other, 20), expected)
    # The streams of the rows are new ones, which the environment goes on with: nothing is seeded anew.
    again = Branches(NoisyModel(), drawn_levels, 3, horizon=9)
    again.load_state_dict(state)
    again.use_streams(again.rngs)
    np.testing.assert_array_equal(paths(again, 20), expected)
    with pytest.raises(ValueError, match="build the environment with the model and the number of rows"):
        Branches(NoisyModel(), drawn_levels, 2, horizon=9).load_state_dict(state)
    with pytest.raises(ValueError, match="are not those of a"):
        Branches(counting_model(), drawn_levels, 3, horizon=9).load_state_dict(state)


def test_branches_that_were_never_started_have_a_state() -> None:
    state = Branches(NoisyModel(), drawn_levels, 3, horizon=9).state_dict()
    other = Branches(NoisyModel(), drawn_levels, 3, horizon=4)
    other.load_state_dict(state)
    assert (other.started, other.horizon, other.rngs) == (False, 9, [])
