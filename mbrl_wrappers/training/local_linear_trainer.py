"""Fits the pieces of a local linear model by regularised least squares on recent episodes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch as th
from torch import Tensor

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.fitting import FitReport
from mbrl_wrappers.models.local_linear import LinearPieces, LocalLinearModel, quadratic_features
from mbrl_wrappers.training.dataset import checked_row_ids, split_holdout
from mbrl_wrappers.training.report import HALF_WIDTH_50, HALF_WIDTH_90
from mbrl_wrappers.types import Limits, Transitions

SMALLEST_VARIANCE = 1e-10
"""Added to variances in units of the rows' own, so that what never changes has an inverse."""


@dataclass(frozen=True)
class LocalLinearConfig:
    """How a :class:`~mbrl_wrappers.models.local_linear.LocalLinearModel` is fitted.

    Attributes:
        recent_rows: the newest rows that a fit uses; what is older belongs to another policy.
        prior_rows: how many rows of a piece the regression over all rows counts as.
        limit_margin: predictions further outside of the rows than this share of their width are dropped.
        holdout_ratio: share of the rows held out.
        seed: of the holdout.
    """

    recent_rows: int = 2000
    prior_rows: float = 20.0
    limit_margin: float = 1.0
    holdout_ratio: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("recent_rows", self.recent_rows, 10)
        within("prior_rows", self.prior_rows, 1e-6)
        within("limit_margin", self.limit_margin, 0)
        if not 0 < self.holdout_ratio < 1:
            raise ValueError(f"holdout_ratio must be inside (0, 1), got {self.holdout_ratio}.")


class LocalLinearTrainer:
    r"""Refits every piece from scratch, in closed form.

    .. math:: W_k = \arg\min_W \sum_{i \in k} \|\Delta_i - W z_i\|^2 + n_0 \operatorname{tr} (W - W_0) S (W - W_0)^\top

    where :math:`W_0` is the regression over all rows, :math:`S` the second moment of :math:`z` in them and :math:`n_0`
    ``prior_rows``. A piece with few rows is then like the others, and a system that is linear is found exactly.

    Args:
        model: what is fitted.
        config: how.
    """

    def __init__(self, model: LocalLinearModel, config: LocalLinearConfig | None = None) -> None:
        self.model = model
        self.config = config or LocalLinearConfig()

    def fit(
        self, transitions: Transitions, *, max_gradient_steps: int | None = None, row_ids: Tensor | None = None
    ) -> FitReport:
        """Fit to the newest of ``transitions``.

        Args:
            transitions: rows in raw units, episodes in order of time. The time of a row is counted from the row after
                the last end.
            max_gradient_steps: not used: there is no optimiser.
            row_ids: ``(B,)`` int64, the number of each row in order of collection; by default its position.

        Raises:
            ValueError: for too few or non-finite rows, and for terminations without a ``termination_fn``.
        """
        started, model = time.perf_counter(), self.model
        ids = checked_row_ids(row_ids, transitions.num_rows)
        times = episode_times(transitions.last.cpu())
        kept = (ids > int(ids.max()) - self.config.recent_rows).nonzero().flatten()
        _check(transitions, kept, known=model.termination_fn is not None)
        split = split_holdout(ids[kept], self.config.holdout_ratio, 1000, seed=self.config.seed)
        train, holdout = (_columns(transitions, times, kept[part]) for part in (split.train, split.holdout))
        before = math.nan if model.pieces is None else _score(_standardised_errors(model, holdout, train))
        model.pieces = LinearPieces(*(part.float().to(model.device) for part in self._pieces(train)))
        reward = train.reward.float() if model.reward_fn is None else None
        observed = th.cat([train.obs, train.next_obs]).float()
        limits = Limits.of(observed, reward, self.config.limit_margin)
        model.limits = Limits(*(edge.to(model.device) for edge in limits))
        return _report(model, train, holdout, before, started)

    def _pieces(self, rows: _Rows) -> LinearPieces:
        model, prior = self.model, self.config.prior_rows
        mean, std = rows.obs.mean(0), rows.obs.std(0, correction=0)
        std = th.where(std > 1e-6 * (1 + mean.abs()), std, th.ones_like(std))
        inputs = th.cat([(rows.obs - mean) / std, rows.action], 1)
        piece = rows.time // model.window
        count = int(piece.max()) + 1
        constant = th.cat([inputs, th.ones_like(inputs[:, :1])], 1)
        change = piecewise_regression(constant, rows.next_obs - rows.obs, piece, count, prior)
        left = rows.next_obs - rows.obs - th.einsum("bof,bf->bo", change[piece], constant)
        noise = _piecewise_covariance(left, piece, count, prior)
        spread = (rows.next_obs - rows.obs).var(0, correction=0)
        scale = SMALLEST_VARIANCE * th.where(spread > 0, spread, th.ones_like(spread))
        reward = inputs.new_zeros(count, 0)
        if model.reward_fn is None:
            features = quadratic_features(inputs)
            reward = piecewise_regression(features, rows.reward[:, None], piece, count, prior)[:, 0]
        center = _piecewise_mean(rows.obs, piece, count, prior)
        around = _piecewise_covariance(rows.obs - center[piece], piece, count, prior)
        factor = th.linalg.cholesky(around + th.diag(1e-6 * std**2))
        return LinearPieces(
            change=change,
            noise=th.linalg.cholesky(noise + th.diag(scale)),
            reward=reward,
            center=center,
            whitening=th.linalg.inv(factor),
            log_volume=factor.diagonal(dim1=1, dim2=2).log().sum(1),
            obs_mean=mean,
            obs_std=std,
        )


@dataclass(frozen=True)
class _Rows:
    """Some rows in float64 on the CPU, and their ``time (n,)`` int64."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    time: Tensor


def _columns(transitions: Transitions, times: Tensor, index: Tensor) -> _Rows:
    columns = (transitions.obs, transitions.action, transitions.reward, transitions.next_obs)
    obs, action, reward, next_obs = (column.cpu()[index].double() for column in columns)
    return _Rows(obs, action, reward, next_obs, times[index])


def episode_times(last: Tensor) -> Tensor:
    """The number of steps since the start of the episode, ``(B,)`` int64, from the ends ``last (B,)`` bool."""
    index = th.arange(len(last))
    first = th.cat([last.new_ones(1), last[:-1]])
    return index - th.where(first, index, 0).cummax(0).values


def piecewise_regression(inputs: Tensor, targets: Tensor, piece: Tensor, count: int, prior_rows: float) -> Tensor:
    """The weights ``(count, D, F)`` of ``targets (n, D)`` on ``inputs (n, F)`` in each ``piece (n,)``.

    Every piece leans on the regression over all rows as if that were ``prior_rows`` rows of its own.
    """
    overall = th.linalg.lstsq(inputs, targets, driver="gelsd").solution.T  # (D, F)
    moment = inputs.T @ inputs / len(inputs)
    # The residual of the overall regression is what is left to explain: nothing, where the system is linear.
    left = targets - inputs @ overall.T
    found = []
    for number in range(count):
        rows = piece == number
        gram = inputs[rows].T @ inputs[rows] + prior_rows * moment
        correction = th.linalg.lstsq(gram, inputs[rows].T @ left[rows], driver="gelsd").solution.T
        found.append(overall + correction)
    return th.stack(found)


def _piecewise_mean(rows: Tensor, piece: Tensor, count: int, prior_rows: float) -> Tensor:
    sums = rows.new_zeros(count, rows.shape[1]).index_add(0, piece, rows)
    counts = rows.new_zeros(count).index_add(0, piece, th.ones_like(rows[:, 0]))
    return th.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], rows.mean(0))


def _piecewise_covariance(rows: Tensor, piece: Tensor, count: int, prior_rows: float) -> Tensor:
    """Second moments ``(count, n, n)``, each with that of all rows as ``prior_rows`` further rows."""
    overall = rows.T @ rows / len(rows)
    found = []
    for number in range(count):
        own = rows[piece == number]
        found.append((own.T @ own + prior_rows * overall) / (len(own) + prior_rows))
    return th.stack(found)


def _check(transitions: Transitions, kept: Tensor, *, known: bool) -> None:
    if len(kept) < 10:
        raise ValueError(f"Need at least 10 transitions to fit a model and hold some out, got {len(kept)}.")
    for name, column in zip(Transitions._fields, transitions, strict=True):
        if not column.double().isfinite().all():
            raise ValueError(f"Transitions.{name} has a number that is not finite: drop the row before fitting.")
    if not known and bool(transitions.terminated.any()):
        raise ValueError(
            "Episodes terminate, and LocalLinearModel cannot learn when: give it termination_fn "
            "(mbrl_wrappers.tasks has those of many tasks)."
        )


def _standardised_errors(model: LocalLinearModel, rows: _Rows, scale: _Rows) -> Tensor:
    """Errors of the change and of a learned reward ``(n, D)``, in standard deviations of the rows ``scale``."""
    predicted, wanted, spread = _predicted(model, rows), _targets(model, rows), _targets(model, scale).std(0)
    return (wanted - predicted) / th.where(spread > 0, spread, th.ones_like(spread))


def _targets(model: LocalLinearModel, rows: _Rows) -> Tensor:
    change = rows.next_obs - rows.obs
    return change if model.reward_fn is not None else th.cat([change, rows.reward[:, None]], 1)


def _predicted(model: LocalLinearModel, rows: _Rows) -> Tensor:
    """The mean change, and the reward where it is learned."""
    pieces, piece = model.pieces, model.piece(rows.time.to(model.device)).cpu()
    assert pieces is not None
    inputs = model.inputs(rows.obs.float().to(model.device), rows.action.float().to(model.device)).double().cpu()
    constant = th.cat([inputs, th.ones_like(inputs[:, :1])], 1)
    change = th.einsum("bof,bf->bo", pieces.change.cpu().double()[piece], constant)
    if model.reward_fn is not None:
        return change
    reward = (pieces.reward.cpu().double()[piece] * quadratic_features(inputs)).sum(1)
    return th.cat([change, reward[:, None]], 1)


def _score(errors: Tensor) -> float:
    squared = errors.square().mean(0)
    return float((squared / (1 + squared)).mean())


def _report(model: LocalLinearModel, train: _Rows, holdout: _Rows, before: float, started: float) -> FitReport:
    """What came of the fit, on rows that it did not see."""
    errors = _standardised_errors(model, holdout, train)
    spread = _targets(model, train).std(0)
    own = (_targets(model, holdout) - _targets(model, holdout).mean(0)).square().mean(0)
    unexplained = (errors * th.where(spread > 0, spread, th.ones_like(spread))).square().mean(0)
    r2 = th.where(spread > 0, 1 - unexplained / th.where(own > 1e-3 * spread**2, own, spread**2), math.nan)
    assert model.pieces is not None
    factor = model.pieces.noise.cpu().double()
    deviation = (factor @ factor.transpose(1, 2)).diagonal(dim1=1, dim2=2).sqrt()  # (K, O)
    if model.reward_fn is None:  # the reward is predicted without noise, so its errors in the rows stand for it
        missed = (_targets(model, train) - _predicted(model, train))[:, -1:].std(0).clamp(min=1e-12)
        deviation = th.cat([deviation, missed.expand(len(deviation), 1)], 1)
    piece = model.piece(holdout.time.to(model.device)).cpu()
    ratio = (_targets(model, holdout) - _predicted(model, holdout)).abs() / deviation[piece]
    names = [f"obs{index}" for index in range(holdout.obs.shape[1])]
    log_variance = 2 * deviation.log()
    return FitReport(
        epochs=1,
        gradient_steps=0,
        rows_seen=len(train.obs),
        train_rows=len(train.obs),
        holdout_rows=len(holdout.obs),
        holdout_error=(_score(errors),),
        initial_error=(before,),
        dimensions=(*names, *["reward"] * (len(r2) - len(names))),
        holdout_r2=tuple(r2.tolist()),
        coverage_50=tuple((ratio < HALF_WIDTH_50).double().mean(0).tolist()),
        coverage_90=tuple((ratio < HALF_WIDTH_90).double().mean(0).tolist()),
        log_variance_spread=tuple(log_variance[piece].std(0, correction=0).tolist()),
        log_variance_low=tuple(log_variance.amin(0).tolist()),
        log_variance_high=tuple(log_variance.amax(0).tolist()),
        elites=(0,),
        diverged_members=(),
        termination_threshold=None,
        termination_precision=None,
        termination_recall=None,
        termination_base_rate=None,
        termination_events=None,
        seconds=time.perf_counter() - started,
    )
