"""Wrappers that hide the state of a task, and the baseline that remembers a few observations.

* :class:`MaskedObservation` shows some entries of the observation only.
* :class:`NoisyObservation` adds Gaussian noise to it.
* :class:`StackedObservation` shows the newest observations and the actions between them.

The reward and the end of an episode stay those of the task, whose state they follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from mbrl_wrappers.checks import at_least, within
from mbrl_wrappers.spaces import ActionCodec, check_observation_space

Array = NDArray[Any]


class MaskedObservation(gymnasium.ObservationWrapper[Array, Any, Array], RecordConstructorArgs):
    """Shows the entries ``keep`` of the observation, in this order, and leaves the others out.

    Args:
        env: an environment whose observation is a one-dimensional float Box.
        keep: indices of the entries that are shown, each once.

    Raises:
        TypeError: the observation space is not a one-dimensional float Box.
        ValueError: an index is repeated or out of range, or nothing is kept.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], keep: Sequence[int]) -> None:
        RecordConstructorArgs.__init__(self, keep=keep)
        gymnasium.ObservationWrapper.__init__(self, env)
        inner = check_observation_space(env.observation_space)
        size = inner.shape[0]
        self.keep = [int(index) for index in keep]
        if not self.keep:
            raise ValueError("keep is empty: a task whose observation is masked altogether tells nothing of its state.")
        if len(set(self.keep)) != len(self.keep) or not all(0 <= index < size for index in self.keep):
            raise ValueError(
                f"keep={tuple(keep)} must name entries of the observation, each once, from 0 to {size - 1}."
            )
        self.observation_space = spaces.Box(inner.low[self.keep], inner.high[self.keep], dtype=inner.dtype.type)

    def observation(self, observation: Array) -> Array:
        """``(O,)`` to ``(number of kept entries,)``."""
        return np.asarray(observation)[self.keep]


class NoisyObservation(gymnasium.Wrapper[Array, Any, Array, Any], RecordConstructorArgs):
    """Adds independent Gaussian noise to each observation, also to the first one of an episode.

    The noise has a stream of its own that ``reset(seed=...)`` seeds, so it leaves the draws of the task as they are.

    Args:
        env: an environment whose observation is a one-dimensional float Box.
        std: standard deviation of the noise, in units of the observation: one number, or one for each entry.
        seed: of the noise until ``reset`` seeds it; fresh by default.

    Raises:
        TypeError: the observation space is not a one-dimensional float Box.
        ValueError: a standard deviation is negative, or there are not as many as entries.
    """

    def __init__(
        self, env: gymnasium.Env[Array, Any], std: float | Sequence[float], *, seed: int | None = None
    ) -> None:
        RecordConstructorArgs.__init__(self, std=std, seed=seed)
        gymnasium.Wrapper.__init__(self, env)
        inner = check_observation_space(env.observation_space)
        size = inner.shape[0]
        given = [std] * size if np.ndim(std) == 0 else list(np.asarray(std).tolist())
        if len(given) != size:
            raise ValueError(f"std must be one number, or one for each of the {size} entries; got {std!r}.")
        self.std: NDArray[np.float64] = np.array([within("std", value, 0) for value in given])
        self._noise = np.random.default_rng(seed)
        unbounded = np.full(size, np.inf)
        low, high = (
            np.where(self.std > 0, sign * unbounded, edge) for sign, edge in ((-1, inner.low), (1, inner.high))
        )
        kind = inner.dtype.type
        self.observation_space = spaces.Box(low.astype(kind), high.astype(kind), dtype=kind)

    def _noisy(self, observation: Array) -> Array:
        exact = np.asarray(observation)
        return (exact + self.std * self._noise.standard_normal(len(self.std))).astype(exact.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode; a ``seed`` fixes the noise too."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._noise = np.random.default_rng([seed, 1])  # another stream than that of the task
        return self._noisy(observation), info

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance; the task goes on from its true state."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._noisy(observation), reward, terminated, truncated, info


class StackedObservation(gymnasium.Wrapper[Array, Any, Array, Any], RecordConstructorArgs):
    """Shows the newest ``steps`` observations, oldest first, and then the actions between them.

    The memory of fixed length that a learned filter has to beat. Actions are model actions (scaled to [-1, 1], or
    one-hot). At the beginning of an episode the first observation stands for those before it, and zeros for the
    actions.

    Args:
        env: an environment whose observation is a one-dimensional float Box.
        steps: observations shown, at least 1.
        actions: whether to show the actions.

    Raises:
        TypeError: the observation space is not a one-dimensional float Box, or actions are neither Box nor Discrete.
        ValueError: ``steps`` is below 1.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], steps: int = 3, *, actions: bool = True) -> None:
        RecordConstructorArgs.__init__(self, steps=steps, actions=actions)
        gymnasium.Wrapper.__init__(self, env)
        inner = check_observation_space(env.observation_space)
        self.steps, self.actions = at_least("steps", steps), actions
        self._codec = ActionCodec(env.action_space)
        self._kind = inner.dtype.type
        low, high = (np.concatenate([edge] * steps) for edge in (inner.low, inner.high))
        if actions and steps > 1:
            a_low, a_high = (edge.numpy() for edge in self._codec.bounds)
            low = np.concatenate([low, *[np.minimum(a_low, 0)] * (steps - 1)])
            high = np.concatenate([high, *[np.maximum(a_high, 0)] * (steps - 1)])
        self.observation_space = spaces.Box(low.astype(self._kind), high.astype(self._kind), dtype=self._kind)
        self._seen: deque[Array] = deque(maxlen=steps)
        self._taken: deque[Array] = deque(maxlen=steps - 1)

    def _stacked(self) -> Array:
        parts = [*self._seen, *(self._taken if self.actions else ())]
        return np.concatenate(parts).astype(self._kind)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode with nothing remembered."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._seen.extend([np.array(observation)] * self.steps)
        self._taken.extend([np.zeros(self._codec.size, self._kind)] * (self.steps - 1))
        return self._stacked(), info

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance; the oldest observation is forgotten."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._seen.append(np.array(observation))
        self._taken.append(self._codec.from_env(np.asarray(action)[None])[0].numpy())
        return self._stacked(), reward, terminated, truncated, info
