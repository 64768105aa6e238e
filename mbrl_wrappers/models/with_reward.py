"""Another reward for a model that exists: what planners with derivatives need where the task's own is flat."""

from __future__ import annotations

import functools
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch as th
from torch import Generator, Tensor

from mbrl_wrappers.spaces import ActionCodec, AnySpace
from mbrl_wrappers.types import (
    BoundModel,
    DynamicsModel,
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

    It also satisfies :class:`~mbrl_wrappers.types.SequenceModel`, :class:`~mbrl_wrappers.types.SharedNoiseModel` and
    :class:`~mbrl_wrappers.types.VectorStateModel` exactly where the inner model does; it is no latent model. States are
    the inner model's own when these have an ``obs``, else the observation is kept beside them.

    Args:
        model: what predicts observations and terminations.
        reward_fn: ``reward_fn(obs (B, O), action, next_obs (B, O)) -> (B,)`` in environment units; ``action`` is
            ``(B, A)`` in the bounds of a Box or ``(B,)`` int64 for a Discrete space.

    Attributes:
        exact: that of the inner model, False where it has none.

    Raises:
        ValueError: in a step, for a reward of another shape: ``(B, 1)`` would broadcast to ``(B, B)`` without a word.
    """

    _public: type[Any]
    not_storable = "its reward is a function of the program. Save the inner model and wrap it again"

    def __new__(cls, model: DynamicsModel[S], reward_fn: RewardFn) -> WithReward[S]:
        """Choose the class that offers what the inner model offers."""
        kinds = [kind for protocol, kind in _OFFERS if isinstance(model, protocol)]
        return cast(WithReward[S], object.__new__(_combined((*kinds, cls))))

    def __init__(self, model: DynamicsModel[S], reward_fn: RewardFn) -> None:
        self.inner, self.reward_fn = model, reward_fn
        self.observation_space = model.observation_space
        self.action_space: AnySpace = model.action_space
        self.codec = ActionCodec(model.action_space)
        self.exact = bool(getattr(model, "exact", False))

    def __reduce__(self) -> tuple[Any, ...]:
        return self._public, (self.inner, self.reward_fn)

    @property
    def device(self) -> th.device:
        """Where the inner model computes."""
        return self.inner.device

    def reset(self, obs: Tensor, *, generator: Generator) -> Any:
        """Start one trajectory per row of ``obs (B, O)``."""
        state = self.inner.reset(obs, generator=generator)
        return state if _observed(state) else TrackedState(state, obs)

    def step(self, state: Any, action: Tensor, *, generator: Generator) -> tuple[Any, Prediction]:
        """Advance every row with model actions ``(B, A)``."""
        following, prediction = self.inner.step(_inner(state), action, generator=generator)
        return self._followed(state, following, action, prediction)

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


class _Rolls(WithReward[S]):
    """Of a :class:`~mbrl_wrappers.types.SequenceModel`."""

    inner: Any

    def rollout(self, state: Any, actions: Tensor, *, generator: Generator, groups: int = 1) -> Prediction:
        """Predictions ``(B, H, ...)`` of model actions ``(B, H, A)``."""
        whole: Prediction = self.inner.rollout(_inner(state), actions, generator=generator, groups=groups)
        obs = th.cat([state.obs[:, None].to(whole.next_obs), whole.next_obs[:, :-1]], 1)
        reward = self._reward(*(part.flatten(0, 1) for part in (obs, actions, whole.next_obs)))
        return whole._replace(reward=reward.view(whole.reward.shape))


class _SharesNoise(WithReward[S]):
    """Of a :class:`~mbrl_wrappers.types.SharedNoiseModel`."""

    inner: Any

    def step_shared(self, state: Any, action: Tensor, *, generator: Generator, groups: int) -> tuple[Any, Prediction]:
        """Like ``step``, with rows as ``groups`` equal blocks: row ``i`` of every block sees the same draws."""
        following, prediction = self.inner.step_shared(_inner(state), action, generator=generator, groups=groups)
        return self._followed(state, following, action, prediction)


class _HasCoordinates(WithReward[S]):
    """Of a :class:`~mbrl_wrappers.types.VectorStateModel`."""

    inner: Any

    def state_vector(self, state: Any) -> Tensor:
        """The coordinates ``(B, X)`` of each row."""
        vector: Tensor = self.inner.state_vector(_inner(state))
        return vector

    def with_state_vector(self, state: Any, vector: Tensor) -> Any:
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


class _IsBound(WithReward[S]):
    """Of a :class:`~mbrl_wrappers.types.BoundModel`."""

    inner: Any

    @property
    def num_envs(self) -> int:
        """How many environments the inner model is bound to."""
        return int(self.inner.num_envs)

    def of_envs(self, numbers: Tensor) -> Any:
        """The same model of the environments ``numbers`` (int64) alone, in this order."""
        return self._public(self.inner.of_envs(numbers), self.reward_fn)


_OFFERS: tuple[tuple[Any, type[Any]], ...] = (
    (SequenceModel, _Rolls),
    (SharedNoiseModel, _SharesNoise),
    (VectorStateModel, _HasCoordinates),
    (BoundModel, _IsBound),
)


@functools.cache
def _combined(kinds: tuple[type[Any], ...]) -> type[Any]:
    """The last of ``kinds`` with all that the others offer."""
    public = kinds[-1]
    names = {"__doc__": public.__doc__, "__module__": public.__module__, "_public": public}
    return type(public.__name__, kinds, names)


def _observed(state: Any) -> bool:
    return isinstance(getattr(state, "obs", None), Tensor)


def _inner(state: Any) -> Any:
    return state.inner if isinstance(state, TrackedState) else state
