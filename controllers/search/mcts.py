"""Monte-Carlo tree search in any model with Discrete actions."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, get_args

import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from controllers.plan import Plan, PlanReport, WarmStart
from controllers.problem import PlanningProblem
from controllers.risk import Mean
from controllers.search.counted_model import CountedModel
from controllers.search.leaf import LeafValues, Rollouts
from controllers.search.node import Backup
from controllers.search.outcomes import Outcomes
from controllers.search.roots import TreeMemory, begin
from controllers.search.search import Prior, Search
from controllers.search.statistics import RootStatistics, principal_line
from controllers.shooting.base import complete_warm_start
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.objects import Objects


@dataclass(frozen=True)
class MCTS:
    r"""Tree search: UCT (Kocsis and Szepesvari 2006), with a prior PUCT (Silver et al. 2017).

    A simulation descends from the root by the rule of :meth:`~controllers.search.node.SearchTree.select` to a state
    that is new to the tree, adds it, and backs up the return of its path and the leaf's value to every action it took.
    Its length is bounded by the problem's horizon; a predicted termination is worth the terminal reward and nothing
    after it. The plan takes the action visited most.

    In a stochastic model every simulation draws new noise, so that the search cannot exploit one noise sequence. The
    objective is the mean return; each start's ``particles`` states are starts of simulations in turn.

    ``predict`` reuses the tree: the next search starts from the subtree of the executed actions and the new
    observation. It starts from an empty tree if no simulation reached that observation, or an episode begins.

    Attributes:
        simulations: per problem and plan.
        batch: simulations under way at the same time in each tree, so that the model predicts them together (virtual
            loss, Chaslot et al. 2008); the fewer, the better informed each one is.
        exploration: ``c``, for returns on a scale from 0 to 1.
        backup: what an action is worth: ``"mean"``, the mean of its returns (UCT), or ``"best"``, the expected value of
            its successors under their best known actions (MaxUCT, Keller and Helmert 2013), which needs far fewer
            simulations in stochastic models and overestimates values in noisy ones.
        rollouts: what leaves are worth.
        prior: ``prior(obs (B, O)) -> (B, A)`` probabilities, for example :class:`sb3_ext.AgentPrior`.
        outcomes: how many successors an action may have.
        reuse: whether the next search starts from a subtree of this one.

    Raises:
        ValueError: for impossible numbers.
    """

    simulations: int = 400
    batch: int = 1
    exploration: float = math.sqrt(2)
    backup: Backup = "mean"
    rollouts: Rollouts = field(default_factory=Rollouts)
    prior: Prior | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)
    reuse: bool = True

    def __post_init__(self) -> None:
        at_least("simulations", self.simulations)
        at_least("batch", self.batch)
        within("exploration", self.exploration, 0)
        if self.backup not in get_args(Backup):
            raise ValueError(f"backup must be one of {get_args(Backup)}, got {self.backup!r}.")

    @th.no_grad()
    def plan(
        self, problem: PlanningProblem[Any], warm_start: WarmStart | Tensor | None = None, *, generator: Generator
    ) -> Plan:
        """Plan for every start; see :class:`~controllers.plan.Planner`.

        ``candidates`` holds for each first action the line of play that the search expects after it, ``scores`` their
        values, minus infinity where there is none.

        Raises:
            TypeError: if actions are not Discrete.
            ValueError: for a risk other than the mean.
        """
        started = time.perf_counter()
        _require_plannable(problem)
        warm = complete_warm_start(problem, warm_start)
        remembered = warm_start if self.reuse and isinstance(warm_start, WarmStart) else None
        model = CountedModel(problem, generator)
        trees, pool = begin(problem, model, self.outcomes, remembered, self)
        carried = th.tensor([tree.root.mean for tree in trees])
        leaf = LeafValues(problem, model, self.rollouts)
        search = Search(trees, pool, model, leaf, self.outcomes, self.exploration, self.prior, self.backup)
        rounds = search.run(self.simulations, self.batch)
        lines = [[principal_line(tree.root, edge) for edge in tree.root.edges] for tree in trees]
        candidates = _sequences(lines, warm.actions)
        root = RootStatistics.of(trees, self.prior is not None)
        scores = root.values.nan_to_num(nan=-th.inf).to(candidates)
        best = [tree.root.best for tree in trees]
        places = th.tensor([0 if edge is None else edge.action for edge in best])
        rows = th.arange(len(trees))
        known = th.tensor([edge is not None for edge in best], device=candidates.device)
        actions = th.where(known[:, None, None], candidates[rows, places], warm.actions)
        value = scores[rows, places]
        report = PlanReport(
            warm_start_value=carried.to(value),
            best_value=value,
            mean_value=th.tensor([tree.root.mean for tree in trees]).to(value),
            effective_sample_size=root.visits[rows, places].to(value),
            num_invalid=search.num_failed,
            model_calls=model.calls,
            seconds=time.perf_counter() - started,
            model_seconds=model.seconds,
            iterations=rounds,
        )
        taken = actions.argmax(-1).tolist()
        memory = [TreeMemory(tree, pool, tuple(line), 0, self) for tree, line in zip(trees, taken, strict=True)]
        left = WarmStart(actions, th.ones_like(warm.known), memory=Objects(memory))
        return Plan(actions, value, left, report, candidates, scores)


def _require_plannable(problem: PlanningProblem[Any]) -> None:
    space = problem.codec.action_space
    if isinstance(space, spaces.Box):
        raise TypeError(
            f"MCTS chooses among the actions of a Discrete space, and {space} is continuous: take ICEM, CEM or MPPI, "
            "or discretise the actions in a gymnasium.ActionWrapper."
        )
    if not isinstance(space, spaces.Discrete):
        raise TypeError(
            f"MCTS chooses among the actions of a Discrete space, not {space}: enumerate them as Discrete in a "
            "gymnasium.ActionWrapper, or take CEM or RandomShooting."
        )
    if not isinstance(problem.risk, Mean):
        raise ValueError(f"MCTS maximises the mean return, not {problem.risk}: take CEM or RandomShooting for a risk.")


def _sequences(lines: list[list[list[int]]], filler: Tensor) -> Tensor:
    """One-hot sequences ``(N, A, H, A)`` that begin with ``lines`` and go on as ``filler (N, H, A)`` does."""
    horizon, size = filler.shape[1:]
    eye = th.eye(size).to(filler)
    sequences = filler[:, None].repeat(1, size, 1, 1)
    for row, of_row in enumerate(lines):
        for action, line in enumerate(of_row):
            line = line[:horizon]
            sequences[row, action, : len(line)] = eye[line]
    return sequences


__all__ = ["MCTS", "Outcomes", "Prior", "Rollouts"]
