"""Searches that can be followed by hand, and what must hold in all of them."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import Tensor

from controllers import MCTS, CVaR, Outcomes, PlanningProblem, Rollouts, root_statistics, search_trees
from controllers.search.node import Node, SearchTree, reachable
from mbrl_wrappers import FunctionModel, Prediction
from tests.controllers.search.small_tasks import LINE, GamblesModel, generator, plan, two_step_model

NO_ROLLOUTS = Rollouts(0)


def uct_by_hand(simulations: int, exploration: float) -> tuple[list[int], list[float]]:
    """UCT in the binary tree, again in plain lists: untried actions in order, leaves worth nothing before a reward."""
    visits, total = {s: [0, 0] for s in (0, 1, 2)}, {s: [0.0, 0.0] for s in (0, 1, 2)}
    low, high = math.inf, -math.inf

    def choose(s: int) -> int:
        if 0 in visits[s]:
            return visits[s].index(0)
        spread = high - low
        scores = [
            ((total[s][a] / visits[s][a] - low) / spread if spread > 0 else 0)
            + exploration * math.sqrt(math.log(sum(visits[s])) / visits[s][a])
            for a in (0, 1)
        ]
        return int(np.argmax(scores))

    seen: set[int] = set()
    for _ in range(simulations):
        path, s = [], 0
        while s < 3 and (s == 0 or s in seen):
            a = choose(s)
            path.append((s, a))
            s = 2 * s + 1 + a
        seen.add(s)
        value = float(s) if s >= 3 else 0.0
        for node, a in reversed(path):
            visits[node][a] += 1
            total[node][a] += value
            mean = total[node][a] / visits[node][a]
            low, high = min(low, mean), max(high, mean)
    return visits[0], [total[0][a] / visits[0][a] for a in (0, 1)]


class InOrder:
    """Random draws that leave everything in order and never break a tie for the later one."""

    def shuffle(self, things: list[object]) -> None:
        things.reverse()  # untried actions are taken from the end

    def random(self) -> float:
        return 1.0

    def choice(self, things: list[object]) -> object:
        return things[0]


@pytest.mark.parametrize("simulations", [1, 2, 3, 4, 6, 7, 20, 100])
@pytest.mark.parametrize("exploration", [0.1, math.sqrt(2)])
def test_visits_and_values_are_those_counted_by_hand(
    simulations: int, exploration: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controllers.search.roots.random", SimpleNamespace(Random=lambda _: InOrder()))
    planner = MCTS(simulations=simulations, exploration=exploration, rollouts=NO_ROLLOUTS)
    found = root_statistics(plan(two_step_model(), planner))
    if simulations == 1:
        assert found.visits.tolist() == [[1, 0]]
        return
    visits, values = uct_by_hand(simulations, exploration)
    assert found.visits.tolist() == [visits]
    th.testing.assert_close(found.values, th.tensor([values]))


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("backup", ["mean", "best"])
def test_the_best_leaf_is_found(batch: int, backup: str) -> None:
    found = plan(two_step_model(), MCTS(simulations=100, batch=batch, backup=backup))  # type: ignore[arg-type]
    assert found.actions.argmax(-1).tolist() == [[1, 1]]
    assert root_statistics(found).visits.sum() == 100
    if backup == "best":
        assert root_statistics(found).values.tolist() == [[4.0, 6.0]]
        assert found.value.tolist() == [6.0]
    assert found.candidates.argmax(-1).tolist() == [[[0, 1], [1, 1]]]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_rewards_changes_nothing(scale: float) -> None:
    planner = MCTS(simulations=50, rollouts=Rollouts(2))
    unit, scaled = (plan(two_step_model(factor), planner) for factor in (1.0, scale))
    assert root_statistics(unit).visits.tolist() == root_statistics(scaled).visits.tolist()
    th.testing.assert_close(root_statistics(unit).values * scale, root_statistics(scaled).values)


def test_values_are_normalised_over_the_whole_tree() -> None:
    tree = SearchTree(Node(0, b"", False), "one", InOrder())  # type: ignore[arg-type]
    tree.open(tree.root, 2, None)
    for edge, visits, value in zip(tree.root.edges, (3, 1), (12.0, 10.0), strict=True):
        edge.visits, edge.value = visits, value
    tree.root.untried, tree.root.visits = [], 4
    tree.low, tree.high = 10.0, 14.0
    # 0.5 + c sqrt(ln 4 / 3) against 0 + c sqrt(ln 4): even at c = 1.004.
    even = 0.5 / (math.sqrt(math.log(4)) * (1 - math.sqrt(1 / 3)))
    assert tree.select(tree.root, even * 0.99, False).action == 0
    tree.root.pending = tree.root.edges[0].pending = 0
    assert tree.select(tree.root, even * 1.01, False).action == 1


def test_a_gamble_is_worth_its_expectation() -> None:
    # Where it arrives is seen: 1 pays 1 to action 0, 2 pays 2 to action 1, so the gamble is worth 1.5.
    for backup, exploration in (("mean", 0.5), ("best", math.sqrt(2))):
        planner = MCTS(simulations=2000, batch=4, exploration=exploration, backup=backup)  # type: ignore[arg-type]
        found = plan(GamblesModel(), planner)
        assert search_trees(found)[0].outcomes == "drawn"
        values = root_statistics(found).values[0]
        assert values[0] == pytest.approx(0.4)
        assert values[1] == pytest.approx(1.5, abs=0.12 if backup == "mean" else 0.06)
        outcomes = search_trees(found)[0].root.edges[1].outcomes.values()
        assert sorted(np.frombuffer(o.node.obs, np.float32)[0] for o in outcomes) == [1.0, 2.0]


def test_an_expectation_over_one_step_is_met_within_sampling_error() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs, action.float(), th.ones(len(obs), dtype=th.bool)

    class Coin(FunctionModel):
        def step(self, state, action, *, generator):  # type: ignore[no-untyped-def]
            state, prediction = super().step(state, action, generator=generator)
            return state, prediction._replace(reward=(th.rand(len(action), generator=generator) < 0.3).float())

    found = root_statistics(plan(Coin(LINE, spaces.Discrete(2), step), MCTS(simulations=4000, batch=50), horizon=1))
    error = 4 * math.sqrt(0.21 / found.visits.min())
    assert (found.values - 0.3).abs().max() < error


def test_one_action_one_step_one_simulation() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + 1, obs[:, 0] + 1, th.zeros(len(obs), dtype=th.bool)

    model = FunctionModel(LINE, spaces.Discrete(1), step)
    found = plan(model, MCTS(simulations=1), horizon=1)
    assert found.value.tolist() == [1.0]
    assert found.actions.tolist() == [[[1.0]]]
    found = plan(model, MCTS(simulations=30), horizon=4, discount=0.5)
    assert found.value.tolist() == [pytest.approx(1 + 1 + 0.75 + 0.5)]
    assert max(node.depth for node in reachable(search_trees(found)[0].root)) == 4


def test_nothing_counts_after_a_termination() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + 1, th.ones(len(obs)), action == 0

    model = FunctionModel(LINE, spaces.Discrete(2), step)
    found = root_statistics(plan(model, MCTS(simulations=200, backup="best"), horizon=5, terminal_reward=-3.0))
    assert found.values[0, 0] == -2.0
    assert found.values[0, 1] == pytest.approx(5.0, abs=1.0)
    all_end = FunctionModel(LINE, spaces.Discrete(2), lambda obs, a: (obs, a.float(), th.ones(len(obs)) > 0))
    assert root_statistics(plan(all_end, MCTS(simulations=9), horizon=5)).values.tolist() == [[0.0, 1.0]]


class Rolling(FunctionModel):
    """The same model with rollouts of whole sequences, that go on after a termination as if nothing had happened."""

    def rollout(self, state, actions, *, generator):  # type: ignore[no-untyped-def]
        steps = []
        for t in range(actions.shape[1]):
            state, prediction = self.step(state, actions[:, t], generator=generator)
            steps.append(prediction)
        return Prediction(*(th.stack(fields, 1) for fields in zip(*steps, strict=True)))


@pytest.mark.parametrize("kind", [FunctionModel, Rolling])
def test_rollouts_end_with_the_episode_or_in_the_terminal_value(kind: type[FunctionModel]) -> None:
    def ends_at(limit: float) -> FunctionModel:
        return kind(LINE, spaces.Discrete(2), lambda obs, a: (obs + 1, 1 + 0 * obs[:, 0], obs[:, 0] + 1 >= limit))

    planner = MCTS(simulations=2, rollouts=Rollouts(3))
    short = plan(ends_at(2.0), planner, horizon=5, discount=0.5, terminal_reward=-4.0)
    assert root_statistics(short).values.tolist() == [[1 + 0.5 * (1 - 4)] * 2]
    long = plan(ends_at(9.0), planner, horizon=3, discount=0.5, terminal_value=lambda obs: 8 * obs[:, 0])
    assert root_statistics(long).values.tolist() == [[1 + 0.5 + 0.25 + 0.125 * 8 * 3] * 2]


def test_a_value_function_takes_the_place_of_rollouts() -> None:
    shown = []

    def value(obs: Tensor) -> Tensor:
        shown.append(obs)
        return 10 * obs[:, 0]

    found = plan(two_step_model(), MCTS(simulations=2), discount=0.5, terminal_value=value)
    assert root_statistics(found).values.tolist() == [[5.0, 10.0]]  # gamma times ten times the child's number
    assert th.cat(shown).flatten().sort().values.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="terminal_value must return shape"):
        plan(two_step_model(), MCTS(simulations=2), terminal_value=lambda obs: obs)


def test_a_rollout_policy_decides_what_a_leaf_is_worth() -> None:
    def always(obs: Tensor, *, generator: th.Generator) -> Tensor:
        return th.tensor([[1.0, 0.0]]).expand(len(obs), -1)

    found = plan(two_step_model(), MCTS(simulations=2, rollouts=Rollouts(3, always)))
    assert root_statistics(found).values.tolist() == [[3.0, 5.0]]


def test_a_prior_guides_the_search() -> None:
    def prior(obs: Tensor) -> Tensor:
        return th.tensor([[0.9, 0.1]]).expand(len(obs), -1)

    flat = FunctionModel(LINE, spaces.Discrete(2), lambda obs, a: (obs + 1, 0 * obs[:, 0], obs[:, 0] < 0))
    found = root_statistics(plan(flat, MCTS(simulations=100, prior=prior), horizon=3))
    # With equal values PUCT keeps P(a) / (1 + N(a)) even: visits in proportion to the prior.
    assert found.prior is not None
    assert found.prior[0].tolist() == pytest.approx([0.9, 0.1])
    assert found.visits[0].tolist() == pytest.approx([91, 9], abs=1)
    assert root_statistics(plan(two_step_model(), MCTS(simulations=100, prior=prior))).visits[0].argmax() == 1
    with pytest.raises(ValueError, match="prior must return finite probabilities"):
        plan(flat, MCTS(simulations=2, prior=lambda obs: obs))


def test_continuous_chance_widens_slowly() -> None:
    class Noisy(FunctionModel):
        def step(self, state, action, *, generator):  # type: ignore[no-untyped-def]
            noise = th.randn(state.obs.shape, generator=generator)
            return super().step(state._replace(obs=state.obs + noise), action, generator=generator)

    model = Noisy(LINE, spaces.Discrete(2), lambda obs, a: (obs, a - 0.1 * obs[:, 0] ** 2, obs[:, 0] > 99))
    found = plan(model, MCTS(simulations=200), horizon=3)
    tree = search_trees(found)[0]
    assert tree.outcomes == "widening"
    assert found.actions[0, 0].argmax() == 1
    for edge in tree.root.edges:
        assert len(edge.outcomes) == math.ceil(edge.visits**0.5) or len(edge.outcomes) == math.floor(edge.visits**0.5)
        visits = [outcome.visits for outcome in edge.outcomes.values()]
        assert max(visits) - min(visits) <= edge.visits**0.5
    wide = plan(model, MCTS(simulations=200, outcomes=Outcomes("widening", factor=3.0, power=0.4)), horizon=3)
    edge = max(search_trees(wide)[0].root.edges, key=lambda edge: edge.visits)
    assert len(edge.outcomes) == pytest.approx(3 * edge.visits**0.4, abs=1)


def test_equal_states_at_a_depth_are_one_node() -> None:
    model = FunctionModel(LINE, spaces.Discrete(2), lambda obs, a: (obs + a[:, None], obs[:, 0], obs[:, 0] > 99))
    merged, split = (
        plan(model, MCTS(simulations=300, exploration=9.0, outcomes=Outcomes(merge=m)), horizon=5)
        for m in ("state", "never")
    )
    assert len(list(reachable(search_trees(merged)[0].root))) == 1 + 2 + 3 + 4 + 5 + 6
    assert len(list(reachable(search_trees(split)[0].root))) > 40


def test_predictions_that_are_not_finite_are_avoided() -> None:
    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return obs + 1, th.where(action == 1, th.nan, -1.0), th.zeros(len(obs), dtype=th.bool)

    found = plan(FunctionModel(LINE, spaces.Discrete(2), step), MCTS(simulations=20, batch=4), horizon=3)
    assert found.actions[0, 0].tolist() == [1.0, 0.0]
    assert found.report.num_invalid > 0
    assert found.scores[0, 1] == -math.inf
    broken = FunctionModel(LINE, spaces.Discrete(2), lambda obs, a: (obs * th.nan, 0 * obs[:, 0], obs[:, 0] > 9))
    nowhere = plan(broken, MCTS(simulations=5), horizon=3)
    assert nowhere.value.tolist() == [-math.inf]
    assert nowhere.actions.isfinite().all()


@pytest.mark.parametrize("outcomes", [Outcomes("auto"), Outcomes("one"), Outcomes("drawn"), Outcomes("widening")])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_failure_below_a_shared_node_leaves_its_other_parents_to_be_tried(outcomes: Outcomes, batch: int) -> None:
    """Both actions lead to one node, and one of its own actions fails: an action may be left without any simulation."""

    def step(obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bad = (obs[:, 0] >= 1) & (action == 1)
        return obs + 1, th.where(bad, th.nan, 1.0), th.zeros(len(obs), dtype=th.bool)

    model = FunctionModel(LINE, spaces.Discrete(2), step)
    for seed in range(20):
        planner = MCTS(simulations=50, batch=batch, outcomes=outcomes, rollouts=NO_ROLLOUTS)
        found = plan(model, planner, horizon=6, seed=seed)
        assert 4 < found.value.item() <= 6
        assert found.actions[0, 1:, 0].bool().all()


def test_what_cannot_be_searched_is_refused() -> None:
    box = FunctionModel(LINE, LINE, lambda obs, a: (obs, obs[:, 0], obs[:, 0] > 9))
    with pytest.raises(TypeError, match="take ICEM, CEM or MPPI"):
        plan(box, MCTS())
    many = FunctionModel(LINE, spaces.MultiDiscrete([2, 2]), lambda obs, a: (obs, obs[:, 0], obs[:, 0] > 9))
    with pytest.raises(TypeError, match="enumerate them as Discrete"):
        plan(many, MCTS())
    with pytest.raises(ValueError, match="mean return"):
        plan(two_step_model(), MCTS(), risk=CVaR())
    for wrong in ({"simulations": 0}, {"batch": 0}, {"exploration": -1.0}, {"backup": "worst"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MCTS(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind"):
        Outcomes("none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no search trees"):
        search_trees(
            plan(two_step_model(), MCTS())._replace(
                next_start=plan(two_step_model(), MCTS()).next_start._replace(memory=None)
            )
        )


def test_problems_are_searched_by_themselves() -> None:
    planner, model = MCTS(simulations=60, batch=2, rollouts=NO_ROLLOUTS), two_step_model()
    both = plan(model, planner, start=[0.0, 2.0, 1.0])
    assert both.actions[:, 0].argmax(-1).tolist() == [1, 1, 1]
    assert both.value.tolist()[1:] == [6.0, 4.0]
    assert both.report.model_calls > 0
    again = plan(model, planner, start=[0.0, 2.0, 1.0])
    assert root_statistics(again).visits.tolist() == root_statistics(both).visits.tolist()
    other = plan(model, planner, start=[0.0, 1.0, 2.0])  # what others search changes no deterministic row
    assert root_statistics(other).visits[0].tolist() == root_statistics(both).visits[0].tolist()
    problem = PlanningProblem(model, th.zeros(1, 1), 2)
    assert planner.plan(problem, th.zeros(1, 2, 2), generator=generator()).value.tolist() == [
        pytest.approx(both.value[0])
    ]


@pytest.mark.parametrize("guided", [False, True])
def test_simulations_under_way_count_as_if_they_had_returned_the_lowest(guided: bool) -> None:
    tree = SearchTree(Node(0, b"", False), "one", random.Random(0))
    tree.open(tree.root, 2, [0.5, 0.5])
    tree.low, tree.high, tree.root.visits = 0.0, 1.0, 4
    for edge, value in zip(tree.root.edges, (1.0, 0.8), strict=True):
        edge.visits, edge.value = 2, value
    # Shares of the best and of the other: 1 and 0.8, then 2/3 and 0.8, then 2/3 and 1.6/3.
    assert [tree.select(tree.root, 0.0, guided).action for _ in range(3)] == [0, 1, 0]


def test_of_actions_visited_equally_the_one_of_higher_value_is_the_best() -> None:
    tree = SearchTree(Node(0, b"", False), "one", random.Random(0))
    tree.open(tree.root, 3, None)
    assert tree.root.best is None
    for edge, visits, value in zip(tree.root.edges, (2, 2, 1), (0.5, 0.75, 9.0), strict=True):
        edge.visits, edge.value = visits, value
    assert tree.root.best is tree.root.edges[1]


def test_values_that_differ_by_rounding_alone_have_no_scale() -> None:
    tree = SearchTree(Node(0, b"", False), "one", random.Random(0))
    for high, scale in ((-1e6 + 1e-4, 0.0), (-1e6 + 2.0, 0.5)):
        tree.low, tree.high = -1e6, high
        assert tree.scale == scale
