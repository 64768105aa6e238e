"""The search tree: nodes (states), their actions, and the successors of these."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

Path = list[tuple["Node", "Edge", "Successor", float]]
"""The path of a simulation: node, action, outcome and reward of each step."""

Backup = Literal["mean", "best"]

ROUNDING = 1e-9
"""Returns whose spread is smaller than this share of their size differ by rounding alone."""


class Successor:
    """One successor of an action.

    Attributes:
        node: where it leads; ``nodes`` may be shared by several actions of one depth.
        reward: mean of the rewards drawn with it.
        draws: how often the model drew it.
        visits: simulations that came through.
    """

    __slots__ = ("draws", "node", "reward", "visits")

    def __init__(self, node: Node) -> None:
        self.node, self.reward, self.draws, self.visits = node, 0.0, 0, 0

    def drawn(self, reward: float) -> None:
        """Count one draw."""
        self.draws += 1
        self.reward += (reward - self.reward) / self.draws


class Edge:
    """One action of a node: a chance node.

    Attributes:
        action: its number, from 0.
        prior: probability that the prior gives it.
        visits: finished simulations through it.
        value: estimated return from here on; NaN before the first visit.
        pending: simulations under way (virtual loss).
        banned: whether the model failed here.
        outcomes: its successors, by the key that identifies each.
    """

    __slots__ = ("action", "banned", "outcomes", "pending", "prior", "value", "visits")

    def __init__(self, action: int, prior: float = 0.0) -> None:
        self.action, self.prior = action, prior
        self.visits, self.pending, self.value = 0, 0, math.nan
        self.banned = False
        self.outcomes: dict[bytes, Successor] = {}

    def expected(self, discount: float) -> float:
        r"""The Bellman backup :math:`\sum_{s'} \hat p(s') (r + \gamma V(s'))` with the shares of the draws."""
        draws = total = 0.0
        for outcome in self.outcomes.values():
            draws += outcome.draws
            total += outcome.draws * (outcome.reward + discount * outcome.node.value)
        return total / draws

    def least_visited(self) -> Successor:
        """The outcome that is furthest behind its share of the draws."""
        return min(self.outcomes.values(), key=lambda outcome: outcome.visits / outcome.draws)


class Node:
    """A state of the model at a depth of the tree: a decision.

    Attributes:
        depth: steps from the root.
        slots: numbers of its states in the pool; several at a root, whose particles they are.
        obs: the observation, float32, as bytes.
        terminal: whether the episode has ended here.
        edges: its actions; empty until the node is opened.
        untried: those without any simulation, in random order; empty with a prior.
        visits: finished simulations that chose an action here.
        pending: those under way.
        value: estimated return: 0 when terminal, else the leaf value, or with ``"best"`` backups the value of its best
            action; NaN before evaluation.
    """

    __slots__ = ("depth", "edges", "obs", "pending", "slots", "terminal", "untried", "value", "visits")

    def __init__(self, depth: int, obs: bytes, terminal: bool) -> None:
        self.depth, self.obs, self.terminal = depth, obs, terminal
        self.slots: Sequence[int] = ()
        self.edges: list[Edge] = []
        self.untried: list[Edge] = []
        self.visits, self.pending = 0, 0
        self.value = 0.0 if terminal else math.nan

    @property
    def mean(self) -> float:
        """Mean of the values of its actions, weighted by visits; NaN before the first."""
        tried = [edge for edge in self.edges if edge.visits]
        return sum(edge.visits * edge.value for edge in tried) / self.visits if self.visits else math.nan

    @property
    def best(self) -> Edge | None:
        """The action visited most, of equals the one of higher value; None before the first simulation."""
        tried = [edge for edge in self.edges if edge.visits]
        return max(tried, key=lambda edge: (edge.visits, edge.value)) if tried else None


class SearchTree:
    r"""One tree: its root, the range of its returns, and the rule that chooses actions.

    Args:
        root: where simulations start.
        outcomes: how many outcomes an action may have: see :class:`~controllers.search.outcomes.Outcomes`.
        rng: breaks ties and orders untried actions.

    Attributes:
        low, high: the lowest and highest value :math:`Q(s, a)` of an action seen anywhere in the tree.
        table: nodes by depth and state, where equal states are one node.
    """

    __slots__ = ("high", "low", "outcomes", "rng", "root", "table")

    def __init__(self, root: Node, outcomes: str, rng: random.Random) -> None:
        self.root, self.outcomes, self.rng = root, outcomes, rng
        self.low, self.high = math.inf, -math.inf
        self.table: dict[tuple[int, bytes], Node] = {}

    def open(self, node: Node, actions: int, prior: Sequence[float] | None) -> None:
        """Give a node its actions."""
        node.edges = [Edge(action, 0.0 if prior is None else prior[action]) for action in range(actions)]
        if prior is None:
            node.untried = node.edges.copy()
            self.rng.shuffle(node.untried)

    def select(self, node: Node, exploration: float, guided: bool) -> Edge:
        r"""The action that a simulation takes, counted as pending.

        Without a prior UCB1 (Kocsis and Szepesvari 2006), with one PUCT (Silver et al. 2017):

        .. math:: \bar Q(s, a) + c \sqrt{\ln N(s) / N(s, a)}, \qquad
                  \bar Q(s, a) + c P(s, a) \sqrt{N(s)} / (1 + N(s, a)),

        where :math:`\bar Q` is the action's value on a scale from 0, the lowest in the tree, to 1, the highest (MuZero,
        Schrittwieser et al. 2020, appendix B). Simulations under way count in both ``N`` as if they had returned the
        lowest. Under PUCT an untried action has the value of its node.
        """
        node.pending += 1
        if node.untried:
            edge = node.untried.pop()
            edge.pending += 1
            return edge
        low, scale = self.low, self.scale
        around = max(1, node.visits + node.pending - 1)
        bonus = exploration * math.sqrt(around if guided else math.log(around))
        unknown = (node.mean - low) * scale if guided and node.visits else 0.0
        chosen, best, ties = None, -math.inf, 1
        for edge in node.edges:
            if edge.banned:
                continue
            visits, count = edge.visits, edge.visits + edge.pending
            if visits:
                score = (edge.value - low) * scale * visits / count
            else:
                score = 0.0 if count else unknown
            if guided:
                score += bonus * edge.prior / (1 + count)
            else:  # an action whose only simulation failed further down counts as untried
                score += bonus / math.sqrt(count) if count else math.inf
            if score > best:
                chosen, best, ties = edge, score, 1
            elif score == best:
                ties += 1
                if self.rng.random() * ties < 1:
                    chosen = edge
        if chosen is None:  # the model fails for every action here
            chosen = self.rng.choice(node.edges)
        chosen.pending += 1
        return chosen

    @property
    def scale(self) -> float:
        """One over the range of values; 0 while they are all alike."""
        spread = self.high - self.low
        size = max(abs(self.low), abs(self.high))
        return 1 / spread if math.isfinite(spread) and spread > ROUNDING * size else 0.0

    def back_up(self, path: Path, value: float, discount: float, backup: Backup) -> None:
        r"""Count a simulation that ended in ``value`` in every action it took, the last one first.

        The value of an action becomes the mean of its returns :math:`G_t = r_t + \gamma G_{t+1}` (``"mean"``), or what
        its successors are worth now (``"best"``, see :meth:`Edge.expected`).
        """
        for node, edge, outcome, reward in reversed(path):
            outcome.visits += 1
            edge.pending -= 1
            edge.visits += 1
            node.pending -= 1
            node.visits += 1
            if backup == "best":
                edge.value = edge.expected(discount)
                node.value = max([other.value for other in node.edges if other.visits])
            else:
                value = reward + discount * value
                edge.value = edge.value + (value - edge.value) / edge.visits if edge.visits > 1 else value
            if edge.value < self.low:
                self.low = edge.value
            if edge.value > self.high:
                self.high = edge.value

    def take_back(self, path: Path, last: tuple[Node, Edge]) -> None:
        """Discard a simulation whose model failed at ``last``, and ban that action."""
        node, edge = last
        node.pending -= 1
        edge.pending -= 1
        edge.banned = True
        for node, edge, _, _ in reversed(path):
            node.pending -= 1
            edge.pending -= 1
            # An action is banned too if every action of all its successors is banned.
            if all(o.node.edges and all(e.banned for e in o.node.edges) for o in edge.outcomes.values()):
                edge.banned = True

    def below(self, root: Node, moved: Callable[[Sequence[int]], Sequence[int]], rng: random.Random) -> SearchTree:
        """A copy of the part that can be reached from ``root``, which becomes the root; nothing here changes.

        Args:
            root: a node of this tree.
            moved: the numbers that states have in another pool, given those in this one's.
            rng: of the copy.
        """
        tree = SearchTree(Node(0, root.obs, root.terminal), self.outcomes, rng)
        found = list(reachable(root))
        twins = {id(node): Node(node.depth - root.depth, node.obs, node.terminal) for node in found}
        twins[id(root)] = tree.root
        slots = iter(moved([slot for node in found for slot in node.slots]))
        for node in found:
            twin = twins[id(node)]
            twin.slots = [next(slots) for _ in node.slots]
            twin.visits, twin.value = node.visits, node.value
            twin.edges = [_twin(edge, twins) for edge in node.edges]
            twin.untried = [twin.edges[edge.action] for edge in node.untried]
            for edge in twin.edges:
                if edge.visits:
                    tree.low, tree.high = min(tree.low, edge.value), max(tree.high, edge.value)
        tree.table = {
            (depth - root.depth, key): twins[id(node)] for (depth, key), node in self.table.items() if id(node) in twins
        }
        return tree


def _twin(edge: Edge, twins: dict[int, Node]) -> Edge:
    twin = Edge(edge.action, edge.prior)
    twin.visits, twin.value, twin.banned = edge.visits, edge.value, edge.banned
    for key, outcome in edge.outcomes.items():
        copy = twin.outcomes[key] = Successor(twins[id(outcome.node)])
        copy.reward, copy.draws, copy.visits = outcome.reward, outcome.draws, outcome.visits
    return twin


def reachable(root: Node) -> Iterator[Node]:
    """Every node that ``root`` leads to, itself first, each once."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        for edge in node.edges:
            for outcome in edge.outcomes.values():
                if id(outcome.node) not in seen:
                    seen.add(id(outcome.node))
                    waiting.append(outcome.node)
