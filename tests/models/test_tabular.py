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
from safetensors import torch as safetensors_torch
from stable_baselines3.common.evaluation import evaluate_policy

import mbrl_wrappers
from controllers import MPCPolicy, PlanningProblem, RandomShooting
from mbrl_wrappers import ModelEnv, ModelVectorEnv, TabularModel, TabularTransitions, Transitions, branched_rollout
from mbrl_wrappers.models.value_iteration import backward_induction, policy_value
from mbrl_wrappers.storage.file_format import CheckpointError

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


def test_extreme_draws_stay_within_their_pair() -> None:
    # Ten thirds: cumulated probabilities that do not sum to 1 exactly.
    model = TabularModel(spaces.Discrete(3), spaces.Discrete(2))
    model.add([0] * 3, [0] * 3, [1.0] * 3, [0, 1, 2], [False] * 3)
    tables = model._tables
    for uniform, row in ((0.0, 0), (1 - 2**-53, 2)):
        found = th.searchsorted(tables.edge, th.tensor([0.0], dtype=th.float64) + uniform, right=True)
        assert found.clamp(tables.first[0], tables.first[1] - 1).item() == row
    assert (tables.edge[:3] <= 1).all()


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
        with pytest.raises(ValueError, match="no state of"):
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


@pytest.mark.parametrize("damage", [{"key": -1}, {"key": 99}, {"weight": 0.0}, {"reward_sum": float("nan")}])
def test_counts_of_other_spaces_are_refused(damage: dict[str, float]) -> None:
    config, tensors = small().to_checkpoint()
    for name, value in damage.items():
        tensors[name][0] = value
    with pytest.raises(ValueError, match="damaged"):
        TabularModel.from_checkpoint(config, tensors)


def test_a_claim_of_huge_spaces_takes_no_memory(tmp_path: Path) -> None:
    model = small()
    model.state_space = spaces.Discrete(2**40)
    with pytest.raises(CheckpointError, match="more than 10,000,000 entries"):
        mbrl_wrappers.load(mbrl_wrappers.save(model, tmp_path / "huge"))
    assert safetensors_torch.load_file(tmp_path / "huge.safetensors")["model.key"].dtype == th.int64


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
        ((0, 5, 0.0, 1, False), "state lies outside"),
        ((1, 7, 0.0, 1, False), "action lies outside"),
        ((1, 5, 0.0, 3, False), "next_state lies outside"),
        ((1, 5, float("nan"), 1, False), "finite"),
        ((1.5, 5, 0.0, 1, False), "whole numbers"),
        (([1, 1], 5, 0.0, 1, False), "one length"),
    ],
)
def test_impossible_rows_are_refused(row: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small().add(*row)


def test_other_wrong_uses_are_refused() -> None:
    with pytest.raises(ValueError, match="form must be one of"):
        small(form="mean")
    with pytest.raises(TypeError, match="no table P"):
        TabularModel.from_env(gymnasium.make("CartPole-v1"))
