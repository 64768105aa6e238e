"""A planning problem in coordinates: states as vectors, one row per problem, draws that repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch as th
from torch import Generator, Tensor

from controllers.plan import WarmStart
from controllers.problem import PlanningProblem
from controllers.shooting.base import complete_warm_start, require_box
from controllers.validity import valid_rows
from mbrl_wrappers.rows import map_tensors, num_rows, take_rows
from mbrl_wrappers.seeding import draw_seed, torch_generator
from mbrl_wrappers.types import Limits, Prediction, SharedNoiseModel, VectorStateModel

S = TypeVar("S")


class Step(NamedTuple):
    """What one step of ``B`` rows leads to.

    Attributes:
        state: the model's.
        vector: ``(B, X)`` its coordinates.
        next_obs: ``(B, O)``.
        reward: ``(B,)``.
        terminated: ``(B,)`` bool.
    """

    state: Any
    vector: Tensor
    next_obs: Tensor
    reward: Tensor
    terminated: Tensor

    def valid(self, limits: Limits | None) -> Tensor:
        """Which rows are finite throughout and inside ``limits``, ``(B,)`` bool."""
        prediction = Prediction(self.next_obs, self.reward, self.terminated)
        return valid_rows(prediction, limits) & self.vector.isfinite().all(1)


@dataclass
class Costs:
    """What planning has cost so far: transitions predicted, and seconds spent in the model."""

    model_calls: int = 0
    model_seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def counted(self, transitions: int) -> Iterator[None]:
        """Count ``transitions`` and the time of the block."""
        before = time.perf_counter()
        yield
        self.model_seconds += time.perf_counter() - before
        self.model_calls += transitions


class VectorProblem:
    """``N`` planning problems in state coordinates, for planners that use derivatives.

    There is one row per problem, whatever ``problem.particles`` and ``problem.risk`` say. Every pass over the horizon
    draws from a generator with the same seed, and candidates share their draws where the model offers that
    (``SharedNoiseModel``); so an ensemble is best given as its mean (``propagation="mean"``), and a stochastic model
    without ``step_shared`` has no useful derivatives.

    Everything is float64 when the model computes in float64, else float32.

    Args:
        problem: what to maximise.
        planner: for error messages.
        generator: source of the seed of all draws.

    Attributes:
        start: the model's state, ``N`` rows.
        dtype: of states and actions.
        precision: of what the model predicts: the coarser of state and reward.
        low: ``(A,)``, in model actions.
        high: ``(A,)``.
        costs: transitions and seconds so far.

    Raises:
        TypeError: for Discrete actions, and for a model whose state has no coordinates.
    """

    def __init__(self, problem: PlanningProblem[Any], planner: object, generator: Generator) -> None:
        require_box(problem, planner)
        model = problem.model
        if not isinstance(model, VectorStateModel):
            raise TypeError(
                f"{type(planner).__name__} takes derivatives in a vector of coordinates, and {type(model).__name__} "
                "offers none: give it state_vector and with_state_vector (mbrl_wrappers.types.VectorStateModel), or "
                "plan with CEM, ICEM or MPPI."
            )
        self.problem, self.model, self.costs = problem, problem.model, Costs()
        self._coordinates: VectorStateModel[Any] = model
        # Stored, because ``isinstance`` with a protocol takes longer than a small step.
        self._shared: SharedNoiseModel[Any] | None = model if isinstance(model, SharedNoiseModel) else None
        self._seed = draw_seed(generator)
        start: Any = problem.start
        if isinstance(start, Tensor):
            start = self.model.reset(start, generator=self.generator())
        self._open(start)
        self.low, self.high = (edge.to(self.dtype) for edge in problem.bounds)

    def _open(self, start: Any) -> None:
        """Take the start in float64 if a step from there works, else in float32."""
        double = _as_floats(start, th.float64)
        try:
            step = self._try(double)
            self.start, self.dtype = double, th.float64
        except RuntimeError:  # what torch raises for tensors of different precision
            start = _as_floats(start, th.float32)
            step = self._try(start)
            self.start, self.dtype = start, self.vector(start).dtype
        parts = (step.vector.dtype, step.reward.dtype)
        self.precision = max(parts, key=lambda dtype: float(th.finfo(dtype).eps))

    def _try(self, start: Any) -> Step:
        vector = self.vector(start)
        action = self.problem.middle.to(vector.dtype).expand(len(vector), -1)
        step = self.step(start, action, self.generator())
        self.problem.end_values(step.next_obs)
        return step

    @property
    def num_problems(self) -> int:
        """The number of problems, ``N``."""
        return num_rows(self.start)

    @property
    def horizon(self) -> int:
        """The number of steps planned, ``H``."""
        return self.problem.horizon

    def generator(self) -> Generator:
        """The source of the model's draws for one pass over the horizon, always the same."""
        return torch_generator(self._seed, self.problem.device)

    def vector(self, state: Any) -> Tensor:
        """The coordinates ``(B, X)`` of each row."""
        return self._coordinates.state_vector(state)

    def moved(self, state: Any, vector: Tensor) -> Any:
        """``state`` at other coordinates ``(B, X)``."""
        return self._coordinates.with_state_vector(state, vector)

    def step(self, state: Any, action: Tensor, generator: Generator, groups: int = 1) -> Step:
        """Advance rows that are ``groups`` equal blocks by one step with model actions ``(B, A)``.

        Raises:
            ValueError: for a model that predicts other shapes than it should.
        """
        rows = len(action)
        with self.costs.counted(rows):
            if self._shared is not None:
                state, prediction = self._shared.step_shared(state, action, generator=generator, groups=groups)
            else:
                state, prediction = self.model.step(state, action, generator=generator)
        prediction = prediction.shaped((rows,), self.model.observation_space.shape[0])
        return Step(state, self.vector(state), *prediction)

    def warm_start(self, warm_start: WarmStart | Tensor | None) -> WarmStart:
        """The warm start with its gaps filled, within the bounds, in the precision of this problem."""
        complete = complete_warm_start(self.problem, warm_start)
        given = warm_start.actions if isinstance(warm_start, WarmStart) else warm_start
        actions = complete.actions.to(self.dtype)
        if given is not None:  # completing it rounds to float32
            exact = given.to(actions).clamp(self.low, self.high)
            actions = th.where(complete.known[:, None, None], exact, actions)
        return complete._replace(actions=actions)

    def within_bounds(self, actions: Tensor) -> Tensor:
        """Sequences ``(..., A)`` clamped to the bounds, the middle of the range where they are not finite."""
        finite = th.where(actions.isfinite(), actions, self.problem.middle.to(actions))
        return finite.clamp(self.low, self.high)


def _as_floats(state: Any, dtype: th.dtype) -> Any:
    """``state`` with its floating-point tensors in ``dtype``."""
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, state)


class Trajectory(NamedTuple):
    """One trajectory per row.

    Attributes:
        states: the model's states before each step, ``H B`` rows, time outermost.
        vectors: ``(H, B, X)`` their coordinates.
        actions: ``(H, B, A)`` taken.
        counts: ``(H, B)`` bool, whether the step happened: no termination before it, and all predictions up to and with
            its own are finite and inside the model's limits.
        scores: ``(B,)`` as :meth:`controllers.PlanningProblem.score` defines them, minus infinity where failed.
    """

    states: Any
    vectors: Tensor
    actions: Tensor
    counts: Tensor
    scores: Tensor

    @property
    def ends_early(self) -> Tensor:
        """Which trajectories terminate or fail before their last step, ``(B,)`` bool."""
        return ~self.counts[-1]

    def take(self, rows: Tensor) -> Trajectory:
        """The trajectories ``rows (M,)`` int64."""
        states = take_rows(self.states, self._flat(rows))
        return Trajectory(states, self.vectors[:, rows], self.actions[:, rows], self.counts[:, rows], self.scores[rows])

    def merge(self, other: Trajectory, chosen: Tensor) -> Trajectory:
        """These trajectories with those of ``other`` in the rows ``chosen (B,)`` bool."""
        rows = th.arange(len(chosen), device=chosen.device)
        both = map_tensors(lambda mine, theirs: th.cat([mine, theirs]), self.states, other.states)
        offset = chosen.long() * num_rows(self.states)
        states = take_rows(both, self._flat(rows) + offset.repeat(len(self.actions)))
        per_step = chosen[None, :, None]
        return Trajectory(
            states,
            th.where(per_step, other.vectors, self.vectors),
            th.where(per_step, other.actions, self.actions),
            th.where(chosen, other.counts, self.counts),
            th.where(chosen, other.scores, self.scores),
        )

    def _flat(self, rows: Tensor) -> Tensor:
        steps = th.arange(len(self.actions), device=rows.device)
        return (steps[:, None] * self.actions.shape[1] + rows).flatten()


Choose = Callable[[int, Tensor], Tensor]
"""``choose(t, vectors (B, X)) -> actions (B, A)``, finite and within the bounds."""


def roll_out(task: VectorProblem, choose: Choose, population: int) -> Trajectory:
    """Follow ``choose`` from each start, ``population`` times: ``B = P N`` rows, candidates outermost."""
    problem, generator = task.problem, task.generator()
    each = th.arange(task.num_problems, device=problem.device)
    state = take_rows(task.start, each.repeat(population)) if population > 1 else task.start
    vector = task.vector(state)
    valid, ended = vector.isfinite().all(1), th.zeros(len(vector), dtype=th.bool, device=vector.device)
    failed, total, weight = ~valid, vector.new_zeros(len(vector)), 1.0
    limits = problem.limits_of(each.repeat(population))
    track: list[tuple[Any, Tensor, Tensor, Tensor]] = []
    for t in range(task.horizon):
        action = choose(t, vector)
        step = task.step(state, action, generator, population)
        valid = valid & step.valid(limits)
        counts, failed = valid & ~ended, failed | ~(valid | ended)
        gain = step.reward + problem.terminal_reward * step.terminated
        total = total + weight * th.where(counts, gain, 0)
        track.append((state, vector, action, counts))
        ended = ended | (counts & step.terminated)
        state, vector, weight = step.state, step.vector, weight * problem.discount
    alive = valid & ~ended
    if problem.terminal_value is not None and alive.any():
        value = task.problem.end_values(step.next_obs[alive]).to(total)
        total = total + weight * th.zeros_like(total).masked_scatter(alive, value)
    states, vectors, actions, happened = zip(*track, strict=True)
    scores = th.where(failed | ~total.isfinite(), -th.inf, total)
    joined = map_tensors(lambda *parts: th.cat(parts), *states) if len(states) > 1 else states[0]
    return Trajectory(joined, th.stack(vectors), th.stack(actions), th.stack(happened), scores)


def open_loop(task: VectorProblem, actions: Tensor) -> Trajectory:
    """Take the sequences ``(N, P, H, A)``, whatever the states: rows ``P N``, candidates outermost."""
    rows = actions.transpose(0, 1).flatten(0, 1).transpose(0, 1)  # (H, P N, A)
    return roll_out(task, lambda t, vector: rows[t], actions.shape[1])
