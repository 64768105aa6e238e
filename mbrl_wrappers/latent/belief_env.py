"""A real environment seen through a filter: its observation is the belief of a latent model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from mbrl_wrappers.latent.belief_tracker import BeliefTracker, FilteringModel
from mbrl_wrappers.states import StateDict, require_keys

Array = NDArray[Any]

SENSORS = "sensors"
"""Key of an info: the raw sensor readings that the step led to."""

SENSORS_BEFORE = "sensors_before"
"""Key of an info: the raw sensor readings that the step began with."""


class BeliefObservation(gymnasium.Wrapper[Array, Any, Array, Any]):
    """Shows the features of a latent model's belief in place of the sensor readings of ``env``.

    The belief is that of all readings and actions since the episode began. Infos hold the raw readings under
    ``"sensors"``, and those before the step under ``"sensors_before"``, which is what a replay buffer needs to infer
    features anew.

    The model is shared and may be refitted at any time. A belief whose model has changed is inferred anew from the
    episode so far before the next reading is filtered; only the observation that the agent has in hand then is still
    one of the old model (:meth:`current` gives the new one).

    Args:
        env: the real environment, whose observations are the sensor readings.
        model: filters them.
        seed: of the draws of the filter until ``reset(seed=...)``.

    Attributes:
        interruptions: how many episodes under way were broken off by ``reset()``.

    Raises:
        TypeError: for a model that filters nothing.
        ValueError: if ``env`` has other spaces than the model was built for.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], model: FilteringModel[Any], *, seed: int | None = None) -> None:
        super().__init__(env)
        self.tracker = BeliefTracker(model, 1, seed=seed)
        check_sensors(env.observation_space, env.action_space, model)
        self.model = model
        self.observation_space = model.observation_space
        self.interruptions = 0
        self._under_way = False
        self._sensors: Array | None = None

    def for_evaluation(self, env: gymnasium.Env[Array, Any], *, seed: int | None = None) -> BeliefObservation:
        """The same model over another environment, with a belief of its own.

        Raises:
            ValueError: if ``env`` is the environment of this one.
        """
        if env.unwrapped is self.unwrapped:
            raise ValueError(
                "Evaluation in the environment that an agent trains in would end its episodes: make another."
            )
        return BeliefObservation(env, self.model, seed=seed)

    def current(self) -> Array:
        """The features ``(F,)`` of the present belief, under the weights that the model has now."""
        shown: Array = self.tracker.features()[0]
        return shown

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode with what its first reading tells."""
        self.interruptions += self._under_way
        sensors, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self.tracker.seed(seed)
        self.tracker.begin(np.ones(1, bool), np.asarray(sensors)[None])
        self._under_way = True
        self._sensors = np.array(sensors)
        return self.current(), {**info, SENSORS: self._sensors.copy()}

    def step(self, action: Any) -> tuple[Array, SupportsFloat, bool, bool, dict[str, Any]]:
        """Advance, and filter what the sensors read; at the end of an episode with its own belief too.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self._sensors is None:
            raise ResetNeeded("There is no belief yet: call reset() first.")
        sensors, reward, terminated, truncated, info = self.env.step(action)
        self.tracker.follow(np.asarray(action)[None], np.asarray(sensors)[None])
        self._under_way = not (terminated or truncated)
        before, self._sensors = self._sensors, np.array(sensors)
        shown = {**info, SENSORS_BEFORE: before, SENSORS: self._sensors.copy()}
        return self.current(), reward, terminated, truncated, shown

    def state_dict(self) -> StateDict:
        """The belief and what the sensors read last; the environment and the model have states of their own."""
        return {
            "tracker": self.tracker.state_dict(),
            "sensors": None if self._sensors is None else self._sensors.copy(),
            "interruptions": self.interruptions,
            "under_way": bool(self._under_way),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: if it is the state of something else; nothing is changed then.
        """
        require_keys(state, ("tracker", "sensors", "interruptions", "under_way"), "a BeliefObservation")
        self.tracker.load_state_dict(state["tracker"])
        self._sensors, self._under_way = state["sensors"], bool(state["under_way"])
        self.interruptions = int(state["interruptions"])


def check_sensors(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], model: Any) -> None:
    """Raise a ``ValueError`` unless an environment's spaces are those that ``model`` filters."""
    if observation_space != model.sensor_space:
        raise ValueError(
            f"The model filters the sensors {model.sensor_space}, and the environment shows {observation_space}: build "
            "the model for this environment, with the same wrappers."
        )
    if action_space != model.action_space:
        raise ValueError(
            f"The model takes the actions {model.action_space}, and the environment {action_space}: build the model "
            "for this environment."
        )
