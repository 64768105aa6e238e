"""Another reward for a model that exists: what planners with derivatives need where the task's own is flat."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.precision import model_dtype
from mbrl_wrappers.spaces import ActionCodec, AnySpace
from mbrl_wrappers.types import (
    BoundModel,
    DynamicsModel,
    Limits,
    MemberModel,
    Prediction,
    RewardFn,
    SequenceModel,
    SharedNoiseModel,
    VectorStateModel,
)

S = TypeVar("S")


class TrackedState(NamedTuple):
    """The state of a model that does not keep its observation, and the observation ``(B, O)``."""

    inner: Any
    obs: Tensor


class WithReward(Generic[S]):
    r"""A model whose reward is :math:`r = f(\mathrm{obs}, a, \mathrm{next\_obs})`; all else stays as it is.

    It offers ``rollout``, ``step_shared``, ``state_vector``, ``reset_particles`` and ``of_envs`` where the inner model
    does, so it satisfies the optional protocols of :mod:`mbrl_wrappers.types` that the inner model satisfies, except
    :class:`~mbrl_wrappers.types.LatentModel`. States are the inner model's own when these have an ``obs``; otherwise
    the observation is kept beside them.

    Args:
        model: what predicts observations and terminations.
        reward_fn: ``reward_fn(obs (B, O), action, next_obs (B, O)) -> (B,)`` in environment units; ``action`` is
            ``(B, A)`` in the bounds of a Box or ``(B,)`` int64 for a Discrete space.

    Attributes:
        exact: that of the inner model, False where it has none.

    Raises:
        ValueError: in a step, for a reward of another shape: ``(B, 1)`` would broadcast to ``(B, B)`` without a word.
    """

    not_storable = "its reward is a function of the program. Save the inner model and wrap it again"

    def __init__(self, model: DynamicsModel[S], reward_fn: RewardFn) -> None:
        self.inner: Any = model
        self.reward_fn = reward_fn
        self.observation_space = model.observation_space
        self.action_space: AnySpace = model.action_space
        self.codec = ActionCodec(model.action_space)
        self.exact = bool(getattr(model, "exact", False))
        # Callers ask by isinstance which optional protocols a model satisfies: it has the methods of the inner model's.
        if isinstance(model, SequenceModel):
            self.rollout = self._rollout
        if isinstance(model, SharedNoiseModel):
            self.step_shared = self._step_shared
        if isinstance(model, VectorStateModel):
            self.state_vector = self._state_vector
            self.with_state_vector = self._with_state_vector
        if isinstance(model, MemberModel):
            self.reset_particles = self._reset_particles
            self.lasting_members = self._lasting_members
        if isinstance(model, BoundModel):
            self.num_envs = int(model.num_envs)
            self.of_envs = self._of_envs

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.inner, self.reward_fn)

    @property
    def device(self) -> th.device:
        """Where the inner model computes."""
        device: th.device = self.inner.device
        return device

    @property
    def obs_dtype(self) -> th.dtype:
        """That of the inner model's observations."""
        return model_dtype(self.inner)

    @property
    def limits(self) -> Limits | None:
        """The inner model's range of observations with every finite reward inside; None where it has no limits."""
        limits: Limits | None = getattr(self.inner, "limits", None)
        return None if limits is None else limits.of_any_reward()

    def reset(self, obs: Tensor, *, generator: Generator) -> Any:
        """Start one trajectory per row of ``obs (B, O)``."""
        state = self.inner.reset(obs, generator=generator)
        return _tracked(state, obs)

    def step(self, state: Any, action: Tensor, *, generator: Generator) -> tuple[Any, Prediction]:
        """Advance every row with model actions ``(B, A)``."""
        following, prediction = self.inner.step(_inner(state), action, generator=generator)
        return self._followed(state, following, action, prediction)

    # --- bound under their public names where the inner model has them ---------------------------------------------

    def _rollout(self, state: Any, actions: Tensor, *, generator: Generator, groups: int = 1) -> Prediction:
        """Predictions ``(B, H, ...)`` of model actions ``(B, H, A)``."""
        whole: Prediction = self.inner.rollout(_inner(state), actions, generator=generator, groups=groups)
        obs = th.cat([state.obs[:, None].to(whole.next_obs), whole.next_obs[:, :-1]], 1)
        reward = self._reward(*(part.flatten(0, 1) for part in (obs, actions, whole.next_obs)))
        return whole._replace(reward=reward.view(whole.reward.shape))

    def _step_shared(self, state: Any, action: Tensor, *, generator: Generator, groups: int) -> tuple[Any, Prediction]:
        """Like ``step``, with rows as ``groups`` equal blocks: row ``i`` of every block sees the same draws."""
        following, prediction = self.inner.step_shared(_inner(state), action, generator=generator, groups=groups)
        return self._followed(state, following, action, prediction)

    def _state_vector(self, state: Any) -> Tensor:
        """The coordinates ``(B, X)`` of each row."""
        vector: Tensor = self.inner.state_vector(_inner(state))
        return vector

    def _with_state_vector(self, state: Any, vector: Tensor) -> Any:
        """``state`` with its coordinates replaced by ``vector (B, X)``.

        Raises:
            TypeError: if the state has no observation of its own, which would then be that of other coordinates.
        """
        if isinstance(state, TrackedState):
            raise TypeError(
                f"The state of {type(self.inner).__name__} has no obs, so what is observed at other coordinates is not "
                "known: give its state a field obs that with_state_vector brings up to date."
            )
        return self.inner.with_state_vector(state, vector)

    def _reset_particles(self, obs: Tensor, particles: int, *, generator: Generator) -> Any:
        """Start ``particles`` trajectories per row of ``obs (N, O)``, side by side, dealt out to members evenly."""
        state = self.inner.reset_particles(obs, particles, generator=generator)
        return _tracked(state, obs.repeat_interleave(particles, 0))

    def _lasting_members(self, state: Any) -> Tensor | None:
        """The member ``(B,)`` that each row follows from here on; None where rows keep none."""
        members: Tensor | None = self.inner.lasting_members(_inner(state))
        return members

    def _of_envs(self, numbers: Tensor) -> Any:
        """The same model of the environments ``numbers`` (int64) alone, in this order."""
        return type(self)(self.inner.of_envs(numbers), self.reward_fn)

    # --- the reward -------------------------------------------------------------------------------------------------

    def _followed(self, state: Any, following: Any, action: Tensor, prediction: Prediction) -> tuple[Any, Prediction]:
        """The state after a step, and its prediction with the other reward."""
        if isinstance(state, TrackedState):
            following = TrackedState(following, prediction.next_obs)
        return following, prediction._replace(reward=self._reward(state.obs, action, prediction.next_obs))

    def _reward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        reward = self.reward_fn(obs, self.codec.decode(action), next_obs)
        if reward.shape != (len(action),):
            raise ValueError(f"reward_fn must return shape (B,), got {tuple(reward.shape)} for {len(action)} rows.")
        return reward


def _tracked(state: Any, obs: Tensor) -> Any:
    """``state`` itself where it has the observation ``obs (B, O)``, else both together."""
    return state if isinstance(getattr(state, "obs", None), Tensor) else TrackedState(state, obs)


def _inner(state: Any) -> Any:
    return state.inner if isinstance(state, TrackedState) else state
