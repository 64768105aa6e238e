r"""Gradients of the imagined return by the parameters of a policy: likelihood ratio and pathwise.

The objective is that of :class:`ImaginedReturn`, averaged over starts and draws,

.. math:: J(\theta) = E\Big[\sum_{t<H} \gamma^t (r_t - \alpha \ln \pi_\theta(a_t \mid s_t)) + \gamma^H V(s_H)\Big].

Each estimator returns one number per row whose mean has the estimated gradient, so that one optimiser step is
``(-estimate.rows.mean()).backward()``. The weights of the model get no gradient from either.

=================== =============================================== =================================================
estimator           needs                                           fails
=================== =============================================== =================================================
likelihood ratio    samples, and a policy with a density            variance grows with the horizon and with
                                                                    :math:`1 / \sigma^2` of the policy
pathwise            derivatives of model, policy and reward         variance grows like the squared product of the
                                                                    Jacobians; a jump's share of the slope is missing
=================== =============================================== =================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.returns import lambda_returns
from mbrl_wrappers.types import DifferentiablePolicy, DynamicsModel, ScoredPolicy
from mbrl_wrappers.unroll import Unrolled, unroll

Baseline = Literal["none", "mean", "value"]
Estimator = Literal["likelihood_ratio", "pathwise", "mixed"]


class DrawnValue(Protocol):
    """A value of observations that may draw an action to read a critic at."""

    def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
        """The values ``(B,)`` of raw observations ``(B, O)``, differentiable in them and in the policy."""
        ...


@dataclass(frozen=True)
class ImaginedReturn:
    r"""What a policy is to maximise inside a model.

    Attributes:
        horizon: steps ``H``.
        discount: :math:`\gamma`.
        value: :math:`V`, the value where a row ends without a termination; None for nothing.
        entropy_coef: :math:`\alpha`, the price of a unit of log-probability.
        lam: :math:`\lambda` of the returns; below 1 they lean on ``value`` at every step.
        baseline: what the likelihood ratio subtracts from a return: nothing, the mean over the *other* rows at the same
            time, or ``value``. None of them changes the expectation.

    Raises:
        ValueError: for numbers out of range, and where a value is needed and missing.
    """

    horizon: int
    discount: float = 0.99
    value: DrawnValue | None = None
    entropy_coef: float = 0.0
    lam: float = 1.0
    baseline: Baseline = "mean"

    def __post_init__(self) -> None:
        at_least("horizon", self.horizon, 0)
        within("discount", self.discount, 0, 1)
        within("entropy_coef", self.entropy_coef, 0)
        within("lam", self.lam, 0, 1)
        if self.baseline not in ("none", "mean", "value"):
            raise ValueError(f"baseline must be 'none', 'mean' or 'value', got {self.baseline!r}.")
        if self.value is None and (self.baseline == "value" or self.lam < 1 or self.horizon == 0):
            raise ValueError("A value is needed for baseline='value', for lam < 1, and for a horizon of 0: give one.")


class Estimate(NamedTuple):
    """A gradient before it is taken.

    Attributes:
        rows: ``(B,)``, whose mean has the estimated gradient. Those of the likelihood ratio mean nothing as numbers.
        returns: ``(B,)``, the imagined return of each start, without gradient.
        unrolled: the steps they come from.
    """

    rows: Tensor
    returns: Tensor
    unrolled: Unrolled


def pathwise(
    model: DynamicsModel[Any],
    policy: DifferentiablePolicy,
    starts: Tensor,
    objective: ImaginedReturn,
    *,
    generator: Generator,
) -> Estimate:
    r"""The derivative of the return along each trajectory, its draws held fixed (reparameterisation).

    .. math:: \nabla_\theta J = E\, \nabla_\theta \Big[\sum_{t<H} \gamma^t r(s_t, a_t) + \gamma^H V(s_H)\Big], \quad
              a_t = \pi_\theta(s_t, \epsilon_t), \quad s_{t+1} = f(s_t, a_t, \xi_t)

    (Heess et al. 2015, "Learning continuous control policies by stochastic value gradients"; with a critic at the end,
    Amos et al. 2021, "On the model-based stochastic value gradient for continuous reinforcement learning"). A
    termination moves with the parameters too, and that share of the slope is missing here.

    Args:
        model: a differentiable dynamics model.
        policy: draws actions with gradients.
        starts: ``(B, O)`` observations in raw units.
        objective: what is differentiated.
        generator: source of every draw, on the model's device.

    Raises:
        TypeError: for a model through which no gradient flows, with the estimator that works for it.
        ValueError: as :func:`~mbrl_wrappers.unroll.unroll` does, and for an entropy without log-probabilities.
    """
    unrolled = unroll_with_gradient(model, policy, starts, objective.horizon, generator=generator)
    if unrolled.action.requires_grad:
        _check_gradient(model, unrolled, objective)
    if objective.lam < 1:
        assert objective.value is not None
        values = _values_everywhere(objective.value, unrolled, generator)
    else:
        values = _placed(_Ends.of(objective.value, unrolled, generator), unrolled)
    rewarded = _with_entropy(unrolled, objective)
    rows = lambda_returns(rewarded, values, discount=objective.discount, lam=objective.lam)[0]
    return Estimate(rows, rows.detach(), unrolled)


def likelihood_ratio(
    model: DynamicsModel[Any],
    policy: ScoredPolicy,
    starts: Tensor,
    objective: ImaginedReturn,
    *,
    generator: Generator,
) -> Estimate:
    r"""The score of each action times what followed it.

    .. math:: \nabla_\theta J = E \sum_{t<H} (\gamma \lambda)^t\, \nabla_\theta \ln \pi_\theta(a_t \mid s_t)\,
              (G_t - b_t)

    where :math:`G_t` is the :math:`\lambda`-return from step :math:`t` on and :math:`b_t` the baseline (Williams 1992,
    "Simple statistical gradient-following algorithms"; Sutton et al. 2000, "Policy gradient methods"). The model is
    only sampled, so it may be a simulator or any function. The objective is that of :func:`pathwise`, with the same
    draws from the same generator: a ``value`` that depends on the parameters adds its own derivative where it is read.

    A step that is not valid did not take place: neither its action nor anything after it is scored.

    Args:
        model: any dynamics model.
        policy: draws constants and scores them.
        starts: ``(B, O)`` observations in raw units.
        objective: what is differentiated.
        generator: source of every draw, on the model's device.

    Raises:
        ValueError: as :func:`~mbrl_wrappers.unroll.unroll` does.
    """
    scored = _ConstantDraws(policy)
    with th.no_grad():
        unrolled = unroll(model, scored, starts.detach(), objective.horizon, generator=generator)
    rewarded = _with_entropy(unrolled, objective)
    rows, values = _direct(objective, rewarded, generator)
    returns = lambda_returns(rewarded, values, discount=objective.discount, lam=objective.lam)
    advantage = (returns - _baselines(objective.baseline, returns, values, unrolled))[:-1]
    # A return reads what follows its step t with this weight.
    weight = objective.discount * objective.lam
    scale = weight ** th.arange(objective.horizon, device=returns.device, dtype=returns.dtype)
    if scored.log_probs:
        log_prob = th.where(unrolled.valid, th.stack(scored.log_probs), 0.0)
        rows = rows + (log_prob * advantage * scale[:, None]).sum(0)
    return Estimate(rows, returns[0], unrolled)


def _direct(objective: ImaginedReturn, rewarded: Unrolled, generator: Generator) -> tuple[Tensor, Tensor]:
    """What the values in each row's return add by themselves, ``(B,)``, and ``(H + 1, B)`` values as constants."""
    if objective.lam < 1:
        assert objective.value is not None
        values = _values_everywhere(objective.value, rewarded, generator)
        rows = lambda_returns(rewarded, values, discount=objective.discount, lam=objective.lam)[0]
        return rows, values.detach()
    ends = _Ends.of(objective.value, rewarded, generator)
    rows = ends.values * (objective.discount**ends.time * ends.counts)
    with th.no_grad():
        if objective.baseline == "value":
            assert objective.value is not None
            return rows, _values_everywhere(objective.value, rewarded, generator)
        return rows, _placed(ends, rewarded)


def group_gradients(estimates: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The gradient of each estimate's mean by all ``parameters``, as one row each: ``(N, P)``.

    Args:
        estimates: ``N`` tensors of rows, :attr:`Estimate.rows`, such as those of ``N`` groups of starts.
        parameters: of the policy; one that an estimate does not depend on gets zeros.
    """
    return th.stack([_gradient(rows, parameters) for rows in estimates])


def _gradient(rows: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    found: tuple[Tensor | None, ...] = (None,) * len(parameters)
    if rows.requires_grad:
        found = th.autograd.grad(rows.mean(), list(parameters), allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return th.cat([(th.zeros_like(like) if part is None else part).flatten() for part, like in pairs])


def unroll_with_gradient(
    model: DynamicsModel[Any], policy: DifferentiablePolicy, starts: Tensor, horizon: int, *, generator: Generator
) -> Unrolled:
    """:func:`~mbrl_wrappers.unroll.unroll` in a model that may turn out to leave torch.

    Raises:
        TypeError: if it does, with the estimator that works for it.
    """
    try:
        return unroll(model, policy, starts, horizon, generator=generator)
    except RuntimeError as error:
        if "requires grad" in str(error):  # numpy() of a tensor that a derivative is wanted for
            raise not_differentiable(model) from error
        raise


def not_differentiable(model: DynamicsModel[Any]) -> TypeError:
    """The refusal of ``model`` by whatever differentiates through it."""
    return TypeError(
        f"No gradient flows through {type(model).__name__}: what it predicts does not depend differentiably on the "
        "action. Pathwise updates need a model, and known functions, of torch operations. What only samples the model "
        "works with this one: ModelPolicyGradient(estimator='likelihood_ratio'), or SAC with DynaCallback."
    )


class _ConstantDraws:
    """A policy whose draws are constants; their log-probabilities are kept, with gradients also under ``no_grad``."""

    def __init__(self, policy: ScoredPolicy) -> None:
        self._policy = policy
        self.log_probs: list[Tensor] = []

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        with th.enable_grad():
            action, log_prob = self._policy.sample_scored(obs, generator=generator)
        self.log_probs.append(log_prob)
        return action.detach(), log_prob.detach()


class _Ends(NamedTuple):
    """The values where rows end, all ``(B,)``: of which observation, and whether the return counts it."""

    values: Tensor
    time: Tensor
    counts: Tensor

    @classmethod
    def of(cls, value: DrawnValue | None, unrolled: Unrolled, generator: Generator) -> _Ends:
        """The value of the last observation that each row was alive at."""
        time = unrolled.alive.sum(0) - 1
        last = unrolled.obs[time, th.arange(len(time), device=time.device)]
        values = last.new_zeros(len(last)) if value is None else _checked(value(last, generator=generator), len(last))
        return cls(values, time, ~unrolled.terminated.any(0))


def _placed(ends: _Ends, unrolled: Unrolled) -> Tensor:
    """``(H + 1, B)`` values of which only those are given that full returns read."""
    times = th.arange(len(unrolled.alive), device=ends.time.device)[:, None]
    return th.where(times == ends.time, ends.values, 0.0)


def _values_everywhere(value: DrawnValue, unrolled: Unrolled, generator: Generator) -> Tensor:
    obs = unrolled.obs.flatten(0, 1)
    return _checked(value(obs, generator=generator), len(obs)).view(unrolled.alive.shape)


def _checked(values: Tensor, rows: int) -> Tensor:
    if values.shape != (rows,):
        raise ValueError(f"The value must have shape ({rows},), one per observation, got {tuple(values.shape)}.")
    return values


def _with_entropy(unrolled: Unrolled, objective: ImaginedReturn) -> Unrolled:
    if not objective.entropy_coef:
        return unrolled
    if unrolled.log_prob is None:
        raise ValueError("A deterministic policy has no entropy: leave entropy_coef at 0.")
    return unrolled._replace(reward=unrolled.reward - objective.entropy_coef * unrolled.log_prob)


def _baselines(kind: Baseline, returns: Tensor, values: Tensor, unrolled: Unrolled) -> Tensor:
    """``(H + 1, B)``, each independent of its row's action."""
    if kind == "value":
        return values
    if kind == "none":
        return th.zeros_like(returns)
    valid = th.cat([unrolled.valid, unrolled.alive[-1:]])
    counted = th.where(valid, returns, 0.0)
    others = valid.sum(1, keepdim=True) - 1
    return (counted.sum(1, keepdim=True) - counted) / others.clamp(min=1) * (others > 0)


def _check_gradient(model: DynamicsModel[Any], unrolled: Unrolled, objective: ImaginedReturn) -> None:
    """Refuse a model from which no derivative comes back, though one went in with the action."""
    further = objective.horizon > 1 or objective.value is not None
    if (further and not unrolled.obs[1:].requires_grad) or not (further or unrolled.reward.requires_grad):
        raise not_differentiable(model)
    if objective.value is None and not unrolled.reward.requires_grad:
        raise TypeError(
            "The reward of this model has no derivative, so the pathwise gradient is zero whatever the policy does: "
            "use the likelihood-ratio estimator, or a terminal value."
        )
