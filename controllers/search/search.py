"""The search loop: simulations descend in step, share each call of the model, and are backed up one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch as th
from torch import Tensor

from controllers.search.counted_model import CountedModel
from controllers.search.leaf import LeafValues
from controllers.search.node import Backup, Edge, Node, Path, SearchTree, Successor
from controllers.search.outcomes import Outcomes, observed, outcome_keys
from controllers.search.roots import Stored
from controllers.search.state_pool import StatePool
from mbrl_wrappers.rows import take_rows

S = TypeVar("S")

Prior = Callable[[Tensor], Tensor]
"""``prior(obs (B, O)) -> (B, A)``: prior probability that each action is the best."""


class Simulation:
    """One descent under way.

    Attributes:
        tree: where.
        node: how far it has come.
        path: what it went through.
        asked: the action it waits for the model to answer.
        failed: whether a prediction was not finite or outside of the model's limits.
    """

    __slots__ = ("asked", "failed", "node", "path", "tree")

    def __init__(self, tree: SearchTree) -> None:
        self.tree, self.node = tree, tree.root
        self.path: Path = []
        self.asked: Edge | None = None
        self.failed = False


class Search(Generic[S]):
    """Simulations in one tree per problem.

    Each round starts ``batch`` simulations in every tree. They descend in step: all that need a prediction get it in
    one call of the model, and so do the values and priors of the leaves at the end.

    Args:
        trees: grown in place.
        pool: of their states, grown in place.
        model: the problem's.
        leaf: what leaves are worth.
        outcomes: how chance enters.
        exploration: ``c`` of the selection rule.
        prior: turns the rule into PUCT.
        backup: how values follow from simulations.

    Attributes:
        num_failed: simulations that met a prediction that was not finite or outside of the model's limits; no value
            includes them, and no later simulation takes the action that led there.
    """

    def __init__(
        self,
        trees: Sequence[SearchTree],
        pool: StatePool[Stored],
        model: CountedModel[S],
        leaf: LeafValues[S],
        outcomes: Outcomes,
        exploration: float,
        prior: Prior | None,
        backup: Backup,
    ) -> None:
        self.trees, self.pool, self.model, self.leaf = trees, pool, model, leaf
        self.outcomes, self.exploration, self.prior, self.backup = outcomes, exploration, prior, backup
        self.horizon, self.discount = model.problem.horizon, model.problem.discount
        self.eye = th.eye(model.problem.codec.size, device=model.problem.device)
        self.num_failed = 0

    def run(self, simulations: int, batch: int) -> int:
        """Run ``simulations`` in every tree, ``batch`` at a time; returns the number of rounds."""
        new = [tree.root for tree in self.trees if not tree.root.edges]
        if new:
            stored = self.pool.take([node.slots[0] for node in new])
            self._open([(tree, tree.root) for tree in self.trees if not tree.root.edges], stored.obs)
        rounds = math.ceil(simulations / batch)
        for number in range(rounds):
            size = min(batch, simulations - number * batch)
            started = [Simulation(tree) for tree in self.trees for _ in range(size)]
            self._descend(started)
            self._count([simulation for simulation in started if not simulation.failed])
            self.num_failed += sum(simulation.failed for simulation in started)
        return rounds

    def _descend(self, going: list[Simulation]) -> None:
        """Bring every simulation to a leaf."""
        while going:
            for simulation in going:
                self._advance(simulation)
            going = [simulation for simulation in going if simulation.asked is not None]
            if going:
                self._draw(going)
                going = [simulation for simulation in going if not simulation.failed]

    def _advance(self, simulation: Simulation) -> None:
        """Follow known outcomes down to a leaf, or to an action whose outcome the model has to draw."""
        tree, node = simulation.tree, simulation.node
        simulation.asked = None
        while node.edges and not node.terminal and node.depth < self.horizon:
            edge = tree.select(node, self.exploration, self.prior is not None)
            if self._draws(tree, edge):
                simulation.asked = edge
                break
            outcome = edge.least_visited() if len(edge.outcomes) > 1 else next(iter(edge.outcomes.values()))
            simulation.path.append((node, edge, outcome, outcome.reward))
            node = outcome.node
        simulation.node = node

    def _draws(self, tree: SearchTree, edge: Edge) -> bool:
        if tree.outcomes == "drawn" or not edge.outcomes:
            return True
        return tree.outcomes == "widening" and self.outcomes.may_grow(len(edge.outcomes), edge.visits + edge.pending)

    def _draw(self, asking: list[Simulation]) -> None:
        """Step the model for every simulation that asks, and move each on to what it drew."""
        slots = [_slot(simulation) for simulation in asking]
        chosen = [simulation.asked.action for simulation in asking if simulation.asked is not None]
        state, prediction = self.model.step(self.pool.take(slots).state, self.eye[chosen])
        keys, everywhere = outcome_keys(state, prediction, self.outcomes.merge)
        shown = observed(prediction.next_obs)
        rewards = prediction.reward.double() + self.model.problem.terminal_reward * prediction.terminated
        rows = zip(keys, shown, rewards.tolist(), prediction.terminated.tolist(), strict=True)
        fresh: list[tuple[int, Node]] = []
        valid = self.model.valid(prediction).tolist()
        for place, (key, obs, reward, terminal) in enumerate(rows):
            simulation, edge = asking[place], asking[place].asked
            assert edge is not None
            if not valid[place]:
                simulation.tree.take_back(simulation.path, (simulation.node, edge))
                simulation.failed = True
                continue
            outcome = edge.outcomes.get(key)
            if outcome is None:
                depth, table = simulation.node.depth + 1, simulation.tree.table
                node = table.get((depth, key)) if everywhere else None
                if node is None:
                    node = Node(depth, obs, terminal)
                    fresh.append((place, node))
                    if everywhere:
                        table[depth, key] = node
                outcome = edge.outcomes[key] = Successor(node)
            outcome.drawn(reward)
            simulation.path.append((simulation.node, edge, outcome, reward))
            simulation.node = outcome.node
        self._store(fresh, state, prediction.next_obs)

    def _store(self, fresh: list[tuple[int, Node]], state: S, obs: Tensor) -> None:
        """Put the states of new nodes, given with their rows, into the pool; where episodes ended none is needed."""
        fresh = [(place, node) for place, node in fresh if not node.terminal]
        if fresh:
            stored = Stored(state, obs)
            if len(fresh) < len(obs):
                stored = take_rows(stored, th.tensor([place for place, _ in fresh], device=obs.device))
            for slot, (_, node) in zip(self.pool.add(stored), fresh, strict=True):
                node.slots = (slot,)

    def _count(self, ended: list[Simulation]) -> None:
        """Evaluate the leaves, open them, and back everything up."""
        asking = [simulation for simulation in ended if self._is_open(simulation.node)]
        if asking:
            nodes = [simulation.node for simulation in asking]
            stored = self.pool.take([node.slots[0] for node in nodes])
            values = self.leaf(stored.state, stored.obs, [node.depth for node in nodes])
            closed = {id(node): (simulation.tree, node) for simulation, node in zip(asking, nodes, strict=True)}
            places = {id(node): place for place, node in enumerate(nodes)}
            new = [(place, *closed[key]) for key, place in places.items() if closed[key][1].depth < self.horizon]
            if new:
                rows = th.tensor([place for place, _, _ in new], device=stored.obs.device)
                self._open([(tree, node) for _, tree, node in new], stored.obs[rows])
        worth = {id(simulation): value for simulation, value in zip(asking, values if asking else [], strict=True)}
        for simulation in ended:
            tree, node = simulation.tree, simulation.node
            value = worth.get(id(simulation), node.value)
            if math.isnan(value):  # a rollout that failed is worth the worst that was seen
                value = tree.low if math.isfinite(tree.low) else 0.0
            if math.isnan(node.value):
                node.value = value
            tree.back_up(simulation.path, value, self.discount, self.backup)

    def _is_open(self, node: Node) -> bool:
        """Whether a leaf has to be evaluated; at the horizon once is enough."""
        return not node.terminal and (node.depth < self.horizon or math.isnan(node.value))

    def _open(self, nodes: list[tuple[SearchTree, Node]], obs: Tensor) -> None:
        """Give nodes that show ``obs (B, O)`` their actions, and these their prior."""
        given: list[list[float]] | list[None] = [None] * len(nodes)
        if self.prior is not None:
            prior = self.prior(obs.float())
            wanted = (len(obs), len(self.eye))
            if prior.shape != wanted or not prior.isfinite().all() or (prior < 0).any():
                raise ValueError(f"prior must return finite probabilities of shape {wanted}, got {tuple(prior.shape)}.")
            given = prior.double().tolist()
        for (tree, node), probabilities in zip(nodes, given, strict=True):
            tree.open(node, len(self.eye), probabilities)


def _slot(simulation: Simulation) -> int:
    """The state to go on from: at the root that of any of its particles."""
    slots = simulation.node.slots
    return slots[0] if len(slots) == 1 else simulation.tree.rng.choice(slots)
