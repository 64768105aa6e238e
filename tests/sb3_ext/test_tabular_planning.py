"""Planning updates by hand: what is drawn, what it changes, and that compiled code does the same."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from mbrl_wrappers import TabularModel
from sb3_ext.agents import DynaQ, DynaQPlus, PrioritizedSweeping
from sb3_ext.agents.planning_memory import PlanningMemory, Tables, remember, views
from sb3_ext.agents.prioritized_sweeping import PriorityQueue
from sb3_ext.agents.uniform_planning import PLAIN, plan

MAZE = "mbrl_wrappers/DynaMaze-v0"


class Chain(gymnasium.Env[Any, Any]):
    """States 10 to 13 in a row: action 5 stays, 6 goes on and pays 1 for the last step, which ends."""

    def __init__(self) -> None:
        self.observation_space = spaces.Discrete(4, start=10)
        self.action_space = spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 10
        return self.place, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.place += int(action) - 5
        over = self.place == 13
        return self.place, float(over), over, False, {}


def memory(kept: int = 1, states: int = 3, actions: int = 2) -> tuple[Tables, th.Tensor]:
    q = th.zeros(states, actions, dtype=th.float64)
    return views(PlanningMemory(states, actions, kept).arrays(q)), q


def test_what_is_remembered() -> None:
    tables, _ = memory()
    assert not remember(tables, 1, pair=3, state=1, reward=2.0, next_state=2, alive=1.0)
    remember(tables, 1, pair=0, state=0, reward=0.5, next_state=1, alive=1.0)
    remember(tables, 1, pair=2, state=1, reward=7.0, next_state=0, alive=0.0)
    assert remember(tables, 1, pair=3, state=1, reward=4.0, next_state=0, alive=1.0)  # something else than before
    assert tables.size.tolist() == [2, 4]
    assert tables.visited.tolist()[:2] == [1, 0]
    assert tables.tried.tolist() == [0, 0, 1, 0, 0, 0]  # state 1 knows action 1, then 0
    assert tables.num_tried.tolist() == [1, 2, 0]
    assert tables.tries.tolist() == [1, 0, 1, 2, 0, 0]
    assert tables.last_try.tolist() == [2, 0, 3, 4, 0, 0]
    assert (tables.reward[3], tables.next_state[3], tables.alive[3]) == (4.0, 0, 1.0)  # the newest counts


def test_planning_draws_states_first_and_then_their_actions() -> None:
    tables, q = memory()
    q[2] = 9.0  # where the last pair ends: worth nothing all the same
    remember(tables, 1, pair=0, state=0, reward=1.0, next_state=1, alive=1.0)
    remember(tables, 1, pair=2, state=1, reward=2.0, next_state=0, alive=1.0)
    remember(tables, 1, pair=3, state=1, reward=4.0, next_state=2, alive=0.0)
    # Rows: a half of the states is state 0, then a half of state 1's actions is action 0.
    draws = [0.49, 0.99, 0.0, 0.5, 0.49, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]
    total = plan(tables, draws, 2, 1, 0.5, 0.9, PLAIN)
    first = 0.5 * 1.0  # pair 0: state 1 is worth nothing yet
    second = 0.5 * (2.0 + 0.9 * first)  # pair 2 leads to state 0
    third = 0.5 * 4.0  # pair 3 ends
    fourth = first + 0.5 * (1.0 + 0.9 * third - first)
    assert q.tolist() == [[fourth, 0.0], [second, third], [9.0, 9.0]]
    assert total == pytest.approx(1.0 + 2 * second + 4.0 + 2 * (fourth - first))


def test_planning_draws_are_uniform_over_states() -> None:
    """A state with one known action is drawn as often as one with four."""
    tables, q = memory(states=2, actions=4)
    for pair in (0, 4, 5, 6, 7):
        remember(tables, 1, pair, pair // 4, 1.0, 0, 0.0)
    plan(tables, np.random.default_rng(0).random(3 * 40_000).tolist(), 4, 1, 1e-9, 0.9, PLAIN)
    share = q / q.sum()
    np.testing.assert_allclose(share.numpy(), [[0.5, 0, 0, 0], [0.125] * 4], atol=0.01)


def test_one_of_the_kept_outcomes_is_drawn() -> None:
    tables, q = memory(kept=3)
    for reward in (1.0, 2.0, 3.0, 4.0):  # the first gives way
        remember(tables, 3, 0, 0, reward, 1, 0.0)
    seen = []
    for number in (0.0, 0.34, 0.67, 0.999):
        q.zero_()
        plan(tables, [0.0, 0.0, number], 2, 3, 1.0, 0.9, PLAIN)
        seen.append(q[0, 0].item())
    assert seen == [4.0, 2.0, 3.0, 3.0]


def test_plus_pays_for_time_and_allows_what_was_never_tried() -> None:
    tables, q = memory()
    q[0, 0] = 3.0
    remember(tables, 1, pair=0, state=0, reward=1.0, next_state=1, alive=1.0)
    for _ in range(4):
        remember(tables, 1, pair=2, state=1, reward=0.0, next_state=1, alive=1.0)
    plan(tables, [0.0, 0.99, 0.0], 2, 1, 0.5, 0.9, 0.1)  # action 1 of state 0: never tried
    assert q[0, 1].item() == 0.5 * (0.1 * math.sqrt(5) + 0.9 * 3.0)
    plan(tables, [0.0, 0.0, 0.0], 2, 1, 0.5, 0.9, 0.1)  # action 0: tried four steps ago
    assert q[0, 0].item() == 3.0 + 0.5 * (1.0 + 0.1 * math.sqrt(4) - 3.0)


def one_step(agent: DynaQ | PrioritizedSweeping, action: int, *, at: int = 10) -> None:
    """One real step with a chosen action, by a coin that says so."""
    agent.env.envs[0].unwrapped.place = at  # type: ignore[union-attr]
    agent._explore = lambda state, coin, pick: action - 5  # type: ignore[method-assign]
    agent._last_obs = np.array([at])
    agent.learn(1, reset_num_timesteps=False)


def test_one_q_update_by_hand() -> None:
    agent = DynaQ("TabularPolicy", Chain(), learning_rate=0.5, gamma=0.9, planning_steps=0, seed=0)
    agent.learn(0)
    agent.policy.q_table[:] = th.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    one_step(agent, 6, at=11)
    assert agent.policy.q_table[1].tolist() == [2.0, 3.0 + 0.5 * (0.9 * 5.0 - 3.0)]
    one_step(agent, 6, at=12)  # the end is worth nothing, whatever the table says of its state
    assert agent.policy.q_table[2].tolist() == [4.0, 5.0 + 0.5 * (1.0 - 5.0)]
    rows = agent.known_transitions()
    assert [tuple(row) for row in zip(*(column.tolist() for column in rows), strict=True)] == [
        (11, 6, 0.0, 12, False),
        (12, 6, 1.0, 13, True),
    ]


def test_a_time_limit_is_no_end() -> None:
    env = gymnasium.wrappers.TimeLimit(Chain(), 1)
    agent = DynaQ("TabularPolicy", env, learning_rate=1.0, gamma=0.5, planning_steps=0, seed=0)
    agent.policy.q_table[:] = 8.0
    agent.learn(1)
    assert sorted(agent.policy.q_table[0].tolist()) == [4.0, 8.0]
    assert not agent.known_transitions().terminated.any()


def test_sweeping_carries_a_surprise_back_at_once() -> None:
    agent = PrioritizedSweeping("TabularPolicy", Chain(), 1.0, 0.5, planning_steps=3, seed=0)
    agent.learn(0)
    for place in (10, 11):
        one_step(agent, 6, at=place)
    assert not agent.policy.q_table.any()
    assert agent.num_planning_updates == 0  # nothing to expect, nothing to do
    one_step(agent, 6, at=12)
    assert agent.policy.q_table[:, 1].tolist() == [0.25, 0.5, 1.0, 0.0]
    assert agent.num_planning_updates == 3
    one_step(agent, 5, at=12)  # staying is worth half of going
    assert agent.policy.q_table[2].tolist() == [0.5, 1.0]


def test_errors_are_summed_without_their_signs() -> None:
    tables, q = memory()
    q[0, 0] = 4.0
    remember(tables, 1, pair=0, state=0, reward=1.0, next_state=1, alive=0.0)
    remember(tables, 1, pair=2, state=1, reward=2.0, next_state=1, alive=0.0)
    assert plan(tables, [0.0, 0.0, 0.0, 0.5, 0.0, 0.0], 2, 1, 0.5, 0.9, PLAIN) == 3.0 + 2.0


def test_sweeping_aims_at_the_mean_of_what_is_kept() -> None:
    agent = PrioritizedSweeping("TabularPolicy", Chain(), 1.0, 0.5, planning_steps=1, outcomes_kept=3, seed=0)
    agent.learn(0)
    agent.policy.q_table[2] = 8.0
    values = []
    for reward, following, terminated in ((1.0, 2, False), (7.0, 2, True), (0.0, 0, False), (4.0, 2, True)):
        agent._learn_from(1, 0, reward, following, terminated)
        values.append(agent.policy.q_table[1, 0].item())
    # 1 + 0.5 * 8; then with 7; then with 0; then 4 in place of the first.
    assert values == [5.0, 6.0, 4.0, pytest.approx(11 / 3)]


def test_a_pair_that_ends_in_a_state_does_not_lead_to_it() -> None:
    agent = PrioritizedSweeping("TabularPolicy", Chain(), 1.0, 0.5, planning_steps=9, seed=0)
    agent.learn(0)
    agent._learn_from(1, 1, 0.0, 2, False)
    agent._learn_from(3, 1, 0.0, 2, True)
    assert agent._leading_to(2) == [3]
    agent._learn_from(2, 0, 1.0, 0, True)
    assert agent.policy.q_table.tolist() == [[0.0, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, 0.0]]


def test_sweeping_leaves_small_errors_alone() -> None:
    agent = PrioritizedSweeping("TabularPolicy", Chain(), 1.0, 0.5, planning_steps=9, threshold=0.25, seed=0)
    agent.learn(0)
    agent._learn_from(1, 1, 0.0, 2, False)
    agent._learn_from(2, 0, 0.25, 0, True)  # exactly the threshold
    assert not agent.policy.q_table.any()
    agent._learn_from(2, 0, 0.5, 0, True)  # a half of it for the pair before is the threshold again
    assert agent.policy.q_table[:, 0].tolist() == [0.0, 0.0, 0.5, 0.0]
    assert agent.num_planning_updates == 1


def test_logged_errors_are_means_since_the_last_row() -> None:
    agent = DynaQ("TabularPolicy", Chain(), learning_rate=0.5, gamma=0.5, planning_steps=2, seed=0)
    agent.learn(0)
    seen: list[dict[str, float]] = []
    agent.logger.dump = lambda step=0: (
        seen.append(dict(agent.logger.name_to_value)) or agent.logger.name_to_value.clear()
    )  # type: ignore[func-returns-value, method-assign]
    agent._learn_from(0, 0, -8.0, 0, True)  # 0 -> -4, then -6 and -7 in planning
    agent.dump_logs()
    assert (seen[0]["train/td_error"], seen[0]["train/planning_td_error"]) == (8.0, (4.0 + 2.0) / 2)
    agent._learn_from(0, 0, -8.0, 0, True)
    agent._learn_from(0, 0, -8.0, 0, True)
    agent.dump_logs()
    assert seen[1]["train/td_error"] == (1.0 + 0.125) / 2
    assert seen[1]["train/planning_td_error"] == (0.5 + 0.25 + 0.0625 + 0.03125) / 4
    assert (seen[1]["train/n_updates"], seen[1]["train/known_pairs"]) == (3, 1)


def test_sweeping_forgets_the_way_that_closed() -> None:
    agent = PrioritizedSweeping("TabularPolicy", Chain(), 1.0, 0.5, planning_steps=30, seed=0)
    agent.learn(0)
    for place in (10, 11, 12):
        one_step(agent, 6, at=place)
    agent._learn_from(1, 1, 0.0, 1, False)  # 11 now stays where it is
    assert agent.policy.q_table[1, 1].item() == pytest.approx(0.0, abs=1e-2)
    assert agent._leading_to(2) == []
    assert agent._leading_to(1) == [1, 3]


def test_the_queue_gives_the_highest_and_then_the_oldest() -> None:
    queue = PriorityQueue()
    for pair, priority in ((1, 0.5), (2, 2.0), (3, 2.0), (1, 3.0), (2, 1.0)):
        queue.push(pair, priority)
    assert len(queue) == 3
    assert [queue.pop() for _ in range(3)] == [1, 2, 3]
    assert len(queue) == 0


def test_the_queue_agrees_with_a_sorted_list_and_stays_small() -> None:
    """Many priorities are equal and many are raised; pairs come back after they were taken out."""
    rng, queue = np.random.default_rng(0), PriorityQueue()
    known: dict[int, tuple[float, int]] = {}  # minus the priority, the time of the entry that counts
    largest = 0
    for time in range(20_000):
        if known and rng.random() < 0.3:
            expected = min(known, key=lambda pair: known[pair])
            assert queue.pop() == expected
            del known[expected]
        else:
            pair, priority = int(rng.integers(50)), float(rng.integers(1, 30) / 4)
            queue.push(pair, priority)
            if pair not in known or priority > -known[pair][0]:
                known[pair] = (-priority, time)
        assert len(queue) == len(known)
        assert len(queue._heap) <= 2 * len(queue)
        largest = max(largest, len(queue))
    assert largest > 30


def test_a_pair_that_comes_back_stands_behind_equal_ones() -> None:
    queue = PriorityQueue()
    for pair, priority in ((1, 0.5), (1, 3.0)):
        queue.push(pair, priority)
    assert queue.pop() == 1
    for pair in (2, 1):
        queue.push(pair, 0.5)
    assert [queue.pop(), queue.pop()] == [2, 1]


def test_the_queue_keeps_only_what_it_is_told_to() -> None:
    queue = PriorityQueue()
    for pair, priority in ((1, 0.5), (2, 2.0), (3, 1.0), (3, 4.0)):
        queue.push(pair, priority)
    queue.keep({1, 2})
    assert [queue.pop(), queue.pop(), len(queue), len(queue._heap)] == [2, 1, 0, 0]


@pytest.mark.parametrize("planning_steps", [1, 5])
def test_the_heap_of_a_sweeping_agent_is_bounded(planning_steps: int) -> None:
    agent = PrioritizedSweeping("TabularPolicy", "CliffWalking-v1", planning_steps=planning_steps, seed=1)
    sizes: list[tuple[int, int]] = []
    agent.learn(2500, callback=lambda *_: sizes.append((len(agent.queue._heap), len(agent.queue))) or True)
    assert max(pairs for _, pairs in sizes) > 50
    assert all(entries <= 2 * pairs for entries, pairs in sizes)


def test_parameters_of_another_agent_leave_no_unknown_pairs_in_the_queue() -> None:
    agent, fresh = (PrioritizedSweeping("TabularPolicy", "CliffWalking-v1", planning_steps=1, seed=1) for _ in range(2))
    agent.learn(1500)
    assert len(agent.queue) > 0
    agent.set_parameters(agent.get_parameters())
    assert len(agent.queue) > 0
    agent.set_parameters(fresh.get_parameters())
    assert len(agent.queue) == 0
    agent.learn(10, reset_num_timesteps=False)
    assert agent.memory.size[1] == 10


def test_without_planning_it_is_q_learning_exactly() -> None:
    """Against a loop of a few lines that shares nothing but the stream of uniform numbers."""
    agent = DynaQ("TabularPolicy", MAZE, planning_steps=0, seed=4)
    agent.learn(6000)
    draws, _ = map(np.random.default_rng, np.random.SeedSequence(4).spawn(2))
    env, q = gymnasium.make(MAZE), np.zeros((54, 4))
    state, _ = env.reset()
    for _ in range(6000):
        coin, pick = draws.random(2)
        ties = np.flatnonzero(q[state] == q[state].max())
        action = int(pick * 4) if coin < 0.1 else int(ties[int(pick * len(ties))])
        following, reward, terminated, _, _ = env.step(action)  # type: ignore[arg-type]
        q[state, action] += 0.1 * (float(reward) + 0.95 * (not terminated) * q[following].max() - q[state, action])
        state = env.reset()[0] if terminated else following
    np.testing.assert_array_equal(agent.policy.q_table.numpy(), q)
    assert q.max() > 0.5


def test_a_tabular_model_can_be_made_of_what_was_learned() -> None:
    agent = DynaQ("TabularPolicy", MAZE, seed=0).learn(3000)
    model = TabularModel(agent.observation_space, agent.action_space).fit(agent.known_transitions())
    true = TabularModel.from_env(gymnasium.make(MAZE))
    pairs = np.flatnonzero(model.outcomes.tried)
    for name in ("next_state", "reward", "terminated"):
        np.testing.assert_array_equal(getattr(model.outcomes, name)[pairs], getattr(true.outcomes, name)[pairs])


@pytest.mark.parametrize("agent_class", [DynaQ, DynaQPlus])
@pytest.mark.filterwarnings("ignore:.*this environment is stochastic")
@pytest.mark.parametrize("kept", [1, 5])
def test_compiled_planning_is_equal_bit_for_bit(agent_class: type[DynaQ], kept: int) -> None:
    pytest.importorskip("numba")
    tables = [
        agent_class("TabularPolicy", "FrozenLake-v1", seed=1, outcomes_kept=kept, compiled=compiled).learn(2000)
        for compiled in (False, True)
    ]
    assert th.equal(*(agent.policy.q_table for agent in tables))
    assert tables[0].policy.q_table.any()
