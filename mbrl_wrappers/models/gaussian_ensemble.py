"""Bootstrapped Gaussian networks: their outputs, their units and what they learn. Rollouts are in ``ensemble.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch as th
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.nets import BoundedLogVariance, EnsembleMLP, Normalizer, Routing, gaussian_nll
from mbrl_wrappers.precision import lost_in_float32
from mbrl_wrappers.types import Limits, Transitions

# A row that terminates counts at most so many times as much as one that does not.
MAX_CLASS_RATIO = 100.0


@dataclass(frozen=True)
class EnsembleOptions:
    """Numbers of the ensemble that are seldom changed.

    Attributes:
        log_variance_low: lower limit of the log-variance, in standardised target units.
        log_variance_high: upper limit.
        learn_log_variance_limits: train the two limits of each member (PETS) or keep them fixed for all.
        target: the networks predict the ``"delta"`` of the observation, or the next observation ``"direct"``; either is
            standardised per dimension.
        layer_norm: normalise the features of each hidden layer of the networks.
        limit_margin: predictions further outside of the training data than this share of its width are dropped.
    """

    log_variance_low: float = -10.0
    log_variance_high: float = 0.5
    learn_log_variance_limits: bool = False
    limit_margin: float = 1.0
    target: Literal["delta", "direct"] = "delta"
    layer_norm: bool = False

    def __post_init__(self) -> None:
        if self.target not in ("delta", "direct"):
            raise ValueError(f'target must be "delta" or "direct", got {self.target!r}.')
        within("limit_margin", self.limit_margin, 0)


class Outputs(NamedTuple):
    """Raw network outputs in standardised units: ``mean`` and ``log_variance (..., D)``, ``logit (...,)`` or None."""

    mean: Tensor
    log_variance: Tensor
    logit: Tensor | None


class Examples(NamedTuple):
    """What members learn from: ``inputs (..., O + A)``, ``targets (..., D)`` standardised, ``terminated (...,)``."""

    inputs: Tensor
    targets: Tensor
    terminated: Tensor

    def take(self, index: Tensor) -> Examples:
        """Rows by index of any shape, e.g. ``(E, B)`` for one batch per member."""
        return Examples(self.inputs[index], self.targets[index], self.terminated[index])


class GaussianEnsemble(nn.Module):
    r"""``E`` networks that predict mean and log-variance of the standardised change of the observation.

    A reward and the logit of a termination are predicted as well where they are learned. Input and target statistics
    are those of the training rows.

    Args:
        sizes: dimensions of observation and model action, ``(O, A)``.
        num_members: networks trained, ``E``.
        num_elites: networks used for prediction, the best on the holdout.
        hidden: width of each hidden layer.
        learned: whether the reward and the termination are learned.
        options: numbers that are seldom changed.
        generator: source of the initial weights.

    Raises:
        ValueError: for impossible numbers.
    """

    elites: Tensor
    termination_threshold: Tensor

    def __init__(
        self,
        sizes: tuple[int, int],
        *,
        num_members: int,
        num_elites: int,
        hidden: Sequence[int],
        learned: tuple[bool, bool],
        options: EnsembleOptions,
        generator: Generator,
    ) -> None:
        super().__init__()
        at_least("num_members", num_members)
        at_least("num_elites", num_elites)
        if num_elites > num_members:
            raise ValueError(f"Need num_elites <= num_members, got {num_elites} and {num_members}.")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden needs at least one layer of positive width, got {tuple(hidden)}.")
        self.num_members, self.num_elites, self.hidden = num_members, num_elites, tuple(hidden)
        self.obs_size, self.action_size = sizes
        self.learn_reward, self.learn_termination = learned
        self.options = options
        self.target_size = self.obs_size + self.learn_reward
        outputs = 2 * self.target_size + self.learn_termination
        self.net = EnsembleMLP(
            num_members,
            self.obs_size + self.action_size,
            self.hidden,
            outputs,
            layer_norm=options.layer_norm,
            generator=generator,
        )
        self.log_variance = BoundedLogVariance(
            self.target_size,
            options.log_variance_low,
            options.log_variance_high,
            learn_for=num_members if options.learn_log_variance_limits else None,
        )
        self._termination_rate = 0.0  # share of the training rows
        self.obs_normalizer = Normalizer(self.obs_size)
        self.target_normalizer = Normalizer(self.target_size)
        self.register_buffer("elites", th.arange(num_elites))
        self.register_buffer("termination_threshold", th.zeros(()))  # on the logit; 0 is a probability of one half
        for name, limit in Limits.none(self.obs_size)._asdict().items():
            self.register_buffer(f"limit_{name}", limit.double())

    @property
    def device(self) -> th.device:
        """Where the weights live."""
        return self.elites.device

    @property
    def dtype(self) -> th.dtype:
        """That of the weights."""
        return self.obs_normalizer.std.dtype

    @property
    def obs_dtype(self) -> th.dtype:
        """That of states and predictions: float64 where float32 would lose the changes of the training rows."""
        if self.options.target == "direct":
            return self.dtype
        scale, target = self.obs_normalizer, self.target_normalizer
        magnitude = (scale.mean**2 + scale.std**2).sqrt()
        change = (target.mean**2 + target.std**2).sqrt()[: self.obs_size]
        return th.float64 if bool(lost_in_float32(magnitude, change).any()) else self.dtype

    @property
    def action_bounds(self) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest model action, each ``(A,)``, where a subclass knows them."""
        return None

    def as_weights(self, rows: Tensor) -> Tensor:
        """``rows`` on the device and in the dtype of the weights."""
        return rows.to(self.device, self.dtype)

    def as_observations(self, obs: Tensor) -> Tensor:
        """``obs`` on the device and in the dtype of observations; what is in that of the weights stays in it."""
        return obs.to(self.device, self.dtype if obs.dtype == self.dtype else self.obs_dtype)

    @property
    def limits(self) -> Limits:
        """The range of the training data with its margin; any finite number before the first fit.

        The reward is limited only where it is learned.
        """
        return Limits(*(getattr(self, f"limit_{name}") for name in Limits._fields))

    # --- data -------------------------------------------------------------------------------------------------------

    def set_statistics(self, rows: Transitions) -> None:
        """Take normaliser statistics and limits from the training rows, and from them only."""
        self._check_direct(rows)
        self._termination_rate = float(rows.terminated.float().mean())
        self.obs_normalizer.set_statistics(rows.obs)
        self.target_normalizer.set_statistics(self._raw_targets(rows))
        reward = rows.reward if self.learn_reward else None  # a known reward is no guess that could be wrong
        limits = Limits.of(th.cat([rows.obs, rows.next_obs]), reward, self.options.limit_margin)
        for name, value in limits._asdict().items():
            getattr(self, f"limit_{name}").copy_(value)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the predicted dimensions, ``D`` strings."""
        return (*(f"obs{index}" for index in range(self.obs_size)), *(["reward"] * self.learn_reward))

    def examples(self, rows: Transitions) -> Examples:
        """Standardised inputs and targets of ``rows``.

        The target of a dimension that never changed in the training rows is its distance to the constant in raw units:
        zero in those rows, and what the model misses where the holdout does change.
        """
        raw, scale = self._raw_targets(rows), self.target_normalizer
        targets = th.where(scale.constant, raw - scale.mean, scale.normalize(raw))
        return Examples(self.inputs(rows.obs, rows.action), targets, rows.terminated.float())

    def _raw_targets(self, rows: Transitions) -> Tensor:
        following = rows.next_obs if self.options.target == "direct" else rows.next_obs - rows.obs
        following = following.to(self.dtype)
        return following if not self.learn_reward else th.cat([following, rows.reward[:, None]], 1)

    def _check_direct(self, rows: Transitions) -> None:
        """A direct target needs observations whose changes float32 can tell apart."""
        if self.options.target == "direct" and rows.obs.dtype != self.dtype:
            raise ValueError(
                "The observations lie so far from zero that float32 loses their changes, and a direct target would "
                'round them away: leave EnsembleOptions(target="delta"), or subtract an offset in the environment.'
            )

    def inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """Network inputs ``(B, O + A)``: standardised observation, model action as it is (already in [-1, 1])."""
        return th.cat([self.obs_normalizer.normalize(obs).to(action.dtype), action], 1)

    # --- outputs ----------------------------------------------------------------------------------------------------

    def outputs(self, inputs: Tensor) -> Outputs:
        """All members on their own inputs, ``(E, B, O + A)`` to outputs ``(E, B, ...)``."""
        return self._split(self.net(inputs), th.arange(self.num_members, device=self.device))

    def elite_outputs(self, inputs: Tensor) -> Outputs:
        """Every elite on every row of ``inputs (B, O + A)``: outputs ``(num_elites, B, ...)``."""
        return self._split(self.elite_columns(inputs), self.elites)

    def elite_columns(self, inputs: Tensor) -> Tensor:
        """What the networks of the elites return for ``inputs (B, O + A)``, ``(num_elites, B, columns)``."""
        routing = Routing.of(self.elites.repeat_interleave(len(inputs)), self.num_members)
        raw = routing.restore(self.net.route(inputs.repeat(self.num_elites, 1), routing))
        return raw.reshape(self.num_elites, len(inputs), -1)

    def _split(self, raw: Tensor, member: Tensor) -> Outputs:
        """The outputs ``(M, B, ...)`` of ``member (M,)``."""
        mean, raw_log_variance, logit = self.columns(raw)
        mean = mean.masked_fill(self.target_normalizer.constant, 0)  # as in a rollout: exactly the constant
        return Outputs(mean, self.log_variance(raw_log_variance, member[:, None]), logit)

    def columns(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the columns of a network's output are: mean, log-variance before its limits, logit."""
        size = self.target_size
        return raw[..., :size], raw[..., size : 2 * size], raw[..., 2 * size] if self.learn_termination else None

    # --- learning: called by the Trainer ----------------------------------------------------------------------------

    def member_parameters(self) -> list[Tensor]:
        """All that is trained, with the member axis first."""
        return [*self.net.parameters(), *self.log_variance.parameters()]

    def loss(self, batch: Examples, *, beta: float = 0.0, log_variance_penalty: float = 0.01) -> Tensor:
        """The training loss of all members, ``()``: the sum of :meth:`losses`."""
        return self.losses(batch, beta=beta, log_variance_penalty=log_variance_penalty).sum()

    def losses(self, batch: Examples, *, beta: float = 0.0, log_variance_penalty: float = 0.01) -> Tensor:
        r"""The training loss of each member, ``(E,)``.

        .. math:: \frac{1}{B D}\sum_{b, d} \Big[\frac{(y - m_e)^2}{v_e} + \ln v_e\Big]
                  + \frac{1}{B}\sum_b w_{t_b}\,\mathrm{BCE}(x_e + \ln\tfrac{w_1}{w_0}, t_b)
                  + c\,(\ell_{max} - \ell_{min})

        The second term is that of a learned termination :math:`t` with logit :math:`x_e`; the third is there where the
        limits of the log-variance are learned. The weights :math:`w_0, w_1` make both classes count alike, up to
        :data:`MAX_CLASS_RATIO`, and have mean 1; the shift undoes what they do to the odds (King and Zeng 2001,
        "Logistic regression in rare events data"), so that the logit stays that of the probability.

        Args:
            batch: one batch per member, leading shape ``(E, B)``.
            beta: weights each term by :math:`v_e^\beta`, see :func:`~mbrl_wrappers.nets.gaussian_nll`.
            log_variance_penalty: ``c`` (PETS uses 0.01).
        """
        outputs = self.outputs(batch.inputs)
        losses = gaussian_nll(outputs.mean, outputs.log_variance, batch.targets, beta).mean((1, 2))
        if outputs.logit is not None:
            rate, ratio = self._termination_rate, self._class_ratio()
            usual = 1 / (1 - rate + rate * ratio)
            weight = usual * (1 + (ratio - 1) * batch.terminated)
            shifted = outputs.logit + math.log(ratio)
            entropy = binary_cross_entropy_with_logits(shifted, batch.terminated, weight, reduction="none")
            losses = losses + entropy.mean(1)
        return losses + log_variance_penalty * self.log_variance.penalty()

    def _class_ratio(self) -> float:
        """How many times the weight of a usual row a row that terminates has."""
        rate = self._termination_rate
        if not 0 < rate < 1:
            return 1.0
        return min(max((1 - rate) / rate, 1 / MAX_CLASS_RATIO), MAX_CLASS_RATIO)

    @th.no_grad()
    def errors(self, batch: Examples) -> Tensor:
        r"""The selection score of each member on common rows ``(B, ...)``, shape ``(E,)``; lower is better.

        With :math:`e_d` the mean squared error of dimension :math:`d` in standardised units it is the mean over
        dimensions of :math:`e_d / (1 + e_d)`: close to :math:`e_d` where a dimension is predicted well, and bounded
        where it cannot be predicted (rare contact forces), so that no such dimension outvotes the others. A learned
        termination adds its cross-entropy. A member that predicts anything that is not finite scores infinity.
        """
        outputs = self.outputs(batch.inputs.expand(self.num_members, *batch.inputs.shape))
        error = (outputs.mean - batch.targets).square().mean(1)
        score = (error / (1 + error)).mean(1)
        if outputs.logit is not None:
            truth = batch.terminated.expand_as(outputs.logit)
            score = score + binary_cross_entropy_with_logits(outputs.logit, truth, reduction="none").mean(1)
        finite = score.isfinite() & outputs.log_variance.isfinite().all((1, 2))
        return score.masked_fill(~finite, math.inf)
