r"""How well gradients through a model do, by horizon: norm and variance of both estimators, growth of the Jacobians.

The pathwise gradient multiplies the Jacobians of the closed loop, :math:`\partial s_t / \partial s_0 = J_{t-1} \cdots
J_0`. Their product grows or falls like :math:`e^{\lambda t}`, and the variance of the gradient like
:math:`e^{2 \lambda t}` (Metz et al. 2021, "Gradients are not all you need"). Where :math:`\lambda` is positive, long
horizons give gradients that are finite, unbiased and useless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.gradient_estimators import (
    Estimate,
    ImaginedReturn,
    group_gradients,
    likelihood_ratio,
    pathwise,
    unroll_with_gradient,
)
from mbrl_wrappers.types import DifferentiablePolicy, DynamicsModel, ScoredPolicy


class ProbedPolicy(DifferentiablePolicy, ScoredPolicy, Protocol):
    """A policy that both estimators can use."""


class GradientHealth(NamedTuple):
    r"""One entry per horizon. Variances are those of a single trajectory, summed over the parameters.

    Attributes:
        horizons: steps.
        pathwise_norm: length of the mean pathwise gradient.
        pathwise_variance: of one row's.
        likelihood_ratio_norm: length of the mean likelihood-ratio gradient.
        likelihood_ratio_variance: of one row's.
        log_growth: mean of :math:`\ln(\|J^T u\\|) / h` over rows and random unit vectors :math:`u`, in 1/step.
    """

    horizons: tuple[int, ...]
    pathwise_norm: tuple[float, ...]
    pathwise_variance: tuple[float, ...]
    likelihood_ratio_norm: tuple[float, ...]
    likelihood_ratio_variance: tuple[float, ...]
    log_growth: tuple[float, ...]


def gradient_health(
    model: DynamicsModel[Any],
    policy: ProbedPolicy,
    parameters: Sequence[Tensor],
    starts: Tensor,
    objective: ImaginedReturn,
    horizons: Sequence[int],
    *,
    generator: Generator,
    groups: int = 16,
) -> GradientHealth:
    """Measure both estimators on the same starts at each horizon.

    Rows are cut into groups, one gradient is taken of each, and the variance between groups gives that of a row.

    Args:
        model: a differentiable dynamics model.
        policy: draws actions with gradients, and scores them.
        parameters: of the policy.
        starts: ``(B, O)`` observations in raw units, ``B`` a multiple of ``groups``.
        objective: what is differentiated; its horizon is replaced.
        horizons: steps, at least 1 each.
        generator: source of every draw.
        groups: how many gradients the variance is taken of, at least 2.

    Raises:
        ValueError: for starts that cannot be cut into equal groups, and for counts out of range.
        TypeError: for a model through which no gradient flows.
    """
    at_least("groups", groups, 2)
    for horizon in horizons:
        at_least("horizons", horizon)
    chunks = equal_groups(starts, groups)
    found: dict[str, list[float]] = {name: [] for name in GradientHealth._fields[1:5]}
    for horizon in horizons:
        aim = replace(objective, horizon=horizon)
        for name, estimator in (("pathwise", pathwise), ("likelihood_ratio", likelihood_ratio)):

            def rows(chunk: Tensor, estimator: Any = estimator, aim: ImaginedReturn = aim) -> Tensor:
                estimate: Estimate = estimator(model, policy, chunk, aim, generator=generator)
                return estimate.rows

            gradients = th.cat([group_gradients([rows(chunk)], parameters) for chunk in chunks])
            found[f"{name}_norm"].append(float(gradients.mean(0).norm()))
            found[f"{name}_variance"].append(float(gradients.var(0).sum()) * len(chunks[0]))
    growth = log_growth(model, policy, starts, max(horizons), generator=generator)
    columns = {name: tuple(values) for name, values in found.items()}
    return GradientHealth(horizons=tuple(horizons), log_growth=tuple(float(growth[h - 1]) for h in horizons), **columns)


def equal_groups(starts: Tensor, groups: int) -> tuple[Tensor, ...]:
    """``starts (B, O)`` in ``groups`` equal parts.

    Raises:
        ValueError: where they cannot be.
    """
    if len(starts) < groups or len(starts) % groups:
        raise ValueError(f"{len(starts)} starts cannot be cut into {groups} equal groups: give a multiple.")
    return starts.tensor_split(groups)


def log_growth(
    model: DynamicsModel[Any], policy: DifferentiablePolicy, starts: Tensor, horizon: int, *, generator: Generator
) -> Tensor:
    r"""How fast the product of Jacobians grows, per step: ``(H,)``, entry ``h - 1`` after ``h`` steps.

    .. math:: \lambda_h = \frac{1}{h}\, E \ln \Big\| \Big(\frac{\partial s_h}{\partial s_0}\Big)^T u \Big\|

    over rows that are still alive and random unit vectors :math:`u`, the draws of model and policy held fixed. For long
    horizons it tends to the largest Lyapunov exponent of the closed loop. NaN where no row is alive, minus infinity
    where the state forgets its start.

    Args:
        model: a differentiable dynamics model.
        policy: draws actions with gradients.
        starts: ``(B, O)`` observations in raw units.
        horizon: steps ``H >= 1``.
        generator: source of every draw.

    Raises:
        TypeError: for a model that leaves torch.
    """
    at_least("horizon", horizon)
    begin = starts.detach().clone().requires_grad_()
    unrolled = unroll_with_gradient(model, policy, begin, horizon, generator=generator)
    probe = th.randn(starts.shape, generator=generator, device=unrolled.obs.device, dtype=unrolled.obs.dtype)
    probe = probe / probe.norm(dim=1, keepdim=True)
    found = []
    for step in range(1, horizon + 1):
        (carried,) = th.autograd.grad((unrolled.obs[step] * probe).sum(), begin, retain_graph=step < horizon)
        alive = unrolled.alive[step].to(carried.device)
        found.append(carried[alive].norm(dim=1).log().mean() / step)
    return th.stack(found)
