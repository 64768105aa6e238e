"""Counting: exact probabilities and values, both forms of a step, and everything else that takes a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import DtypeObservation, FlattenObservation
from stable_baselines3.common.evaluation import evaluate_policy

import mbrl_wrappers
from controllers import MPCPolicy, PlanningProblem, RandomShooting
from mbrl_wrappers import ModelEnv, ModelVectorEnv, TabularModel, TabularTransitions, Transitions, branched_rollout
from mbrl_wrappers.models.value_iteration import backward_induction, policy_value

LAKE = "FrozenLake-v1"


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def small(**arguments: Any) -> TabularModel:
    """Two states and two actions that begin at 1 and 5: action 5 of state 1 leads to 1, 1 and 2, and once ends in 2."""
    model = TabularModel(spaces.Discrete(2, start=1), spaces.Discrete(2, start=5), **arguments)
    model.add([1, 1, 1, 1], [5, 5, 5, 5], [1.0, 3.0, 5.0, 7.0], [1, 1, 2, 2], [False, False, False, True])
    model.add(2, 6, -1.0, 1, False)
    return model


def random_rows(env_id: str, count: int, seed: int) -> TabularTransitions:
    env = gymnasium.make(env_id)
    actions = np.random.default_rng(seed).integers(int(env.action_space.n), size=count)  # type: ignore[attr-defined]
    rows, (state, _) = [], env.reset(seed=seed)
    for action in actions:
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((state, action, reward, following, terminated))
        state = env.reset()[0] if terminated or truncated else following
    return TabularTransitions.of(*zip(*rows, strict=True))


def test_probabilities_and_rewards_are_what_was_counted() -> None:
    known = small(unseen_reward=-9.0).outcomes
    rows = list(zip(*(column.tolist() for column in known[1:6]), strict=True))
    assert rows == [
        (0, 0, False, 2.0, 0.5),
        (0, 1, False, 5.0, 0.25),
        (0, 1, True, 7.0, 0.25),
        (1, 0, False, -9.0, 1.0),  # never tried: stays
        (2, 1, False, -9.0, 1.0),
        (3, 0, False, -1.0, 1.0),
    ]
    assert known.tried.tolist() == [True, False, False, True]
    assert small().num_transitions == 5


def test_adding_one_by_one_is_adding_all_at_once() -> None:
    rows = random_rows(LAKE, 300, 1)
    at_once = TabularModel(spaces.Discrete(16), spaces.Discrete(4)).fit(rows)
    one_by_one = TabularModel(spaces.Discrete(16), spaces.Discrete(4))
    for row in zip(*rows, strict=True):
        one_by_one.add(*row)
    for name, column in at_once.outcomes._asdict().items():
        np.testing.assert_array_equal(column, getattr(one_by_one.outcomes, name))
    at_once.fit(rows)  # forgets first
    assert at_once.num_transitions == 300


def test_one_hot_rows_count_like_numbers() -> None:
    model = small()
    rows = Transitions(
        obs=model.encode([1, 2]),
        action=th.eye(2),
        reward=th.tensor([0.5, 2.0]),
        next_obs=model.encode([2, 2]),
        terminated=th.tensor([False, True]),
        last=th.tensor([False, True]),
    )
    numbered = TabularTransitions.of([1, 2], [5, 6], [0.5, 2.0], [2, 2], [False, True])
    first, second = (small().fit(data).outcomes for data in (rows, numbered))
    assert all(np.array_equal(*columns) for columns in zip(first, second, strict=True))


def test_draws_follow_the_counts_and_can_be_shared() -> None:
    model = small()
    obs, action = model.encode([1]).repeat(40_000, 1), th.tensor([[1.0, 0.0]]).repeat(40_000, 1)
    state = model.reset(obs, generator=generator())
    _, first = model.step(state, action, generator=generator(7))
    _, again = model.step(state, action, generator=generator(7))
    for reward, probability in ((2.0, 0.5), (5.0, 0.25), (7.0, 0.25)):
        assert (first.reward == reward).float().mean() == pytest.approx(probability, abs=0.01)
    assert th.equal(first.terminated, first.reward == 7)
    assert th.equal(model.decode(first.next_obs), th.where(first.reward == 2, 1, 2))
    assert th.equal(first.reward, again.reward)
    _, shared = model.step_shared(state, action, generator=generator(), groups=4)
    assert th.equal(shared.reward[:10_000].repeat(4), shared.reward)
    with pytest.raises(ValueError, match="equal blocks"):
        model.step_shared(state, action, generator=generator(), groups=3)


@pytest.mark.parametrize(("uniform", "last"), [(0.0, False), (1 - 2**-53, True)])
@pytest.mark.parametrize("outcomes", [3, 10, 49])
def test_extreme_draws_stay_within_their_pair(
    monkeypatch: pytest.MonkeyPatch, uniform: float, last: bool, outcomes: int
) -> None:
    """Cumulated thirds, tenths and forty-ninths do not sum to 1 exactly; every pair has its own successors."""
    model = TabularModel(spaces.Discrete(2 * outcomes), spaces.Discrete(1))
    for state in (0, 1, 2):
        following = np.arange(outcomes) + (outcomes if state == 1 else 0)
        model.add([state] * outcomes, [0] * outcomes, [0.0] * outcomes, following, [False] * outcomes)
    monkeypatch.setattr(th, "rand", lambda size, **options: th.full((size,), uniform, dtype=th.float64))
    state = model.reset(model.encode([0, 1, 2]), generator=generator())
    _, said = model.step(state, th.ones(3, 1), generator=generator())
    most = outcomes - 1 if last else 0
    assert said.next_obs.argmax(1).tolist() == [most, outcomes + most, most]


@pytest.mark.parametrize("form", ["sampled", "expected"])
def test_what_is_counted_later_is_known_in_the_next_step(form: Any) -> None:
    model = TabularModel(spaces.Discrete(2), spaces.Discrete(1), form=form, unseen_reward=-1.0)
    obs, action = model.encode([0]), th.ones(1, 1)

    def reward() -> float:
        return model.step(model.reset(obs, generator=generator()), action, generator=generator())[1].reward.item()

    rewards = [reward()]
    model.add(0, 0, 3.0, 1, False)
    rewards.append(reward())
    model.fit(TabularTransitions.of(0, 0, 5.0, 1, False))
    assert [*rewards, reward()] == [-1.0, 3.0, 5.0]


def test_an_expected_row_ends_only_when_nothing_goes_on() -> None:
    model = TabularModel(spaces.Discrete(1), spaces.Discrete(1), form="expected")
    model.add([0] * 4, [0] * 4, [1.0] * 4, [0] * 4, [True, True, True, False])
    state, steps = model.reset(model.encode([0]), generator=generator()), []
    for _ in range(21):
        state, said = model.step(state, th.ones(1, 1), generator=generator())
        steps.append((said.reward.item(), said.terminated.item()))
    assert steps[:3] == [(1.0, False), (0.25, False), (0.0625, False)]
    # 4 ** -19 is above 1e-12 and 4 ** -20 below.
    assert [ended for _, ended in steps] == [False] * 19 + [True] * 2


def test_the_expected_form_carries_the_distribution() -> None:
    model = small(form="expected")
    state = model.reset(model.encode([1]), generator=generator())
    state, said = model.step(state, th.tensor([[1.0, 0.0]]), generator=generator())
    assert said.next_obs.tolist() == [[0.5, 0.5]]
    assert said.reward.tolist() == [0.5 * 2 + 0.25 * 5 + 0.25 * 7]
    assert said.terminated.tolist() == [False]
    assert state.belief.tolist() == [[0.5, 0.25]]  # a quarter is over
    _, said = model.step(state, th.tensor([[0.0, 1.0]]), generator=generator())
    assert said.next_obs.tolist() == [[0.75, 0.0]]
    assert said.reward.tolist() == [-0.25]


def test_expected_returns_of_a_plan_are_exact() -> None:
    """FrozenLake: a matrix product per step, and the mean of many samples."""
    env = gymnasium.make(LAKE)
    true = TabularModel.from_env(env, form="expected")
    actions = np.random.default_rng(0).integers(4, size=(5, 30))
    one_hot = th.nn.functional.one_hot(th.as_tensor(actions), 4).float()[None]
    scores = PlanningProblem(true, true.encode([0]), 30).score(one_hot)[0]
    mdp = true.mdp()
    for plan, score in zip(actions, scores.tolist(), strict=True):
        belief, total = np.eye(16)[0], 0.0
        for action in plan:
            total += belief @ mdp.reward[:, action]
            belief = belief @ mdp.transition[np.arange(16) * 4 + action].toarray()
        assert score == pytest.approx(total, abs=1e-6)
    sampled = PlanningProblem(TabularModel.from_env(env), true.encode([0]), 30, particles=20_000).score(one_hot)[0]
    assert sampled.numpy() == pytest.approx(scores.numpy(), abs=0.012)


def test_certain_ends_end_in_both_forms() -> None:
    env = gymnasium.make("mbrl_wrappers/DynaMaze-v0")
    for form in ("sampled", "expected"):
        model = TabularModel.from_env(env, form=form)
        state = model.reset(model.encode([17, 18]), generator=generator())  # below the goal, and the start
        _, said = model.step(state, th.eye(4)[[0, 0]], generator=generator())
        assert model.decode(said.next_obs).tolist() == [8, 9]
        assert said.reward.tolist() == [1.0, 0.0]
        assert said.terminated.tolist() == [True, False]


@pytest.mark.parametrize("env_id", [LAKE, "CliffWalking-v1", "Taxi-v4"])
def test_value_iteration_solves_the_linear_equations(env_id: str) -> None:
    gamma = 0.95
    mdp = TabularModel.from_env(gymnasium.make(env_id)).mdp()
    solution = TabularModel.from_env(gymnasium.make(env_id)).value_iteration(gamma, tolerance=1e-12)
    states = np.arange(len(mdp.reward))
    matrix = mdp.transition[states * mdp.reward.shape[1] + solution.policy].toarray()
    value = np.linalg.solve(np.eye(len(states)) - gamma * matrix, mdp.reward[states, solution.policy])
    np.testing.assert_allclose(solution.value, value, atol=1e-9)
    np.testing.assert_allclose(mdp.lookahead(value, gamma).max(1), value, atol=1e-9)  # no action is better
    assert solution.residual <= 1e-12


def test_the_lake_has_its_known_optimum() -> None:
    mdp = TabularModel.from_env(gymnasium.make(LAKE)).mdp()
    values, actions = backward_induction(mdp, 100)
    assert values[100, 0] == pytest.approx(0.744190, abs=5e-7)
    assert actions.shape == (100, 16)
    optimal = TabularModel.from_env(gymnasium.make(LAKE)).value_iteration(1.0, tolerance=1e-9)
    assert policy_value(mdp, optimal.policy, 100)[0] == pytest.approx(0.7402, abs=5e-5)


def test_the_lake_is_learned_from_random_steps() -> None:
    env = gymnasium.make(LAKE)
    model = TabularModel(env.observation_space, env.action_space).fit(random_rows(LAKE, 100_000, 0))
    policy = model.value_iteration(0.999)
    assert policy_value(TabularModel.from_env(env).mdp(), policy.policy, 100)[0] > 0.735
    mean, _ = evaluate_policy(policy, env, 20, warn=False)  # type: ignore[arg-type]
    assert 0.4 <= mean <= 1


def test_values_that_do_not_settle_are_no_answer() -> None:
    model = TabularModel(spaces.Discrete(1), spaces.Discrete(1))
    model.add(0, 0, 1.0, 0, False)
    with pytest.raises(ValueError, match="still change by 1 after 50 sweeps"):
        model.value_iteration(1.0, max_iterations=50)
    assert model.value_iteration(0.5).value.tolist() == pytest.approx([2.0])


def test_only_what_was_tried_is_chosen_unless_allowed() -> None:
    model = TabularModel(spaces.Discrete(2), spaces.Discrete(2, start=3))
    model.add(0, 3, -1.0, 1, True)
    careful, bold = model.value_iteration(0.9), model.value_iteration(0.9, tried_only=False)
    assert careful.policy[0] == 3
    assert careful.value.tolist() == [-1.0, 0.0]
    assert bold.policy[0] == 4  # staying costs nothing, or so an untried self-loop says
    assert careful.predict(0)[0] == 3
    assert careful.predict(np.array([0, 0]))[0].tolist() == [3, 3]
    for wrong in (-1, 2, np.array([0, 2])):
        with pytest.raises(ValueError, match="numbered 0 to 1"):
            careful.predict(wrong)
        with pytest.raises(ValueError, match="numbered 0 to 1"):
            model.encode(wrong)


def test_it_is_an_environment() -> None:
    env = gymnasium.make(LAKE)
    model = TabularModel.from_env(env)
    starts = model.encode([0]).numpy()
    check_env(ModelEnv(model, starts, 20), skip_render_check=True)
    vector = ModelVectorEnv(model, starts, 50, 20)
    vector.reset(seed=0)
    obs, *_ = vector.step(np.full(50, 2))
    assert set(obs.argmax(1)) == {0, 1, 4}
    real = DtypeObservation(FlattenObservation(env), np.float32)
    assert real.observation_space == model.observation_space
    np.testing.assert_array_equal(real.reset(seed=0)[0], starts[0])


def test_rollouts_and_planners_take_it() -> None:
    maze = gymnasium.make("mbrl_wrappers/DynaMaze-v0")
    model = TabularModel.from_env(maze)
    near = model.encode([35])  # three steps below the goal

    def up(obs: th.Tensor, *, generator: th.Generator) -> th.Tensor:
        return th.eye(4)[[0]].repeat(len(obs), 1)

    rollout = branched_rollout(model, up, near, 5, generator=generator())
    assert model.decode(rollout.transitions.next_obs).tolist() == [26, 17, 8]
    assert rollout.transitions.terminated.tolist() == [False, False, True]
    policy = MPCPolicy(model, RandomShooting(200), horizon=3, discount=0.9)
    action, _ = policy.predict(np.array([35]))
    assert action.tolist() == [0]


@pytest.mark.parametrize("form", ["sampled", "expected"])
def test_a_saved_model_predicts_the_same(tmp_path: Path, form: Any) -> None:
    model = small(form=form, unseen_reward=-2.0)
    loaded = mbrl_wrappers.load(mbrl_wrappers.save(model, tmp_path / "table"))
    assert isinstance(loaded, TabularModel)
    assert (loaded.form, loaded.unseen_reward, loaded.state_space) == (form, -2.0, model.state_space)
    obs, action = model.encode([1, 2, 1, 2]), th.eye(2)[[0, 0, 1, 1]]
    first, second = (
        each.step(each.reset(obs, generator=generator()), action, generator=generator()) for each in (model, loaded)
    )
    assert all(th.equal(*pair) for pair in zip(first[1], second[1], strict=True))
    loaded.add(1, 6, 0.0, 1, False)
    assert loaded.num_transitions == 6


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [
        ("key", 0, -1),
        ("key", 0, 99),
        ("key", 1, 0),  # twice the same
        ("key", -1, 16),  # one more than the last of 2 * 2 * 2 * 2
        ("weight", 0, 0.0),
        ("weight", 0, -1.0),
        ("weight", 0, float("inf")),
        ("reward_sum", 0, float("nan")),
    ],
)
def test_counts_of_other_spaces_are_refused(name: str, row: int, value: float) -> None:
    config, tensors = small().to_checkpoint()
    assert TabularModel.from_checkpoint(config, tensors).num_transitions == 5
    tensors[name][row] = value
    with pytest.raises(ValueError, match="damaged"):
        TabularModel.from_checkpoint(config, tensors)


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Box(0, 1, (2,)), spaces.Discrete(2), "TabularObservation"),
        (spaces.Discrete(2), spaces.Box(0, 1, (2,)), "SAC, TD3 or PPO"),
        (spaces.MultiDiscrete([2, 2]), spaces.Discrete(2), "gymnasium.ObservationWrapper"),
        (spaces.Discrete(2), spaces.MultiBinary(2), "gymnasium.ActionWrapper"),
    ],
)
def test_other_spaces_are_refused_with_advice(observation: Any, action: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        TabularModel(observation, action)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0, 5, 0.0, 1, False), "^state 0 lies outside of its space, which is numbered 1 to 2"),
        ((1, 7, 0.0, 1, False), "^action 7 lies outside of its space, which is numbered 5 to 6"),
        ((1, 5, 0.0, 3, False), "^next_state 3 lies outside"),
        ((1, 5, float("nan"), 1, False), "finite"),
        ((1.5, 5, 0.0, 1, False), "^state must hold whole numbers"),
        ((1, 5.0, 0.0, 1, False), "^action must hold whole numbers"),
        ((1, 5, 0.0, 1.0, False), "^next_state must hold whole numbers"),
        ((True, 5, 0.0, 1, False), "^state must hold whole numbers"),
        ((np.uint64(2**64 - 1), 5, 0.0, 1, False), "^state must hold numbers of at most"),
        ((1, 5, "1.0", 1, False), "rewards must be numbers"),
        ((1, 5, 1j, 1, False), "rewards must be numbers"),
        ((1, 5, 0.0, 1, float("nan")), "terminated must be true or false"),
        ((1, 5, 0.0, 1, 0.7), "terminated must be true or false"),
        ((1, 5, 0.0, 1, "False"), "terminated must be true or false"),
        (([1, 1], 5, 0.0, 1, False), "one length"),
    ],
)
def test_impossible_rows_are_refused(row: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small().add(*row)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
def test_a_refused_fit_forgets_nothing(reward: float) -> None:
    model = small()
    before = model.outcomes
    rows = TabularTransitions(*(np.array([value] * 3) for value in (1, 5, 0.0, 1, False)))
    rows.reward[1] = reward
    with pytest.raises(ValueError, match=rf"rewards must be finite: row 1 has {reward}"):
        model.fit(rows)
    assert model.num_transitions == 5
    assert all(np.array_equal(*columns) for columns in zip(model.outcomes, before, strict=True))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("obs", th.full((2, 2), 0.5)),
        ("obs", th.eye(3)[:2]),
        ("next_obs", th.zeros(2, 2)),
        ("next_obs", th.full((2, 2), float("nan"))),
        ("next_obs", th.tensor([[2.0, -1.0], [1.0, 0.0]])),
        ("action", th.eye(3)[:2]),
        ("action", th.ones(2, 2)),
    ],
)
def test_rows_to_fit_must_be_one_hot(column: str, value: th.Tensor) -> None:
    flags = th.zeros(2, dtype=th.bool)
    rows = Transitions(th.eye(2), th.eye(2), th.zeros(2), th.eye(2), flags, flags)
    small().fit(rows)
    with pytest.raises(ValueError, match=rf"^{column} must hold one-hot rows \(B, 2\)"):
        small().fit(rows._replace(**{column: value}))


def test_a_start_of_another_width_is_refused() -> None:
    for form in ("sampled", "expected"):
        for obs in (th.eye(3), th.zeros(2), th.zeros(1, 1)):
            with pytest.raises(ValueError, match=r"one-hot rows \(B, 2\)"):
                small(form=form).reset(obs, generator=generator())


@pytest.mark.parametrize("wrong", [1.0, 1.5, "1", [[1, 2]], 0, 3, [1, 3], True, np.uint64(2**64 - 1)])
def test_numbers_that_are_no_states_are_refused_everywhere(wrong: Any) -> None:
    model = small()
    for use in (model.encode, model.value_iteration(0.9).predict):
        with pytest.raises(ValueError, match="state|whole numbers"):
            use(wrong)


def test_a_number_is_encoded_whatever_its_dtype() -> None:
    model = small()
    for number in (2, np.int8(2), np.uint8(2), np.uint64(2), np.array(2), [2], th.tensor([2])):
        assert model.encode(number).tolist() == [[0.0, 1.0]]


def shifted(observation_start: int, action_start: int) -> TabularModel:
    """FrozenLake counted with other numbers."""
    rows = random_rows(LAKE, 500, 3)
    model = TabularModel(spaces.Discrete(16, start=observation_start), spaces.Discrete(4, start=action_start))
    model.add(
        rows.state + observation_start,
        rows.action + action_start,
        rows.reward,
        rows.next_state + observation_start,
        rows.terminated,
    )
    return model


@pytest.mark.parametrize(("observation_start", "action_start"), [(1, 0), (0, 1), (1, 1), (-3, -7), (10**12, 5)])
def test_where_numbers_begin_changes_nothing(observation_start: int, action_start: int, tmp_path: Path) -> None:
    plain, model = shifted(0, 0), shifted(observation_start, action_start)
    model = mbrl_wrappers.load(mbrl_wrappers.save(model, tmp_path / "shifted"))
    assert all(np.array_equal(*columns) for columns in zip(plain.outcomes, model.outcomes, strict=True))
    solved, solution = plain.value_iteration(0.9), model.value_iteration(0.9)
    np.testing.assert_array_equal(solution.policy, solved.policy + action_start)
    states = np.arange(16)
    np.testing.assert_array_equal(
        solution.predict(states + observation_start)[0], solved.predict(states)[0] + action_start
    )
    _, actions = backward_induction(model.mdp(), 5)
    np.testing.assert_array_equal(actions, backward_induction(plain.mdp(), 5)[1] + action_start)
    np.testing.assert_array_equal(
        policy_value(model.mdp(), solution.policy, 9), policy_value(plain.mdp(), solved.policy, 9)
    )
    starts = plain.encode([4]).numpy()
    assert model.decode(th.as_tensor(starts)).tolist() == [4 + observation_start]
    envs = [ModelEnv(each, starts, 20) for each in (plain, model)]
    for env in envs:
        env.reset(seed=0)
    steps = [env.step(np.int64(2 + start)) for env, start in zip(envs, (0, action_start), strict=True)]
    np.testing.assert_array_equal(steps[0][0], steps[1][0])
    assert steps[0][1:3] == steps[1][1:3]


class Tabled(gymnasium.Env[Any, Any]):
    """Two states and one action, with any table."""

    def __init__(self, table: Any, start: int = 0) -> None:
        self.observation_space, self.action_space = spaces.Discrete(2, start=start), spaces.Discrete(1, start=start)
        self.P = table


def test_a_table_of_shifted_spaces_is_read_in_their_numbers() -> None:
    table = {-1: {-1: [(1.0, 0, 2.0, False)]}, 0: {-1: [(0.5, -1, 3.0, True), (0.5, 0, 5.0, False)]}}
    model = TabularModel.from_env(Tabled(table, start=-1))
    assert model.mdp().reward.tolist() == [[2.0], [4.0]]
    assert model.outcomes.next_state.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("table", "start", "words"),
    [
        ([[[(1.0, 0, 0.0, False)]]], 0, "no outcomes .* for state 1 and action 0"),
        ([[[(1.0, 0, 0.0, False)]], [[]]], 0, "state 1 and action 0 are .*not 1 in sum"),
        ([[[(0.5, 0, 0.0, False)]], [[(1.0, 0, 0.0, False)]]], 0, r"state 0 and action 0 are \[0.5\]"),
        ([[[(float("nan"), 0, 0.0, False)]], [[(1.0, 0, 0.0, False)]]], 0, r"state 0 and action 0 are \[nan\]"),
        ([[[(2.0, 0, 0.0, False), (-1.0, 1, 0.0, False)]], [[(1.0, 0, 0.0, False)]]], 0, "not 1 in sum"),
        ([[[(1.0, 0, float("nan"), False)]], [[(1.0, 0, 0.0, False)]]], 0, "rewards must be finite: row 0 has nan"),
        ([[[(1.0, 7, 0.0, False)]], [[(1.0, 0, 0.0, False)]]], 0, "next_state 7 lies outside"),
        ([[[(1.0, 0)]], [[(1.0, 0, 0.0, False)]]], 0, "no outcomes .* for state 0"),
        ([[[(1.0, -1, 0.0, False)]], [[(1.0, -1, 0.0, False)]]], -1, "no outcomes .* for state -1"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: Any, start: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TabularModel.from_env(Tabled(table, start))


def test_other_wrong_uses_are_refused() -> None:
    with pytest.raises(ValueError, match="form must be one of"):
        small(form="mean")
    with pytest.raises(TypeError, match="no table P"):
        TabularModel.from_env(gymnasium.make("CartPole-v1"))
