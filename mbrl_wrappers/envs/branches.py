"""N rows of model state, each with a step counter: the state of all three model environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import Tensor

from mbrl_wrappers.checks import at_least
from mbrl_wrappers.envs.starts import Starts, check_observations, start_sampler
from mbrl_wrappers.precision import model_dtype
from mbrl_wrappers.rows import map_tensors, num_rows, put_rows, take_rows, tensors_of, with_tensors
from mbrl_wrappers.seeding import (
    numpy_stream_state,
    seed_at,
    set_numpy_stream_state,
    set_torch_stream_state,
    torch_generator,
    torch_stream_state,
)
from mbrl_wrappers.spaces import check_action_space, check_observation_space
from mbrl_wrappers.states import StateDict, require_keys
from mbrl_wrappers.types import DynamicsModel, Limits, Prediction

BoolArray = NDArray[np.bool_]
_COUNTERS = ("horizon", "steps", "restarts_since_step")


class BranchStep(NamedTuple):
    """One step of all rows, before anything is restarted; fresh arrays.

    Attributes:
        obs: ``(N, O)`` in the dtype of the observation space: what the step led to. An invalid row repeats its last
            valid observation.
        reward: ``(N,)`` float32, 0 where invalid.
        terminated: ``(N,)`` bool, the model predicts a failure.
        truncated: ``(N,)`` bool, the horizon is reached without a failure, or the prediction is invalid.
        invalid: ``(N,)`` bool, the prediction is not finite or outside the limits.
    """

    obs: NDArray[Any]
    reward: NDArray[np.float32]
    terminated: BoolArray
    truncated: BoolArray
    invalid: BoolArray


class Branches:
    """Imagined trajectories, one per row, each with its own step counter.

    The model is a function of explicit state; this class is where the state lives. Rows never see each other:
    restarting some leaves the others' state untouched, and what a row draws does not depend on which others ended.
    For that, each row draws its starts from a numpy stream of its own; the model's steps draw for all rows from one
    torch stream, and its resets from one that is seeded anew by the count of steps.

    Observations are clipped to the bounds of the observation space when shown; the state is not.

    Args:
        model: predicts the steps.
        starts: see :func:`mbrl_wrappers.envs.starts.start_sampler`.
        num_rows: ``N``.
        horizon: steps after which a branch is truncated, at least 1.
        limits: the range that predictions must lie in. By default the model's own ``limits`` attribute, read at each
            step; predictions of a model without one must be finite.

    Raises:
        TypeError: for an object without the methods of a model, or spaces that models cannot handle.
        ValueError: if ``num_rows`` or ``horizon`` is below 1, or for starts of the wrong shape.
    """

    def __init__(
        self,
        model: DynamicsModel[Any],
        starts: Starts,
        num_rows: int,
        horizon: int,
        *,
        limits: Limits | None = None,
    ) -> None:
        for needed in ("reset", "step", "observation_space", "action_space", "device"):
            if not hasattr(model, needed):
                raise TypeError(
                    f"model must be a DynamicsModel, and {type(model).__name__} has no {needed!r}. To plan or train in "
                    "a function of yours, wrap it in FunctionModel."
                )
        self.model = model
        self.observation_space = check_observation_space(model.observation_space)
        self.action_space = check_action_space(model.action_space)
        self.obs_dim = int(self.observation_space.shape[0])
        self.num_rows = at_least("num_envs", num_rows)
        self.horizon = horizon
        self.num_invalid = 0
        self._draw_starts = start_sampler(starts, self.obs_dim)
        self._limits = limits
        self._rngs: list[np.random.Generator] = []
        self._state: Any = None
        self._obs = np.zeros((self.num_rows, self.obs_dim), self.observation_space.dtype)  # (N, O)
        self._elapsed = np.zeros(self.num_rows, np.int64)  # (N,)
        self._steps = 0
        self._restarts_since_step = 0

    @property
    def horizon(self) -> int:
        """Steps after which a branch is truncated; may be changed at any time, also for the branches under way."""
        return self._horizon

    @horizon.setter
    def horizon(self, value: int) -> None:
        self._horizon = at_least("horizon", value)

    @property
    def obs(self) -> NDArray[Any]:
        """A copy of the current observations, ``(N, O)`` in the dtype of the space."""
        return self._obs.copy()

    @property
    def elapsed(self) -> NDArray[np.int64]:
        """A copy of the step counters, ``(N,)`` steps since each row's start."""
        return self._elapsed.copy()

    @property
    def rngs(self) -> list[np.random.Generator]:
        """The streams that the rows' starts are drawn from; none before :meth:`use_streams`."""
        return self._rngs

    @property
    def started(self) -> bool:
        """Whether the rows were ever started."""
        return self._state is not None

    def use_streams(self, rngs: Sequence[np.random.Generator]) -> None:
        """Draw row ``i``'s starts from ``rngs[i]``; where a stream is new, reseed the model's draws from it.

        Args:
            rngs: ``N`` numpy generators. Passing those already in use changes nothing.
        """
        known = {id(rng) for rng in self._rngs}
        fresh = [int(rng.integers(2**62)) for rng in rngs if id(rng) not in known]
        self._rngs = list(rngs)
        if fresh:
            self._seed = seed_at(*fresh)
            self._generator = torch_generator(self._seed, self.model.device)
            self._steps = self._restarts_since_step = 0

    def draw_starts(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Start observations ``(R, O)`` for the ``rows (R,)``, each from its own stream."""
        return self._draw_starts.each([self._rngs[row] for row in rows])

    def restart(self, rows: BoolArray | None = None, *, obs: object = None, state: object = None) -> None:
        """Start rows anew, at drawn observations or at given ones; all other rows stay as they are.

        Args:
            rows: ``(N,)`` bool; ``None`` means all.
            obs: ``(R, O)`` observations for the ``R`` chosen rows, in environment units; by default drawn from
                the starts.
            state: a model state of ``R`` rows to continue from. Its observations are ``obs``, or the state's own
                ``obs`` field if it has one.

        Raises:
            ValueError: for arrays of another shape, or a state that does not tell its observations.
        """
        mask = np.ones(self.num_rows, bool) if rows is None else np.asarray(rows, bool)
        chosen = np.flatnonzero(mask)
        if not len(chosen):
            return
        if state is not None:
            obs = getattr(state, "obs", None) if obs is None else obs
            if obs is None:
                raise ValueError(
                    f"A {type(state).__name__} does not tell its observation: give 'obs' along with 'state'."
                )
            if num_rows(state) != len(chosen):
                raise ValueError(f"The given state has {num_rows(state)} rows, but {len(chosen)} are started.")
        if obs is None:
            start = self.draw_starts(chosen)
        else:
            start = check_observations(obs, len(chosen), self.obs_dim, "obs")
        # A given state is copied: it stays the caller's, who may write to it.
        fresh = self._reset_model(chosen, start) if state is None else self._own(state)
        index = th.as_tensor(chosen, device=self.model.device)
        if len(chosen) == self.num_rows:
            self._state = fresh
        elif self._state is None:
            raise ValueError("Start all rows before restarting some.")
        else:
            self._state = put_rows(self._state, index, fresh)
        self._obs[chosen] = start
        self._elapsed[chosen] = 0
        self._restarts_since_step += 1

    @th.no_grad()
    def step(self, action: Tensor, *, idle: BoolArray | None = None) -> BranchStep:
        """Advance every row by one step.

        Args:
            action: ``(N, A)`` model actions.
            idle: ``(N,)`` bool, rows that stay where they are: no reward, no end, not counted.

        Returns:
            What happened; the ended rows are still to be restarted.
        """
        assert self._state is not None, "restart() comes first"
        active = np.ones(self.num_rows, bool) if idle is None else ~idle
        previous = self._state
        self._state, prediction = self.model.step(
            previous, action.to(self.model.device, th.float32), generator=self._generator
        )
        prediction = prediction.shaped((self.num_rows,), self.obs_dim)
        valid: BoolArray = self._valid(prediction).cpu().numpy()  # (N,)
        moved = valid & active
        if not moved.all():
            # An invalid row keeps its last valid state: NaN would spread through the model's batch.
            stays = th.as_tensor(~moved, device=prediction.reward.device)
            self._state = put_rows(self._state, stays, take_rows(previous, stays))
        space = self.observation_space
        shown = np.clip(prediction.next_obs.cpu().numpy(), space.low, space.high).astype(space.dtype)
        self._obs = np.where(moved[:, None], shown, self._obs)
        self._elapsed += active
        self._steps += 1
        self._restarts_since_step = 0
        invalid = ~valid & active
        self.num_invalid += int(invalid.sum())
        terminated = prediction.terminated.cpu().numpy().astype(bool) & moved
        return BranchStep(
            obs=self._obs.copy(),
            reward=np.where(moved, prediction.reward.cpu().numpy(), 0.0).astype(np.float32),
            terminated=terminated,
            truncated=(invalid | (active & (self._elapsed >= self.horizon))) & ~terminated,
            invalid=invalid,
        )

    def state_dict(self) -> StateDict:
        """Where each row is, the counters and the random streams.

        Raises:
            TypeError: for a model whose state holds objects that are no tensors.
        """
        return {
            **{name: getattr(self, f"_{name}") for name in _COUNTERS},
            "num_invalid": self.num_invalid,
            "obs": self.obs,
            "elapsed": self.elapsed,
            "rngs": [numpy_stream_state(rng) for rng in self._rngs],
            "seed": self._seed if self._rngs else None,
            "stream": torch_stream_state(self._generator) if self._rngs else None,
            "state": [tensor.cpu().clone() for tensor in tensors_of(self._state)] if self.started else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``; the model's own is loaded apart from it.

        The generators of the rows are new ones, :attr:`rngs`.

        Raises:
            ValueError: if it is the state of another number of rows or another model; nothing is changed then.
        """
        names = (*_COUNTERS, "num_invalid", "obs", "elapsed", "rngs", "seed", "stream", "state")
        require_keys(state, names, "model environments")
        if state["obs"].shape != self._obs.shape or len(state["rngs"]) not in (0, self.num_rows):
            raise ValueError(
                f"The state is of observations of shape {state['obs'].shape}, and these are {self._obs.shape}: build "
                "the environment with the model and the number of rows that it had."
            )
        rows = None
        if state["state"] is not None:
            template = self.model.reset(
                th.as_tensor(state["obs"], dtype=model_dtype(self.model), device=self.model.device),
                generator=torch_generator(0, self.model.device),
            )
            rows = with_tensors(template, state["state"])
        self._state, self._obs, self._elapsed = rows, state["obs"].copy(), state["elapsed"].copy()
        self.num_invalid = state["num_invalid"]
        self.horizon, self._steps, self._restarts_since_step = (state[name] for name in _COUNTERS)
        self._rngs = [np.random.default_rng(0) for _ in state["rngs"]]
        for rng, stream in zip(self._rngs, state["rngs"], strict=True):
            set_numpy_stream_state(rng, stream)
        if self._rngs:
            self._seed = int(state["seed"])
            self._generator = torch_generator(self._seed, self.model.device)
            set_torch_stream_state(self._generator, state["stream"])

    @th.no_grad()
    def _reset_model(self, chosen: NDArray[np.int64], start: NDArray[Any]) -> object:
        """The model's state at ``start (R, O)`` for the chosen rows."""
        # The model resets N rows whichever were chosen, so that row i always gets the i-th draw of this moment.
        full = np.repeat(start[:1], self.num_rows, 0)
        full[chosen] = start
        seed = seed_at(self._seed, self._steps, self._restarts_since_step)
        generator = torch_generator(seed, self.model.device)
        obs = th.as_tensor(full, dtype=model_dtype(self.model), device=self.model.device)
        state = self.model.reset(obs, generator=generator)
        return state if len(chosen) == self.num_rows else take_rows(state, th.as_tensor(chosen, device=obs.device))

    def _own(self, state: object) -> object:
        """A copy of ``state`` on the model's device."""
        return map_tensors(lambda tensor: tensor.detach().to(self.model.device, copy=True), state)

    def _valid(self, prediction: Prediction) -> Tensor:
        limits = self._limits if self._limits is not None else getattr(self.model, "limits", None)
        return (limits or Limits.none(self.obs_dim)).accepts(prediction)
