"""Planning problems: the best actions over a horizon, from given starts, in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import torch as th
from torch import Generator, Tensor

from controllers.risk import Mean, Risk
from controllers.validity import limits_from, limits_of_rows, valid_rows
from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.rows import num_rows, take_rows
from mbrl_wrappers.seeding import torch_generator
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.types import (
    DynamicsModel,
    Limits,
    MemberModel,
    Prediction,
    SequenceModel,
    SharedNoiseModel,
)

S = TypeVar("S")

TerminalValue = Callable[[Tensor], Tensor]
"""``terminal_value(obs (B, O)) -> (B,)``: the return expected after the horizon."""


class Evaluation(NamedTuple):
    """Scores and returns of candidates.

    Attributes:
        scores: ``(N, P)``, minus infinity for candidates that failed.
        returns: ``(N, P, K)`` of their particles, minus infinity for particles that failed.
        members: ``(N, K)`` int64, the member of the model that each particle followed to the horizon; None where none
            did. All candidates of a start share them.
    """

    scores: Tensor
    returns: Tensor
    members: Tensor | None


class PlanningProblem(Generic[S]):
    r"""``N`` starts in a model, each with the task to find the ``H`` actions of the highest score.

    The score of a candidate :math:`a_0 \dots a_{H-1}` is the risk :math:`\rho` (the mean, unless said otherwise) of the
    returns of its ``K`` particles,

    .. math:: \rho_k\Big[\sum_{t < \min(T_k, H)} \gamma^t r_t
              + \gamma^{T_k - 1} r_{end}\,[T_k \le H] + \gamma^H V(s_H)\,[T_k > H]\Big],

    where :math:`T_k` counts the steps of particle :math:`k` up to and with its first predicted termination. A particle
    that terminates gets ``terminal_reward`` :math:`r_{end}` and nothing after it; one that reaches the horizon gets
    ``terminal_value`` :math:`V`.

    A particle fails if, before it terminates, a prediction is not finite or outside of the model's ``limits``, where
    the model has them (:class:`~mbrl_wrappers.types.Limits`: the range of the data that a learned model was fitted
    to). A candidate with a failed particle scores minus infinity.

    A particle is one row of the model. Every start is reset ``K`` times; in an ensemble each particle then follows one
    member to the horizon (``propagation="tsinf"``), another member in each step (``"ts1"``) or the mean of all
    (``"mean"``), after PETS (Chua et al. 2018, section 5.1). With ``"tsinf"`` the members are dealt out evenly to the
    particles of a start. All candidates are tried with the same members, and with the same noise where the model
    offers that (:class:`~mbrl_wrappers.types.SharedNoiseModel`), so that scores differ by the actions alone.

    Args:
        model: any dynamics model.
        start: observations ``(N, O)``, or a state of the model with ``N`` rows; particles of a state share its member
            and differ by noise only. float64 is kept where the model computes in it, else cast to float32.
        horizon: steps planned, ``H``.
        discount: :math:`\gamma` in [0, 1].
        particles: rows per candidate, ``K``; one is enough for a deterministic model.
        risk: how the returns of the particles become one score; default :class:`~controllers.risk.Mean`.
        terminal_value: the return to expect from a state at the horizon, for example an agent's critic.
        terminal_reward: added where the model predicts a termination; negative when ending early is a failure.

    Raises:
        TypeError: for an action space that cannot be planned in, and a terminal value that cannot be called.
        ValueError: for impossible numbers, and for starts of the wrong shape or not finite.
    """

    def __init__(
        self,
        model: DynamicsModel[S],
        start: Tensor | S,
        horizon: int,
        *,
        discount: float = 1.0,
        particles: int = 1,
        risk: Risk | None = None,
        terminal_value: TerminalValue | None = None,
        terminal_reward: float = 0.0,
    ) -> None:
        self.model = model
        self.horizon = at_least("horizon", horizon)
        self.discount = within("discount", discount, 0, 1)
        self.particles = at_least("particles", particles)
        self.risk: Risk = risk or Mean()
        if terminal_value is not None and not callable(terminal_value):
            raise TypeError(
                f"terminal_value must be a function of observations, got {type(terminal_value).__name__}: wrap an SB3 "
                "agent as sb3_ext.AgentValue(agent)."
            )
        self.terminal_value = terminal_value
        self.terminal_reward = within("terminal_reward", terminal_reward, -float(th.finfo(th.float32).max))
        self.codec = ActionCodec(model.action_space)
        self.start = self._checked(start) if isinstance(start, Tensor) else start

    def _checked(self, obs: Tensor) -> Tensor:
        size = self.model.observation_space.shape[0]
        if obs.ndim != 2 or obs.shape[1] != size or not len(obs):
            raise ValueError(
                f"start must hold observations of the model, shape (N, {size}), got {tuple(obs.shape)}: is this a "
                "model of another environment?"
            )
        if not obs.isfinite().all():
            raise ValueError("start must be finite: nothing can be planned from an observation with NaN or infinity.")
        obs = obs.to(self.device)
        return obs if obs.dtype == th.float64 and self._computes_in_float64(obs[:1]) else obs.float()

    @th.no_grad()
    def _computes_in_float64(self, obs: Tensor) -> bool:
        """Whether the model takes a step from ``obs (1, O)`` in float64."""
        generator, action = torch_generator(0, self.device), self.middle.double()[None]
        try:
            self.model.step(self.model.reset(obs, generator=generator), action, generator=generator)
        except RuntimeError:  # what torch raises for tensors of different precision
            return False
        return True

    @property
    def num_problems(self) -> int:
        """The number of starts, ``N``."""
        return len(self.start) if isinstance(self.start, Tensor) else num_rows(self.start)

    @property
    def device(self) -> th.device:
        """Where the model computes, and where candidates must be."""
        return self.model.device

    @property
    def sequence_shape(self) -> tuple[int, int]:
        """``(H, A)``."""
        return self.horizon, self.codec.size

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest model action, each ``(A,)``."""
        low, high = self.codec.bounds
        return low.to(self.device), high.to(self.device)

    @property
    def middle(self) -> Tensor:
        """The default action ``(A,)``: the middle of a range, zero in an unbounded one, the first Discrete one."""
        if self.codec.groups:
            return th.cat([th.eye(size)[0] for size in self.codec.groups]).to(self.device)
        low, high = self.bounds
        return th.zeros_like(low).clamp(low, high)

    @property
    def limits(self) -> Limits | None:
        """The model's limits at this moment, widened to contain all starts; None for a model without limits."""
        return limits_from(self.model, self._observed)

    def limits_of(self, starts: Tensor) -> Limits | None:
        """The model's limits for rows that begin at the starts of numbers ``starts (B,)``, each widened to its own.

        So a start far outside changes nothing for the others. The limits of observations are ``(B, O)`` where a start
        lies outside, else ``(O,)``.
        """
        return limits_of_rows(self.model, self._observed, starts)

    @property
    def _observed(self) -> Tensor | None:
        """The starts as observations; None for states."""
        return self.start if isinstance(self.start, Tensor) else None

    @property
    def is_exact(self) -> bool:
        """Whether the model is the true environment, according to ``model.exact``."""
        return bool(getattr(self.model, "exact", False))

    def score(self, actions: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The score of each candidate, ``(N, P)``; minus infinity where it failed. Differentiable.

        Args and errors are those of :meth:`evaluate`.
        """
        return self.evaluate(actions, generator=generator).scores

    def evaluate(self, actions: Tensor, *, generator: Generator | None = None) -> Evaluation:
        """The score of each candidate and the returns it is made of. Differentiable.

        Args:
            actions: model actions ``(N, P, H, A)``.
            generator: source of the model's draws; by default one with a fixed seed, so that scores repeat. From the
                same state of the generator a candidate gets the same draws, whatever candidates are beside it, if the
                model shares its noise.

        Raises:
            ValueError: for another shape, and for a model that predicts other shapes than it should.
        """
        if actions.ndim != 4 or (len(actions), *actions.shape[2:]) != (self.num_problems, *self.sequence_shape):
            wanted = f"({self.num_problems}, P, {self.horizon}, {self.codec.size})"
            raise ValueError(f"actions must have shape {wanted}, got {tuple(actions.shape)}.")
        if actions.shape[1] == 1 and isinstance(self.model, SharedNoiseModel):
            # A single block of rows may be given its draws in another order than several.
            both = self.evaluate(actions.expand(-1, 2, -1, -1), generator=generator)
            return Evaluation(both.scores[:, :1], both.returns[:, :1], both.members)
        generator = generator or torch_generator(0, self.device)
        problems, population = actions.shape[:2]
        if isinstance(self.start, Tensor):  # one precision for both, the higher one
            actions = actions.to(th.promote_types(actions.dtype, self.start.dtype))
        # Simulators must not see NaN: such candidates take the default action, and fail.
        usable = actions.isfinite().all(3).all(2)  # (N, P)
        actions = th.where(usable[:, :, None, None], actions, self.middle.to(actions.dtype))
        # Candidates outermost: the blocks that share their random draws are then consecutive.
        rows = actions.transpose(0, 1)[:, :, None].expand(-1, -1, self.particles, -1, -1).flatten(0, 2)  # (P N K, H, A)
        state = self._states(population, actions.dtype, generator)
        members = self._members(state)
        returns = self._returns(state, rows, population, generator)
        returns = returns.view(population, problems, self.particles)
        scores = self.risk(returns)
        if scores.shape != returns.shape[:2]:
            raise ValueError(f"risk must reduce {tuple(returns.shape)} over particles, got {tuple(scores.shape)}.")
        # A candidate with a failed particle fails, whatever score the risk returns for it.
        valid = usable & returns.isfinite().all(2).t() & scores.isfinite().t()
        return Evaluation(th.where(valid, scores.t(), -th.inf), returns.transpose(0, 1), members)

    def _states(self, population: int, dtype: th.dtype, generator: Generator) -> S:
        """One state per particle and problem, the same for every candidate: ``P N K`` rows."""
        if isinstance(self.start, Tensor):
            start = self.start.to(dtype)
            state: S
            if isinstance(self.model, MemberModel):
                state = self.model.reset_particles(start, self.particles, generator=generator)
            else:
                state = self.model.reset(start.repeat_interleave(self.particles, 0), generator=generator)
        else:
            each = th.arange(self.num_problems, device=self.device)
            state = take_rows(self.start, each.repeat_interleave(self.particles))
        if population == 1:
            return state
        return take_rows(state, th.arange(num_rows(state), device=self.device).repeat(population))

    def _members(self, state: S) -> Tensor | None:
        """The member ``(N, K)`` that each particle of ``P N K`` rows follows to the horizon, None where none does."""
        members = self.model.lasting_members(state) if isinstance(self.model, MemberModel) else None
        if members is None:
            return None
        return members[: self.num_problems * self.particles].view(-1, self.particles)

    def _returns(self, state: S, actions: Tensor, groups: int, generator: Generator) -> Tensor:
        """The return of every row, ``(B,)``, minus infinity where a prediction failed."""
        alive = th.ones(len(actions), dtype=th.bool, device=self.device)
        failed = ~alive
        total = last = None
        starts = th.arange(self.num_problems, device=self.device).repeat_interleave(self.particles).repeat(groups)
        weight, limits = 1.0, self.limits_of(starts)
        for prediction in self._predictions(state, actions, groups, generator):
            valid = valid_rows(prediction, limits)
            failed = failed | (alive & ~valid)
            alive = alive & valid
            gain = prediction.reward + self.terminal_reward * prediction.terminated
            gain = weight * th.where(alive, gain, th.zeros_like(gain))
            total = gain if total is None else total + gain
            alive = alive & ~prediction.terminated
            weight *= self.discount
            last = prediction.next_obs
            if not alive.any():
                break
        assert total is not None, "a horizon has at least one step"
        assert last is not None
        if self.terminal_value is not None and alive.any():
            value = last.new_zeros(len(last)).masked_scatter(alive, self.end_values(last[alive]).to(last))
            failed = failed | ~value.isfinite()
            total = total + weight * value
        return th.where(failed, -th.inf, total)

    def end_values(self, obs: Tensor) -> Tensor:
        """Terminal values ``(B,)`` of states with observations ``obs (B, O)``; 0 without a ``terminal_value``.

        Raises:
            ValueError: if ``terminal_value`` returns another shape.
        """
        if self.terminal_value is None or not len(obs):
            return obs.new_zeros(len(obs))
        value = self.terminal_value(obs)
        if value.shape != (len(obs),):
            raise ValueError(f"terminal_value must return shape ({len(obs)},), got {tuple(value.shape)}.")
        return value

    def _predictions(self, state: S, actions: Tensor, groups: int, generator: Generator) -> Iterator[Prediction]:
        """The predictions of ``B`` rows step by step, by the fastest rollout method that the model offers."""
        rows, size = len(actions), self.model.observation_space.shape[0]
        if isinstance(self.model, SequenceModel):
            whole = self.model.rollout(state, actions, generator=generator, groups=groups)
            whole = whole.shaped((rows, self.horizon), size)
            for t in range(self.horizon):
                yield Prediction(*(field[:, t] for field in whole))
            return
        for t in range(self.horizon):
            if isinstance(self.model, SharedNoiseModel):
                state, prediction = self.model.step_shared(state, actions[:, t], generator=generator, groups=groups)
            else:
                state, prediction = self.model.step(state, actions[:, t], generator=generator)
            yield prediction.shaped((rows,), size)

    @property
    def is_differentiable(self) -> bool:
        """Whether gradients flow from actions to what the model predicts, in the rollout that :meth:`score` uses."""
        generator = torch_generator(0, self.device)
        with th.enable_grad():
            actions = self.middle.expand(self.num_problems, *self.sequence_shape).clone().requires_grad_()
            particles = actions.repeat_interleave(self.particles, 0)
            state = self._states(1, actions.dtype, generator)
            first = next(self._predictions(state, particles, 1, generator))
        return first.next_obs.requires_grad or first.reward.requires_grad
