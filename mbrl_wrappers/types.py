"""The data every stage exchanges and the protocols every stage relies on.

Letters for shapes, used in every docstring and in trailing comments such as ``# (B, A)``:

====== ======================= ====== =======================
letter meaning                 letter meaning
====== ======================= ====== =======================
``B``  rows of a batch         ``T``  sequence length
``N``  environments            ``O``  observation dimensions
``E``  ensemble members        ``A``  model-action dimensions
``K``  particles per candidate ``Z``  latent dimensions
``P``  population of plans     ``D``  predicted dimensions
``H``  planning horizon
====== ======================= ====== =======================

A *model action* is what models, planners and replay buffers use: a Box action scaled to [-1, 1]
(as Stable-Baselines3 stores it) or a one-hot Discrete action. An *environment action* is what
``env.step`` takes. :class:`mbrl_wrappers.spaces.ActionCodec` is the only place that converts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch as th
from gymnasium import spaces
from torch import Generator, Tensor

from mbrl_wrappers.columns import ColumnChecks, given_columns
from mbrl_wrappers.precision import observation_dtype
from mbrl_wrappers.ranges import distance_to_edge
from mbrl_wrappers.spaces import ActionCodec


class NotFitted(ValueError):
    """A learned model was asked for a prediction before its first fit."""


S = TypeVar("S")
"""A model's state: a NamedTuple of ``(B, ...)`` tensors that is never mutated."""

RewardFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``reward_fn(obs (B, O), action, next_obs (B, O)) -> (B,)``, all in environment units.

``action`` is ``(B, A)`` in the bounds of a Box, or ``(B,)`` int64 for a Discrete space.
"""

TerminationFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``termination_fn(obs (B, O), action, next_obs (B, O)) -> (B,) bool``, all in environment units."""


class Transitions(NamedTuple):
    """A flat batch of transitions in raw observation and reward units.

    Observations are float32. Those of an environment so far from zero that float32 loses their changes stay float64
    (see :func:`mbrl_wrappers.precision.observation_dtype`).

    Attributes:
        obs: ``(B, O)``.
        action: ``(B, A)`` float32 model action.
        reward: ``(B,)`` float32.
        next_obs: ``(B, O)``, the true successor, also on the last step of an episode.
        terminated: ``(B,)`` bool, time limits excluded.
        last: ``(B,)`` bool, any episode or branch end. Real rows are in time order per environment.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminated: Tensor
    last: Tensor

    @property
    def num_rows(self) -> int:
        """How many transitions the batch holds."""
        return int(self.obs.shape[0])

    @classmethod
    def from_numpy(
        cls,
        obs: object,
        action: object,
        reward: object,
        next_obs: object | None,
        terminated: object,
        truncated: object | None = None,
        *,
        codec: ActionCodec,
    ) -> Transitions:
        """Recorded steps of one environment, with its actions scaled to model actions.

        Steps are in the order of time. Wherever a step does not begin where the one before it led, an episode ends.

        Args:
            obs: ``(B, O)``, or ``(B + 1, O)`` for one episode when ``next_obs`` is None.
            action: ``(B, *shape)`` or ``(B,)``, in environment units.
            reward: ``(B,)``.
            next_obs: ``(B, O)`` the true successors, or None.
            terminated: ``(B,)`` bool, time limits excluded.
            truncated: ``(B,)`` bool; None when no episode was cut by a time limit.
            codec: of the environment, ``ActionCodec(env.action_space)``.

        Raises:
            ValueError: for a wrong shape, a number that is not finite or an action outside of its space.
        """
        given = given_columns(obs, action, reward, next_obs, terminated, truncated)
        shape = np.asarray(given["obs"]).shape
        if len(shape) != 2:
            raise ValueError(f"obs must have shape (B, O), got {shape}.")
        rows = ColumnChecks(codec, shape[1], 1, np.asarray(obs).dtype).steps(given, 0)
        last = rows.last
        last[-1:] = True
        dtype = observation_dtype(rows.obs, rows.next_obs)
        columns = (rows.obs.astype(dtype), rows.action, rows.reward, rows.next_obs.astype(dtype), rows.terminated, last)
        return cls(*(th.from_numpy(np.ascontiguousarray(column[:, 0])) for column in columns))


class Prediction(NamedTuple):
    """A model's prediction of one step: ``next_obs (B, O)``, ``reward (B,)``, ``terminated (B,)`` bool."""

    next_obs: Tensor
    reward: Tensor
    terminated: Tensor

    def shaped(self, batch: tuple[int, ...], obs_size: int) -> Prediction:
        """This prediction with bool terminations, after a look at its shapes: a model may be a user's own function.

        Args:
            batch: ``(B,)``, or ``(B, H)`` for whole sequences.
            obs_size: ``O``.

        Raises:
            ValueError: for other shapes; a ``(B, 1)`` reward would broadcast to ``(B, B)`` without a word.
        """
        wanted = ((*batch, obs_size), batch, batch)
        got = tuple(tuple(field.shape) for field in self)
        if got != wanted:
            raise ValueError(f"The model must predict (next_obs, reward, terminated) of shapes {wanted}, got {got}.")
        return self._replace(terminated=self.terminated.bool())

    def checked(self, rows: int, obs_size: int, obs_dtype: th.dtype = th.float32) -> Prediction:
        """:meth:`shaped` for ``rows`` rows, with observations of ``obs_dtype`` and rewards in float32."""
        shaped = self.shaped((rows,), obs_size)
        return shaped._replace(next_obs=shaped.next_obs.to(obs_dtype), reward=shaped.reward.float())


class Limits(NamedTuple):
    """The range that predictions must lie in; rows outside of it are dropped and counted.

    ``obs_low`` and ``obs_high`` are ``(O,)``, ``reward_low`` and ``reward_high`` are scalars ``()``.
    """

    obs_low: Tensor
    obs_high: Tensor
    reward_low: Tensor
    reward_high: Tensor

    @classmethod
    def of(cls, obs: Tensor, reward: Tensor | None, margin: float = 1.0) -> Limits:
        """The range of the data, widened on each side by ``margin`` times its width.

        Args:
            obs: ``(B, O)`` observations, successors included.
            reward: ``(B,)`` rewards, where the model learns them. None leaves the reward unlimited: a reward that is
                computed from the observation is right wherever the observation is, also where the data has no such
                reward (a goal that was not reached yet).
            margin: share of the width of each dimension that is added on both sides.
        """

        def widened(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
            # A dimension that never moved gets a width of 1, else rounding alone would drop the row.
            width = th.where(high > low, high - low, th.ones_like(high))
            return low - margin * width, high + margin * width

        limits = cls(*(edge.to(obs.device) for edge in cls.none(obs.shape[1])))
        low, high = widened(obs.amin(0), obs.amax(0))
        limits = limits._replace(obs_low=low, obs_high=high)
        if reward is None:
            return limits
        low, high = widened(reward.amin(), reward.amax())
        return limits._replace(reward_low=low, reward_high=high)

    def of_any_reward(self) -> Limits:
        """The same range of observations, with every finite reward inside."""
        anything = Limits.none(len(self.obs_low))
        return self._replace(
            reward_low=anything.reward_low.to(self.reward_low), reward_high=anything.reward_high.to(self.reward_high)
        )

    def accepts(self, prediction: Prediction) -> Tensor:
        """Which rows are finite and inside the limits, ``(B,)`` bool (a NaN compares false)."""
        reward = prediction.reward
        low, high = self.reward_low.to(reward), self.reward_high.to(reward)
        return self.contains(prediction.next_obs) & (th.minimum(reward - low, high - reward) >= 0)

    def contains(self, obs: Tensor) -> Tensor:
        """Which observations ``(B, O)`` are finite and inside the limits, ``(B,)`` bool."""
        # Infinity has no distance to an infinite limit, so it is refused there too.
        return distance_to_edge(obs, self.obs_low.to(obs), self.obs_high.to(obs)) >= 0

    @classmethod
    def none(cls, obs_size: int) -> Limits:
        """Limits that every finite number is inside of, and nothing else."""
        largest = th.finfo(th.float32).max
        edge = th.full((obs_size,), largest)
        return cls(-edge, edge, th.tensor(-largest), th.tensor(largest))


class DynamicsModel(Protocol[S]):
    """Anything that predicts: learned, true or written by hand.

    Models hold no rollout state: it is passed in and out, so that a planner can branch, a callback
    can roll 10^5 rows, and gradients can flow. Every random draw comes from the generator passed in.
    """

    @property
    def observation_space(self) -> spaces.Box:
        """The space of ``obs``; its shape is ``(O,)``."""
        ...

    @property
    def action_space(self) -> spaces.Space:  # type: ignore[type-arg]
        """The *environment's* action space, Box or Discrete; for planning alone also MultiDiscrete."""
        ...

    @property
    def device(self) -> th.device:
        """Where the model computes; states and predictions live there."""
        ...

    def reset(self, obs: Tensor, *, generator: Generator) -> S:
        """Start one trajectory per row of ``obs (B, O)``."""
        ...

    def step(self, state: S, action: Tensor, *, generator: Generator) -> tuple[S, Prediction]:
        """Advance every row by one step with model actions ``action (B, A)``."""
        ...


S_in = TypeVar("S_in", contravariant=True)


@runtime_checkable
class SequenceModel(Protocol[S_in]):
    """A model that rolls whole action sequences faster, or more exactly, than step by step (a simulator)."""

    def rollout(self, state: S_in, actions: Tensor, *, generator: Generator, groups: int = 1) -> Prediction:
        """Predictions ``(B, H, ...)`` of model actions ``(B, H, A)``.

        Rows are ``groups`` equal blocks: row ``i`` of every block sees the same random draws. What a row predicts after
        its first termination, or once it is not finite, has no meaning and is not read.
        """
        ...


@runtime_checkable
class SharedNoiseModel(Protocol[S]):
    """A stochastic model that can give several candidates the same random draws (common random numbers)."""

    def step_shared(self, state: S, action: Tensor, *, generator: Generator, groups: int) -> tuple[S, Prediction]:
        """Like ``step``, with rows as ``groups`` equal blocks: row ``i`` of every block sees the same draws."""
        ...


@runtime_checkable
class MemberModel(Protocol[S]):
    """A model of several members, of which each row follows one."""

    def reset_particles(self, obs: Tensor, particles: int, *, generator: Generator) -> S:
        """Start ``particles`` trajectories per row of ``obs (N, O)``, those of a row side by side: ``N K`` rows.

        Members are dealt out evenly: among the ``K`` particles of a row no member comes up twice more than another.
        """
        ...

    def lasting_members(self, state: S) -> Tensor | None:
        """The member ``(B,)`` int64 that each row follows from here on; None where rows keep no member of their own."""
        ...


@runtime_checkable
class VectorStateModel(Protocol[S]):
    """A model whose Markov state is a vector in which derivatives can be taken."""

    def state_vector(self, state: S) -> Tensor:
        """The coordinates ``(B, X)`` of each row."""
        ...

    def with_state_vector(self, state: S, vector: Tensor) -> S:
        """``state`` with its coordinates replaced by ``vector (B, X)``; what they do not cover stays."""
        ...


@runtime_checkable
class BoundModel(Protocol):
    """A model of several live environments that may know only by their order which row belongs to which."""

    @property
    def num_envs(self) -> int:
        """How many there are."""
        ...

    def of_envs(self, numbers: Tensor) -> Any:
        """The same model of the environments ``numbers`` (int64) alone, in this order."""
        ...


@runtime_checkable
class LatentModel(DynamicsModel[S], Protocol[S]):
    """A model whose state is a belief that filters what the environment shows, its sensor readings.

    The ``observation_space`` of such a model is that of its features: what an agent sees of a belief.
    """

    @property
    def sensor_space(self) -> spaces.Box:
        """The environment's observation space; its shape is ``(O,)``."""
        ...

    def features(self, state: S) -> Tensor:
        """What an agent sees of each row, ``(B, F)``; ``reset`` turns it back into a state to step from."""
        ...

    def decode(self, state: S) -> Tensor:
        """The sensor readings ``(B, O)`` to expect."""
        ...

    def initial(self, batch: int) -> S:
        """The belief before anything was observed, ``batch`` rows."""
        ...

    def observe(self, state: S, action: Tensor, obs: Tensor, first: Tensor, *, generator: Generator) -> S:
        """Filter: the belief after ``action (B, A)`` and readings ``obs (B, O)``; ``first (B,)`` rows start anew."""
        ...


class RolloutPolicy(Protocol):
    """What acts inside a model: ``policy(obs (B, O), generator=g) -> model actions (B, A)``."""

    def __call__(self, obs: Tensor, *, generator: Generator) -> Tensor:
        """Choose one model action per row."""
        ...


class DifferentiablePolicy(Protocol):
    """A stochastic policy whose draws carry gradients: what :func:`mbrl_wrappers.unroll.unroll` acts with."""

    def sample(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor | None]:
        r"""Draw one model action per row by the reparameterisation :math:`a = f_\theta(s, \epsilon)`.

        The noise :math:`\epsilon` comes from ``generator`` alone, so gradients flow to the policy's parameters and to
        ``obs``.

        Args:
            obs: ``(B, O)`` in raw units.
            generator: source of the noise, on the device of ``obs``.

        Returns:
            Model actions ``(B, A)`` and their log-probabilities ``(B,)``; None in place of these for a deterministic
            policy, which has none.
        """
        ...


class ScoredPolicy(Protocol):
    """A stochastic policy with a density: what the likelihood-ratio gradient needs."""

    def sample_scored(self, obs: Tensor, *, generator: Generator) -> tuple[Tensor, Tensor]:
        r"""Draw one model action per row as a constant, with the log-probability of that constant.

        The draws are those of :meth:`DifferentiablePolicy.sample` from the same generator. The gradient of the
        log-probability by the parameters is the score :math:`\nabla_\theta \ln \pi_\theta(a \mid s)` at the action
        drawn: unlike in ``sample``, the action does not move with the parameters. The draw is scored where it is made,
        because an action that was squashed or clipped no longer says exactly which draw it came from.

        Args:
            obs: ``(B, O)`` in raw units.
            generator: source of the noise, on the device of ``obs``.

        Returns:
            Model actions ``(B, A)`` without gradient and log-probabilities ``(B,)`` with one.
        """
        ...
