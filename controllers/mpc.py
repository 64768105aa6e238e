"""Model predictive control: any model and any planner behind Stable-Baselines3's ``predict``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypedDict, TypeVar, runtime_checkable

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Generator, Tensor
from typing_extensions import Unpack

from controllers.mpc_state import MPCState
from controllers.plan import Plan, Planner, WarmStart
from controllers.problem import PlanningProblem, TerminalValue
from controllers.proposals import Proposals
from controllers.risk import Risk
from mbrl_wrappers.checks import at_least
from mbrl_wrappers.precision import model_dtype
from mbrl_wrappers.rows import take_rows
from mbrl_wrappers.seeding import seed_at, torch_generator
from mbrl_wrappers.spaces import ActionCodec
from mbrl_wrappers.types import BoundModel, DynamicsModel, LatentModel

S = TypeVar("S")


class Objective(TypedDict, total=False):
    """Keyword arguments that :class:`MPCPolicy` passes to each :class:`~controllers.PlanningProblem`."""

    discount: float
    particles: int
    risk: Risk | None
    terminal_value: TerminalValue | None
    terminal_reward: float


@runtime_checkable
class ObservationEncoder(Protocol):
    """A model whose environments return state indices, which it encodes as its own observation rows."""

    def encode(self, observation: Any) -> Tensor:
        """Observations ``(B,)`` of the environments as rows ``(B, O)``."""
        ...


class MPCPolicy(Generic[S]):
    """Plans in a model, executes the first actions, plans again; a drop-in for an agent in ``evaluate_policy``.

    ``predict`` is a pure function of its arguments: plan, unspent actions and belief travel in ``state``, the random
    stream follows from ``seed`` and the number of calls, and rows with ``episode_start`` start afresh while all others
    go on. A caller that drops the state gets a plan from scratch in each step.

    Args:
        model: any dynamics model; one that is bound to live environments reads their state when it plans.
        planner: any planner.
        horizon: steps planned ahead.
        execute: actions executed before the next plan; the next one starts from the rest.
        episode_steps: length of an episode when it is fixed: no plan then looks past its end.
        proposals: candidates from a policy.
        seed: of every draw.
        **objective: ``discount``, ``particles``, ``risk``, ``terminal_value``, ``terminal_reward`` of
            :class:`~controllers.PlanningProblem`.

    Attributes:
        last_plan: the latest plan with its report and candidates, for logs and pictures; None before the first.
        last_problem: what it solved.

    Raises:
        ValueError: for impossible numbers, or when more actions are executed than planned.
        TypeError: for an action space that cannot be planned in, and for a class in place of a planner.
    """

    def __init__(
        self,
        model: DynamicsModel[S],
        planner: Planner,
        horizon: int = 25,
        *,
        execute: int = 1,
        episode_steps: int | None = None,
        proposals: Proposals | None = None,
        seed: int = 0,
        **objective: Unpack[Objective],
    ) -> None:
        if isinstance(planner, type) or not callable(getattr(planner, "plan", None)):
            raise TypeError(f"planner must be a planner such as CEM(), an instance of its class, got {planner!r}.")
        self.model, self.planner = model, planner
        self.horizon = at_least("horizon", horizon)
        self.execute = at_least("execute", execute)
        if execute > horizon:
            raise ValueError(
                f"Cannot execute {execute} actions of a plan of {horizon}: lower execute or raise horizon."
            )
        self.episode_steps = None if episode_steps is None else at_least("episode_steps", episode_steps)
        self.proposals, self.seed, self.objective = proposals, seed, objective
        # Of a latent model the environment shows the sensors; what the model calls its observations are features.
        self.observation_space = model.sensor_space if isinstance(model, LatentModel) else model.observation_space
        self.action_space = model.action_space
        self.codec = ActionCodec(model.action_space)
        self.last_plan: Plan | None = None
        self.last_problem: PlanningProblem[S] | None = None
        nowhere = th.zeros(1, *model.observation_space.shape)
        PlanningProblem(model, nowhere, horizon, **objective)  # raises errors in the objective now

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """The action to take, and the state to pass to the next call.

        Args:
            observation: one observation ``(O,)`` or a batch ``(N, O)`` of raw observations; where the model encodes
                state indices, also indices ``()`` or ``(N,)``.
            state: what the previous call returned; None at first.
            episode_start: ``(N,)`` bool, rows whose episode begins with this observation.
            deterministic: has no effect, because planning adds no noise to what it executes; it is part of the
                interface of Stable-Baselines3.

        Raises:
            ValueError: for observations that are not the model's or not finite, for a state of another batch, and for
                a planner whose actions are not finite.
        """
        obs, single = self._observed(observation)
        first = np.zeros(len(obs), bool) if episode_start is None else np.atleast_1d(np.asarray(episode_start, bool))
        if len(first) != len(obs):
            raise ValueError(f"episode_start has {len(first)} rows and there are {len(obs)} observations.")
        state = self._continued(state, obs, th.as_tensor(first, device=obs.device))
        due = (state.age < 0) | (state.age >= self.execute)
        for horizon, rows in self._groups(state, due):
            state = self._replanned(state, obs, horizon, rows)
        each = th.arange(len(obs), device=obs.device)
        action = state.actions[each, state.age]
        if state.belief is not None:
            state = state._replace(belief=(state.belief[0], action))
        env_action = self.codec.to_env(action)
        state = state._replace(age=state.age + 1, steps=state.steps + 1, calls=state.calls + 1)
        return (env_action[0] if single else env_action), state

    def state_from(self, saved: Mapping[str, Any]) -> MPCState:
        """The state of one environment or several, from what :meth:`MPCState.state_dict` gave.

        Raises:
            ValueError: if it is the state of a policy with another model or horizon.
        """
        belief, count = None, len(saved["age"])
        if isinstance(self.model, LatentModel) and saved["belief"] is not None:
            belief = self.model.initial(count), th.zeros(count, self.codec.size)
        state = MPCState.from_state_dict(saved, device=th.device(self.model.device), belief=belief)
        if state.actions.shape != (count, self.horizon, self.codec.size):
            raise ValueError(
                f"The state has a plan of shape {tuple(state.actions.shape)}, and this policy plans "
                f"{self.horizon} actions of size {self.codec.size}."
            )
        return state

    def _observed(self, observation: Any) -> tuple[Tensor, bool]:
        """The observations as ``(N, O)`` and whether there was just one, without its batch dimension."""
        array = np.asarray(observation)
        if array.ndim <= 1 and np.issubdtype(array.dtype, np.integer) and isinstance(self.model, ObservationEncoder):
            return self.model.encode(np.atleast_1d(array)).float().to(self.model.device), array.ndim == 0
        shape = self.observation_space.shape
        if not np.issubdtype(array.dtype, np.number) or array.shape[-1:] != shape or array.ndim not in (1, 2):
            raise ValueError(
                f"The model observes {shape}, and the observation has shape {array.shape}: is this a model of another "
                "environment, or is the observation not flat?"
            )
        if not np.isfinite(array).all():
            raise ValueError("The observation holds NaN or infinity: nothing can be planned from it.")
        obs = th.tensor(array, dtype=model_dtype(self.model))
        return th.atleast_2d(obs).to(self.model.device), array.ndim == 1

    def _continued(self, state: Any, obs: Tensor, first: Tensor) -> MPCState:
        """The state before planning: rows with a new episode are cleared, and the belief includes the observation."""
        count, device = len(obs), obs.device
        if state is None:
            actions = th.zeros(count, self.horizon, self.codec.size, device=device)
            known = th.zeros(count, dtype=th.bool, device=device)
            none = th.full((count,), -1, device=device)
            state = MPCState(actions, none, WarmStart(actions, known), none * 0, None, 0)
            first = th.ones_like(first)
        expected = (count, self.horizon, self.codec.size)
        if not isinstance(state, MPCState) or state.actions.shape != expected:
            raise ValueError(
                f"state must be None or what predict of a policy like this one returned for {count} environments."
            )
        state = state._replace(
            age=th.where(first, -1, state.age),
            steps=th.where(first, 0, state.steps),
            warm_start=state.warm_start._replace(known=state.warm_start.known & ~first),
        )
        if isinstance(self.model, LatentModel):
            belief, action = state.belief or (
                self.model.initial(count),
                th.zeros(count, self.codec.size, device=device),
            )
            generator = torch_generator(seed_at(self.seed, 2 * state.calls), device)
            belief = self.model.observe(belief, action, obs, first, generator=generator)
            state = state._replace(belief=(belief, action))
        return MPCState(*state)

    def _groups(self, state: MPCState, due: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Rows to plan for, ``int64``, by the horizon they have left."""
        rows = due.nonzero().squeeze(1)
        if self.episode_steps is None:
            if len(rows):
                yield self.horizon, rows
            return
        left = (self.episode_steps - state.steps[rows]).clamp(1, self.horizon)
        for horizon in left.unique().tolist():
            yield horizon, rows[left == horizon]

    def _replanned(self, state: MPCState, obs: Tensor, horizon: int, rows: Tensor) -> MPCState:
        """The state once ``rows`` have a new plan."""
        problem = self._problem(state, obs, horizon, rows)
        generator = torch_generator(seed_at(self.seed, 2 * state.calls + 1), problem.device)
        warm = state.warm_start.take(rows).shifted(self.execute, problem).cut(horizon)
        if self.proposals is not None:
            warm = warm._replace(proposals=self.proposals.draw(problem, generator=generator))
        plan = self._planned(problem, warm, generator)
        next_start = plan.next_start.extended(self.horizon, problem)
        planned = plan.next_start._replace(actions=plan.actions).extended(self.horizon, problem)
        return state._replace(
            actions=state.actions.index_copy(0, rows, planned.actions.to(state.actions)),
            age=state.age.index_fill(0, rows, 0),
            warm_start=state.warm_start.replaced(rows, next_start),
        )

    def _problem(self, state: MPCState, obs: Tensor, horizon: int, rows: Tensor) -> PlanningProblem[S]:
        """What is to be planned for ``rows`` of the environments."""
        start: Any = obs[rows] if state.belief is None else take_rows(state.belief[0], rows)
        model: Any = self.model
        if isinstance(model, BoundModel) and len(rows) < len(obs) == model.num_envs:
            model = model.of_envs(rows)  # such a model may tell its environments apart by the order of rows
        return PlanningProblem(model, start, horizon, **self.objective)

    def _planned(self, problem: PlanningProblem[S], warm: WarmStart, generator: Generator) -> Plan:
        """The planner's plan, kept as :attr:`last_plan` for logs and pictures.

        Raises:
            ValueError: if its actions are not finite.
        """
        plan = self.planner.plan(problem, warm, generator=generator)
        if not plan.actions.isfinite().all():
            raise ValueError(
                f"{type(self.planner).__name__} returned actions that are not finite, which no environment may see: a "
                "planner falls back on the warm start or problem.middle when all its candidates fail."
            )
        self.last_plan, self.last_problem = plan, problem
        return plan
