"""Tree search as a policy: the subtree that lives on, environments side by side, and no look into the future."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from controllers import MCTS, MPCPolicy, MPCState, Outcomes, Rollouts, root_statistics, search_trees
from controllers.search.node import Node, reachable
from controllers.search.roots import TreeMemory
from mbrl_wrappers import ClonedEnvModel, EnsembleDynamics, FunctionModel, TabularModel
from tests.controllers.search.small_tasks import LINE


def counting_model() -> FunctionModel:
    """Walks right by 1 or 2 and pays the number it leaves when it took the longer step."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + 1 + action[:, None], obs[:, 0] * action, obs[:, 0] > 1000

    return FunctionModel(LINE, spaces.Discrete(2), step)


def counts(root: Node) -> list[tuple[object, ...]]:
    """Everything counted below ``root``, by depth and observation."""
    return sorted(
        (node.depth - root.depth, node.obs, node.visits, [(edge.visits, edge.value) for edge in node.edges])
        for node in reachable(root)
    )


def trees(state: MPCState) -> list[TreeMemory]:
    assert state.warm_start.memory is not None
    return list(state.warm_start.memory)  # type: ignore[arg-type]


def test_the_next_search_begins_with_the_subtree_of_what_was_done() -> None:
    policy = MPCPolicy(counting_model(), MCTS(simulations=60), horizon=6)
    action, state = policy.predict(np.array([0.0], np.float32))
    (memory,) = trees(state)
    child = memory.shifted(1).arrived(np.float32(1 + action).tobytes())
    assert child is not None
    before = counts(memory.tree.root)
    carried = memory.tree.below(child, lambda numbers: numbers, memory.tree.rng)
    assert counts(carried.root) == counts(child)
    assert all(node.depth >= 0 for node in reachable(carried.root))
    kept = child.visits
    _, again = policy.predict(np.array([1.0 + action], np.float32), state)
    assert policy.last_plan is not None
    assert root_statistics(policy.last_plan).visits.sum() == kept + 60
    assert policy.last_plan.report.warm_start_value.item() == pytest.approx(child.mean)
    assert counts(memory.tree.root) == before  # the state that was passed in is as it was
    assert trees(again)[0].tree is not memory.tree


def test_another_observation_another_planner_and_no_reuse_start_afresh() -> None:
    first = np.array([0.0], np.float32)
    for planner, shown in ((MCTS(simulations=40), 7.0), (MCTS(simulations=40, reuse=False), None)):
        policy = MPCPolicy(counting_model(), planner, horizon=4)
        action, state = policy.predict(first)
        policy.predict(np.array([1.0 + action if shown is None else shown], np.float32), state)
        assert root_statistics(policy.last_plan).visits.sum() == 40  # type: ignore[arg-type]
    other = MPCPolicy(counting_model(), MCTS(simulations=41), horizon=4)
    other.predict(np.array([1.0 + action], np.float32), state)
    assert root_statistics(other.last_plan).visits.sum() == 41  # type: ignore[arg-type]


def test_chunks_skip_as_many_levels() -> None:
    policy = MPCPolicy(counting_model(), MCTS(simulations=80), horizon=5, execute=2)
    obs, state = np.array([0.0], np.float32), None
    for _ in range(2):
        action, state = policy.predict(obs, state)
        obs = obs + 1 + action
    planned = search_trees(policy.last_plan)[0]  # type: ignore[arg-type]
    child = (
        TreeMemory(planned, None, (0, 0), 2, None)
        ._replace(  # type: ignore[arg-type]
            actions=tuple(policy.last_plan.actions[0].argmax(-1).tolist())  # type: ignore[union-attr]
        )
        .arrived(obs.astype(np.float32).tobytes())
    )
    assert child is not None
    policy.predict(obs, state)
    assert root_statistics(policy.last_plan).visits.sum() == child.visits + 80  # type: ignore[arg-type]


def test_rows_that_begin_an_episode_forget_and_others_do_not() -> None:
    policy = MPCPolicy(counting_model(), MCTS(simulations=30), horizon=4)
    obs = np.array([[0.0], [5.0], [9.0]], np.float32)
    action, state = policy.predict(obs)
    arrived = obs + 1 + action[:, None]
    _, after = policy.predict(arrived, state, np.array([False, True, False]))
    visits = root_statistics(policy.last_plan).visits.sum(1).tolist()  # type: ignore[arg-type]
    assert visits[1] == 30
    assert visits[0] > 30
    assert visits[2] > 30
    again, _ = policy.predict(arrived, state, np.array([False, True, False]))
    assert root_statistics(policy.last_plan).visits.sum(1).tolist() == visits  # type: ignore[arg-type]
    fresh, _ = policy.predict(arrived, state, np.array([True, True, True]))
    assert root_statistics(policy.last_plan).visits.sum(1).tolist() == [30, 30, 30]  # type: ignore[arg-type]
    assert again.shape == fresh.shape == (3,)
    assert len(trees(after)) == 3


def test_seeds_repeat_and_differ() -> None:
    model = TabularModel.from_env(gym.make("FrozenLake-v1"))

    def visits(seed: int) -> list[list[int]]:
        policy = MPCPolicy(model, MCTS(simulations=60, batch=3), horizon=20, seed=seed)
        policy.predict(np.array([4, 14]))
        return root_statistics(policy.last_plan).visits.tolist()  # type: ignore[arg-type]

    assert visits(1) == visits(1)
    assert visits(1) != visits(2)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "FrozenLake-v1"])
def test_the_live_environment_does_not_notice(env_id: str) -> None:
    env, twin = gym.make(env_id), gym.make(env_id)
    obs, _ = env.reset(seed=3)
    twin.reset(seed=3)
    policy = MPCPolicy(ClonedEnvModel(env), MCTS(simulations=20), horizon=10)
    state = None
    for _ in range(3):
        action, state = policy.predict(obs, state)
        obs, *result = env.step(int(action))
        expected, *wanted = twin.step(int(action))
        np.testing.assert_array_equal(obs, expected)
        assert result == wanted


def test_a_copied_environment_that_draws_is_seen_to_draw() -> None:
    envs = [gym.make("FrozenLake-v1"), gym.make("FrozenLake-v1")]
    obs = np.array([env.reset(seed=seed)[0] for seed, env in enumerate(envs)])
    kinds = {}
    for reseed in (True, False):
        policy = MPCPolicy(ClonedEnvModel(envs, reseed=reseed), MCTS(simulations=30, batch=5), horizon=8)
        policy.predict(obs)
        planned = search_trees(policy.last_plan)  # type: ignore[arg-type]
        kinds[reseed] = [tree.outcomes for tree in planned]
        several = [len(edge.outcomes) > 1 for tree in planned for edge in tree.root.edges]
        assert any(several) == reseed
    assert kinds == {True: ["drawn", "drawn"], False: ["one", "one"]}


def test_the_ice_is_crossed_where_it_is_dry() -> None:
    envs = DummyVecEnv([lambda: Monitor(gym.make("FrozenLake-v1", is_slippery=False))] * 2)
    model = TabularModel.from_env(envs.envs[0])
    # With a discount it does not put off what can be had now.
    policy = MPCPolicy(model, MCTS(simulations=120, batch=8, backup="best"), horizon=12, discount=0.95)
    mean, _ = evaluate_policy(policy, envs, 2, warn=False)
    assert mean == 1.0


def test_slippery_ice_is_valued_by_its_chances() -> None:
    # The optimum within 30 steps, by backward induction: 0.387 from state 4 by going left, 0.275 by the next best.
    model = TabularModel.from_env(gym.make("FrozenLake-v1"))
    planner = MCTS(simulations=800, batch=10, exploration=2.0, backup="best", rollouts=Rollouts(4))
    policy = MPCPolicy(model, planner, horizon=30)
    action, _ = policy.predict(np.array([4, 4, 4, 4]))
    assert action.tolist() == [0, 0, 0, 0]
    assert 0.25 < float(policy.last_plan.value.mean()) < 0.45  # type: ignore[union-attr]


def test_a_learned_ensemble_can_be_searched() -> None:
    space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    for propagation, kind in (("ts1", "widening"), ("tsinf", "widening"), ("mean", "one")):
        model = EnsembleDynamics(space, spaces.Discrete(2), hidden=(8,), propagation=propagation)  # type: ignore[arg-type]
        policy = MPCPolicy(model, MCTS(simulations=16, batch=4), horizon=4)
        action, _ = policy.predict(np.zeros((2, 3), np.float32))
        assert action.shape == (2,)
        assert search_trees(policy.last_plan)[0].outcomes == kind, propagation  # type: ignore[arg-type]


def test_merging_by_observation_is_a_choice_for_copied_environments() -> None:
    env = gym.make("FrozenLake-v1", is_slippery=False)
    obs, _ = env.reset(seed=0)
    sizes = {}
    for merge in ("state", "observation"):
        planner = MCTS(simulations=150, exploration=5.0, outcomes=Outcomes(merge=merge))  # type: ignore[arg-type]
        policy = MPCPolicy(ClonedEnvModel(env), planner, horizon=6)
        policy.predict(obs)
        sizes[merge] = len(list(reachable(search_trees(policy.last_plan)[0].root)))  # type: ignore[arg-type]
    assert sizes["observation"] < 60 < sizes["state"]


def test_a_continuous_action_space_names_other_planners() -> None:
    env = gym.make("Pendulum-v1")
    obs, _ = env.reset(seed=0)
    with pytest.raises(TypeError, match="ICEM"):
        MPCPolicy(ClonedEnvModel(env), MCTS(), horizon=5).predict(obs)


def test_states_are_gathered_in_any_order() -> None:
    from controllers.search.state_pool import StatePool
    from mbrl_wrappers.objects import Objects
    from tests.controllers.search.small_tasks import Place

    pool: StatePool[Place] = StatePool(Place(th.zeros(1, 2)))
    numbers = [*pool.add(Place(th.arange(6.0).view(3, 2))), *pool.add(Place(10 + th.arange(4.0).view(2, 2)))]
    assert numbers == [0, 1, 2, 3, 4]
    assert pool.take([4, 0, 0]).obs.tolist() == [[12.0, 13.0], [0.0, 1.0], [0.0, 1.0]]
    things: StatePool[Objects[str]] = StatePool(Objects(["x"]))
    things.add(Objects(["a", "b"]))
    assert list(things.take([1, 0, 1])) == ["b", "a", "b"]
