"""Gradient shooting: ascend the score through a differentiable model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Generator, Tensor

from controllers.plan import Plan, WarmStart
from controllers.problem import PlanningProblem
from controllers.shooting.base import Fitted, Ledger, complete_warm_start, require_box, with_first
from controllers.shooting.distributions import GaussianSequences
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.seeding import draw_seed


@dataclass(frozen=True)
class GradientShooting:
    r"""Adam on action sequences from several starts, with gradients through the model.

    Every sequence climbs :math:`\nabla_a \mathrm{score}(a)` on its own, with its gradient clipped to
    ``max_grad_norm``, a step size that falls to zero along a cosine, and projection onto the bounds. The model's draws
    are the same in all iterations. The best sequence seen is returned. Gradients that are not finite (contacts,
    divergence) count as zero.

    Attributes:
        population: starts; the first is the warm start, the others are noise around it.
        iterations: gradient steps.
        step_size: of Adam, in model actions.
        init_std: deviation of the starts.
        max_grad_norm: per sequence.
        double: compute in float64 (the model must accept it).
    """

    population: int = 8
    iterations: int = 30
    step_size: float = 0.05
    init_std: float = 0.5
    max_grad_norm: float = 10.0
    double: bool = False

    def __post_init__(self) -> None:
        at_least("population", self.population)
        at_least("iterations", self.iterations)
        for name in ("step_size", "init_std", "max_grad_norm"):
            within(name, getattr(self, name), 0)

    def plan(
        self, problem: PlanningProblem[Any], warm_start: WarmStart | Tensor | None = None, *, generator: Generator
    ) -> Plan:
        """Plan for every start; see :class:`~controllers.plan.Planner`.

        Raises:
            TypeError: for Discrete actions, and for a model that no gradient flows through.
        """
        require_box(problem, self)
        warm = complete_warm_start(problem, warm_start)
        around = GaussianSequences.around(problem, warm.actions, self.init_std, min_std=0.0)
        starts = with_first(warm.firsts(), around.sample(self.population, generator=generator))
        ledger = Ledger(problem, warm, draw_seed(generator))
        with th.enable_grad():
            candidates = starts.double() if self.double else starts
            candidates = candidates.clone().requires_grad_()
            self._climb(problem, ledger, candidates)
        with th.no_grad():
            scores = ledger.score(candidates)
        fitted = Fitted(candidates.detach().float(), scores, th.ones_like(scores[:, 0]))
        left = WarmStart(ledger.best.actions.float(), th.ones_like(warm.known))
        report = ledger.report(ledger.best, fitted, self.iterations)
        return Plan(left.actions, ledger.best.value, left, report, fitted.candidates, scores)

    def _climb(self, problem: PlanningProblem[Any], ledger: Ledger, candidates: Tensor) -> None:
        """Improve ``candidates`` in place."""
        low, high = (edge.to(candidates) for edge in problem.bounds)
        optimizer = th.optim.Adam([candidates], lr=self.step_size, maximize=True)
        schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        for _ in range(self.iterations):
            optimizer.zero_grad()
            scores = ledger.score(candidates)
            if not scores.requires_grad:
                if not scores.isfinite().any() or problem.is_differentiable:
                    return  # no gradient: all failed, or no reward within the horizon depends on the actions
                raise TypeError(
                    f"No gradient flows through {type(problem.model).__name__}: plan with CEM, ICEM or MPPI, or use a "
                    "model whose step is differentiable in its actions."
                )
            th.where(scores.isfinite(), scores, 0).sum().backward()
            gradient = candidates.grad
            assert gradient is not None
            gradient.nan_to_num_(0.0, 0.0, 0.0)
            norm = gradient.flatten(2).norm(dim=2)[:, :, None, None]
            gradient.mul_((self.max_grad_norm / norm.clamp(min=1e-12)).clamp(max=1.0))
            optimizer.step()
            schedule.step()
            with th.no_grad():
                candidates.clamp_(low, high)
